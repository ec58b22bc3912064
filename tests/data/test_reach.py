"""Which objects the anchors of a detector reach: against its real anchors and transforms, and what would serve."""

from typing import Any

import numpy as np
import pytest
import torch
from third_party_detector import PointDetector
from torchvision import tv_tensors

from rst.data.check.reach import measure_reach
from rst.data.check.reach_text import describe_reach, warn_of_reach
from rst.data.check.remedies import FEW, GOOD, LEAST
from rst.data.check.seen import Objects, draw, seen_objects
from rst.data.transforms import training_transforms
from rst.detectors import AnchorHead, Assigner, BackboneSettings, TwoStageDetector, atss, faster_rcnn, paa
from rst.detectors.geometry.boxes import pairwise_iou

BACKBONE = BackboneSettings("resnet18", fpn_channels=32)
TWO_SIZES = training_transforms((96, 160), 200)


def objects_of(sides: dict[str, tuple[float, float]], each: int = 30, image: tuple[int, int] = (200, 300)) -> Objects:
    """Classes by name whose objects are about so many pixels wide and high, one in an image of that size."""
    random = np.random.default_rng(0)
    names = list(sides)
    labels = np.repeat(np.arange(len(names)), each)
    size = np.array([sides[names[label]] for label in labels]) * random.uniform(0.9, 1.1, (len(labels), 2))
    corner = random.uniform(0, 1, size.shape) * np.maximum(np.array(image[::-1]) - size, 0)
    boxes = np.concatenate([corner, np.minimum(corner + size, image[::-1])], 1)
    sizes = np.tile(np.array([image]), (len(labels), 1))
    return Objects(sizes, np.arange(len(labels)), boxes.astype(np.float32), labels, names)


def detector(**options: Any):
    return faster_rcnn(3, backbone=BACKBONE, head_channels=8, **options)


def transformed(objects: Objects, transforms: Any) -> tuple[torch.Tensor, list[torch.Size], list[int]]:
    """By the transforms themselves: boxes, the sizes of their images, and labels."""
    boxes, sizes, labels = [], [], []
    for (height, width), box, label in zip(objects.sizes.tolist(), objects.boxes, objects.labels, strict=True):
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(box)[None],
                format="XYXY",
                canvas_size=(height, width),  # type: ignore[call-overload]
            ),
            "labels": torch.tensor([label]),
        }
        image, target = transforms(tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)), target)
        boxes += list(target["boxes"].as_subclass(torch.Tensor))
        sizes += [image.shape[-2:]] * len(target["boxes"])
        labels += target["labels"].tolist()
    return torch.stack(boxes), sizes, labels


@pytest.mark.parametrize("options", [{}, {"keep_ratio": False}, {"min_box_side": 6.0}])
def test_objects_are_seen_as_the_transforms_make_them(options):
    objects = objects_of({"a": (3.0, 30.0), "b": (90.0, 41.0), "c": (7.0, 7.0)}, image=(97, 211))
    for side in (60, 131):
        transforms = training_transforms((side,), 180, flip=0.0, **options)
        seen = seen_objects(objects, transforms)
        boxes, sizes, labels = transformed(objects, transforms)
        torch.testing.assert_close(seen.boxes, boxes, rtol=1e-5, atol=1e-3)
        assert [tuple(row) for row in seen.sizes.tolist()] == [tuple(size) for size in sizes]
        assert seen.labels.tolist() == labels
    both = seen_objects(objects, training_transforms((60, 131), 180, **options))
    assert len(both.labels) >= len(seen.labels) * 1.5, "each object at both sizes"


