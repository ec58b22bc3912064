"""`rst data show`: the pixels are the model's, the positives those of its own matching."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_detector import Positives, oracle
from PIL import Image
from torchvision.ops import box_iou

from rst.cli.data_show import HEADER, as_seen, draw_batch
from rst.cli.main import main
from rst.data import DetectionData
from rst.data.samples import shapes
from rst.detectors import BackboneSettings, atss, faster_rcnn, paa, solov2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("show") / "shapes"
    shapes.prepare(made, train=9, val=4, side=96, seed=3)
    return made


@pytest.fixture(scope="module")
def model(folder: Path):
    return oracle(6, str(folder / "annotations/val.json"), str(folder / "val"), side=96).train()


def batch_of(folder: Path, **options):
    files = (folder / "annotations/train.json", folder / "train", folder / "annotations/val.json", folder / "val")
    data = DetectionData(*files, images_per_batch=3, short_sides=[80, 96], max_side=128, workers=0, **options)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def test_pixels_and_positives_are_what_the_model_says(folder, model):
    images, targets = batch_of(folder, masks=True)
    pixels, heads = as_seen(model, images, targets)
    torch.testing.assert_close(pixels, model.as_seen(images))
    assert list(heads) == ["mask head"], "by the title of the head"
    for found, own in zip(heads["mask head"], model.positives(images, targets)["mask"], strict=True):
        torch.testing.assert_close(found, own)


def test_a_model_without_anchors_is_shown_with_boxes_and_masks_alone(folder):
    images, targets = batch_of(folder)
    pixels, heads = as_seen(torch.nn.Identity(), images, targets)
    assert heads == {}
    assert pixels.shape == (3, 3, max(i.shape[1] for i in images), max(i.shape[2] for i in images))
    for place, image in zip(pixels, images, strict=True):
        torch.testing.assert_close(place[:, : image.shape[1], : image.shape[2]], image)
    sheet, lines = draw_batch(pixels, targets, heads, ["a", "b", "c", "d", "e", "f"])
    assert sheet.width >= pixels.shape[-1]
    assert all(re.fullmatch(r"image \d+: \d+x\d+ pixels, \d+ objects?", line) for line in lines)


def test_boxes_masks_and_anchors_are_drawn_where_they_are():
    images = torch.zeros(2, 3, 400, 400)
    mask = torch.zeros(1, 300, 400, dtype=torch.uint8)
    mask[0, 100:150, 200:260] = 1
    boxes = torch.tensor([[200.0, 100.0, 260.0, 150.0]])
    target = {"image_id": 5, "size": (300, 400), "boxes": boxes, "labels": torch.tensor([1]), "masks": mask}
    empty = {"image_id": 6, "size": (300, 400), "boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)}
    first = torch.tensor([0])
    anchors = Positives(first, torch.tensor([[210.0, 90.0, 270.0, 140.0]]), first, torch.tensor([3]))
    sheet, lines = draw_batch(images, [target, empty], {"RPN": anchors}, ["cat", "dog"])
    assert lines == [
        "image 5: 400x300 pixels, 1 object; RPN: 1 positive (P3 1)",
        "image 6: 400x300 pixels, 0 objects; RPN: 0 positives",
    ]
    assert sheet.size == (800, 2 * (400 + HEADER))
    pixels = np.asarray(sheet)[HEADER:]
    left, right = pixels[:, :400], pixels[:, 400:]
    assert left[120, 230].max() > 80, "mask"
    assert left[120, 199].max() == 0
    assert left[120, 200].max() == left[150, 230].max() == 255, "box"
    assert right[120, 230].max() == 0, "no mask on the right"
    assert right[90, 230].max() == right[120, 270].max() == 255, "anchor"
    assert pixels[400 + HEADER : 800, :].max() == 0, "the second image has neither"
    alone, lines = draw_batch(images[:1], [target], {}, ["cat", "dog"])
    assert alone.size == (400, 400 + HEADER)
    assert lines == ["image 5: 400x300 pixels, 1 object"]


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    config = folder / "oracle.yaml"
    config.write_text("model: {class_path: oracle_detector.oracle}\n")
    return [
        *("data", "show", "--config", str(config), "--output", str(output)),
        *(f"--data.{split}_annotations={folder}/annotations/{split}.json" for split in ("train", "val")),
        *(f"--data.{split}_images={folder}/{split}" for split in ("train", "val")),
        *("--model.num_classes", "6", "--model.side", "96"),
        *("--model.annotations", str(folder / "annotations/val.json"), "--model.images", str(folder / "val")),
        *("--data.short_sides", "[96]", "--data.max_side", "128", "--data.images_per_batch", "2"),
        *("--data.masks", "true"),
        *more,
    ]


@pytest.mark.parametrize("more", [(), ("--split", "val"), ("--epoch", "2")])
def test_the_command_writes_an_image_per_batch(folder, tmp_path, capsys, more):
    assert main(arguments(folder, tmp_path / "out", "--batches", "2", *more)) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["batch_000.png", "batch_001.png"]
    printed = capsys.readouterr().out
    assert len(re.findall(r"  image \d+: \d+x\d+ pixels, \d+ objects?; mask head: \d+ positives?", printed)) == 4
    with Image.open(files[0]) as image:
        assert image.size[0] >= 2 * 96
    if "--split" in more:
        assert re.findall(r"image (\d+):", printed) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batches", "0"), "--batches must be at least 1, got 0"),
        (("--epoch", "-1"), "--epoch must be at least 0, got -1"),
        (("--data.short_side", "[5]"), "unknown key data.short_side (did you mean data.short_sides?)"),
        (("--data.train_annotations", "nowhere.json"), "nowhere.json: no such file"),
    ],
)
def test_mistakes_have_exit_code_2_and_one_line(folder, tmp_path, capsys, more, message):
    assert main(arguments(folder, tmp_path / "out", *more)) == 2
    complained = capsys.readouterr().err
    assert message in complained
    assert complained.count("\n") == 1


@pytest.mark.parametrize("make", [faster_rcnn, atss, paa, solov2])
def test_the_detectors_of_the_project_show_their_positives(folder, make):
    torch.manual_seed(0)
    detector = make(6, backbone=BackboneSettings("mobilenet_v2", fpn_channels=64)).train()
    images, targets = batch_of(folder, masks="segm" in detector.iou_types)
    pixels, heads = as_seen(detector, images, targets)
    for place, image in zip(pixels, images, strict=True):
        torch.testing.assert_close(place[:, : image.shape[1], : image.shape[2]], image, atol=1e-6, rtol=0)
    (found,) = heads.values()
    assert len(found.boxes) >= 3
    for k, target in enumerate(targets):
        own = found.image == k
        assert set(found.truth[own].tolist()) <= set(range(len(target["boxes"])))
        if own.any():
            iou = box_iou(target["boxes"], found.boxes[own])[found.truth[own], torch.arange(int(own.sum()))]
            assert (iou > 0).all()