def test_shares_are_those_of_the_detectors_own_anchors_at_all_sizes():
    objects = objects_of({"speck": (6.0, 6.0), "huge": (290.0, 190.0), "usual": (50.0, 60.0)}, each=40)
    model = detector(anchor_scale=6.0)
    found = measure_reach(model, TWO_SIZES, objects)
    assert found is not None
    best: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for side in (96, 160):
        boxes, sizes, labels = transformed(objects, training_transforms((side,), 200, flip=0.0))
        for box, (height, width), label in zip(boxes, sizes, labels, strict=True):
            padded = (-(-height // 32) * 32, -(-width // 32) * 32)
            scene = model.rpn.anchors.scene(model.backbone.pyramid.sizes(padded), [(height, width)], padded)
            best[label].append(float(pairwise_iou(box[None], scene.anchors).max()))
    head = found["heads"]["rpn"]
    assert (head["title"], head["by"], head["scale"]) == ("RPN", "iou", 6.0)
    assert (found["objects"], found["looked_at"], found["short_sides"]) == (120, 120, [96, 160])
    for entry in head["classes"]:
        overlaps = np.array(best[entry["label"]])
        assert (entry["name"], entry["objects"]) == (objects.class_names[entry["label"]], 40)
        for key, share in (
            ("iou_0.5", (overlaps >= GOOD).mean()),
            ("iou_0.3", (overlaps >= LEAST).mean()),
            ("none", (overlaps < LEAST).mean()),
        ):
            assert entry[key] == pytest.approx(share, abs=1e-4)
    shares = [entry["none"] for entry in head["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert head["none"] == pytest.approx(np.mean(shares), abs=1e-4)


def test_no_anchor_is_what_leaves_an_object_without_positives():
    objects = objects_of({"a": (16.0, 16.0), "b": (40.0, 40.0)}, image=(160, 160))
    transforms = training_transforms((160,), 160, flip=0.0)
    for model in (detector(), detector(loss="cross_entropy")):
        found = measure_reach(model, transforms, objects)
        assert found is not None
        missed = {entry["name"]: entry["none"] for entry in found["heads"]["rpn"]["classes"]}
        for label, name in enumerate(objects.class_names):
            own = [k for k in range(60) if objects.labels[k] == label]
            targets = [{"boxes": torch.tensor(objects.boxes[k : k + 1]), "labels": torch.zeros(1).long()} for k in own]
            with_some = model.positives([torch.zeros(3, 160, 160)] * 30, targets)["rpn"].image.unique()
            assert missed[name] == pytest.approx(1 - len(with_some) / 30, abs=1e-4)


@pytest.mark.parametrize(
    ("sides", "options", "key"),
    [
        ({"a": (12.0, 14.0), "b": (45.0, 40.0)}, {"anchor_scale": 16.0}, "model.anchor_scale"),
        ({"a": (180.0, 150.0)}, {"anchor_scale": 0.5}, "model.anchor_scale"),
        ({"a": (150.0, 14.0), "b": (45.0, 40.0)}, {}, "model.anchor_ratios"),
        ({"a": (3.0, 3.0), "b": (2.5, 195.0)}, {"anchor_scale": 0.5}, None),
    ],
)
def test_the_remedy_serves(sides, options, key):
    objects, transforms = objects_of(sides), training_transforms((200,), 300)
    found = measure_reach(detector(**options), transforms, objects)
    assert found is not None
    head = found["heads"]["rpn"]
    ((missed, advice),) = warn_of_reach(found)
    assert missed.startswith("in the RPN many objects have no anchor with an IoU of 0.3 or more: ")
    scale = options.get("anchor_scale", 8.0)
    assert advice.startswith(f"model.anchor_scale is {scale:g}")
    if key is None:
        assert head["remedy"] is None or head["remedy"]["none"] < 1
        return
    assert list(head["remedy"]["settings"]) == [key]
    value = head["remedy"]["settings"][key]
    again = measure_reach(detector(**{**options, key.removeprefix("model."): value}), transforms, objects)
    assert again is not None
    assert warn_of_reach(again) == []
    before = {entry["name"] for entry in head["classes"] if entry["none"] > FEW}
    left = np.mean([entry["none"] for entry in again["heads"]["rpn"]["classes"] if entry["name"] in before])
    assert head["remedy"]["none"] == pytest.approx(left, abs=2e-4)
    assert f"with --{key} " in advice


def test_larger_images_where_no_scale_serves():
    objects, transforms = objects_of({"a": (1.4, 1.4), "b": (60.0, 60.0)}), training_transforms((200,), 300)
    found = measure_reach(detector(), transforms, objects)
    assert found is not None
    settings = found["heads"]["rpn"]["remedy"]["settings"]
    assert set(settings) == {"data.short_sides", "data.max_side", "model.anchor_scale"}
    larger = training_transforms(settings["data.short_sides"], settings["data.max_side"])
    again = measure_reach(detector(anchor_scale=settings["model.anchor_scale"]), larger, objects)
    assert again is not None
    assert warn_of_reach(again) == []


def test_atss_is_judged_by_its_own_positives():
    objects, transforms = objects_of({"speck": (3.0, 3.0), "usual": (40.0, 40.0)}), training_transforms((200,), 300)
    model = atss(2, backbone=BACKBONE, head_channels=64)
    state = torch.random.get_rng_state()
    found = measure_reach(model, transforms, objects)
    assert torch.equal(state, torch.random.get_rng_state()), "the training's random numbers are left alone"
    assert found is not None
    head = found["heads"]["dense"]
    by_name = {entry["name"]: entry["none"] for entry in head["classes"]}
    assert head["by"] == "positives"
    assert by_name["usual"] == 0
    assert by_name["speck"] > FEW
    settings = head["remedy"]["settings"]
    ((missed, advice),) = warn_of_reach(found)
    assert missed == f"in the dense head many objects have no positives: speck {100 * by_name['speck']:.1f} %"
    assert f"with --data.short_sides [{settings['data.short_sides'][0]}] --data.max_side" in advice
    larger = training_transforms(settings["data.short_sides"], settings["data.max_side"])
    again = measure_reach(model, larger, objects)
    assert again is not None
    assert warn_of_reach(again) == []


def test_paa_is_judged_by_iou_and_its_network_does_not_run(monkeypatch):
    objects, transforms = objects_of({"speck": (3.0, 3.0), "usual": (40.0, 40.0)}), training_transforms((200,), 300)
    model = paa(2, backbone=BACKBONE, head_channels=64)
    monkeypatch.delattr(type(model.backbone), "forward")
    found = measure_reach(model, transforms, objects)
    assert found is not None
    head = found["heads"]["dense"]
    assert head["by"] == "iou"
    assert {entry["name"]: entry["missed"] for entry in head["classes"]} == {"speck": True, "usual": False}
    assert "model.octave_base_scale" in str(warn_of_reach(found))


def test_other_detectors_count_or_are_left_out():
    objects, transforms = objects_of({"a": (30.0, 30.0)}), training_transforms((200,), 300)

    class Counts(PointDetector):
        def anchor_heads(self):
            return {"point": AnchorHead(self.anchors, self.assigner, lambda maps: self.predict(maps))}

    found = measure_reach(Counts(1), transforms, objects)
    assert found is not None
    assert found["heads"]["point"]["by"] == "positives"
    assert found["heads"]["point"]["scale_key"] == ""
    assert describe_reach(found)[0].startswith("anchors    points at a scale of 4; objects of 30 images without")

    class Looks(Assigner):
        uses_predictions = True

        def match(self, scene, predictions):
            raise AssertionError("the network must not run for this")

    model = Counts(1)
    model.assigner = Looks()  # type: ignore[assignment]
    assert measure_reach(model, transforms, objects) is None
    assert measure_reach(torch.nn.Linear(1, 1), transforms, objects) is None
    assert measure_reach(detector(), transforms, objects_of({"a": (0.1, 0.1)})) is None, "nothing is left to learn"


def test_a_scale_whose_argument_is_unknown_is_named_as_such():
    class Anonymous(TwoStageDetector):
        def anchor_heads(self):
            return {"rpn": AnchorHead(*super().anchor_heads()["rpn"][:3])}

    model = detector(anchor_scale=24.0)
    model.__class__ = Anonymous
    found = measure_reach(model, training_transforms((200,), 300), objects_of({"a": (12.0, 12.0)}))
    assert found is not None
    ((_, advice),) = warn_of_reach(found)
    assert advice.startswith("the scale of the anchors is 24; with a scale of 3 0.0 % of these objects")


def test_a_few_objects_of_a_sample_are_no_reason_to_warn(monkeypatch):
    monkeypatch.setattr("rst.data.check.reach.QUICK_SAMPLE", 8)
    objects, transforms = objects_of({"speck": (2.0, 2.0)}, each=12), training_transforms((200,), 300)
    found = measure_reach(atss(1, backbone=BACKBONE, head_channels=64), transforms, objects)
    assert found is not None
    (speck,) = found["heads"]["dense"]["classes"]
    assert speck["objects"] == 8
    assert speck["none"] > FEW
    assert not speck["missed"]
    assert warn_of_reach(found) == []


def test_crops_and_expansions_are_those_of_the_transforms():
    objects = objects_of({"a": (30.0, 30.0)}, each=10)
    found = measure_reach(detector(), training_transforms((96,), 144, expand=4.0, iou_crop=True), objects)
    assert found is not None
    assert found["short_sides"] is None
    assert "10 objects cropped and expanded" in describe_reach(found)[0]


def test_a_thousand_classes_are_a_few_lines():
    names = {f"class{k}": (10.0 if k < 700 else 60.0, 12.0 if k < 700 else 60.0) for k in range(1203)}
    found = measure_reach(detector(anchor_scale=24.0), training_transforms((200,), 300), objects_of(names, each=2))
    assert found is not None
    lines = describe_reach(found)
    assert len(lines) == 9
    assert "1,198 more classes: none, at most 100.0 %" in lines[-1]
    ((missed, _),) = warn_of_reach(found)
    assert missed.endswith(" more classes")
    assert missed.count("100.0 %") == 3
    assert len(found["heads"]["rpn"]["classes"]) == 1203


def test_large_sets_are_drawn_evenly_from_their_classes():
    labels = np.repeat([0, 1, 2], [1000, 3, 50])
    rows = draw(labels, 43)
    assert np.bincount(labels[rows]).tolist() == [20, 3, 20]
    assert (np.diff(rows) > 0).all()
    assert (rows == draw(labels, 43)).all()
    assert np.bincount(labels[draw(labels, 200)]).tolist() == [147, 3, 50]
    assert (draw(labels, 1053) == np.arange(1053)).all()
    assert draw(labels, 1).size == 3, "at least one of each"
