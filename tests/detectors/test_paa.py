"""RS-PAA and the other rows of Table 2: what is known of a training step, its recipes, its switches, its refusals."""

from typing import Any

import pytest
import torch
from detector_cases import BACKBONE, PAA_ROWS, Batch, Case, random_images, step, target

from rst.detectors import DenseDetector, DetectionSettings, Predictions, paa
from rst.detectors.assignment.probabilistic import ProbabilisticAssigner
from rst.detectors.dense_recipes import DenseRecipe, paa_recipe
from rst.detectors.detections.voting import ScoreVoting
from rst.detectors.losses.localisation import Localisation
from rst.detectors.losses.ranking import Alrp
from rst.detectors.switches import Switches

EVERY_ROW = pytest.mark.parametrize("row", PAA_ROWS, ids=lambda row: " ".join(map(str, row.values())))


def build(num_classes: int = 3, **options: Any) -> DenseDetector:
    model = Case("paa", {"loss": "rank_sort"}).build(num_classes, **options)
    assert isinstance(model, DenseDetector)
    return model


def test_starting_values(batch: Batch):
    losses = build(num_classes=80)(*batch)
    assert list(losses) == ["loss_rank", "loss_sort", "loss_bbox"]
    assert 0.97 <= losses["loss_rank"].item() < 1
    assert losses["loss_sort"].item() == pytest.approx(0.1, abs=0.06)
    torch.testing.assert_close(losses["loss_bbox"], losses["loss_rank"] + losses["loss_sort"], rtol=1e-6, atol=0)


@EVERY_ROW
def test_a_step_of_every_row_and_its_recipe(batch: Batch, row: dict[str, Any]):
    model = build(**row)
    values = step(model, *batch)
    terms = ["rank", "sort", "bbox"] if row["loss"] == "rank_sort" else ["cls", "bbox"]
    assert list(values) == [f"loss_{term}" for term in terms + ["iou"] * ("iou_head" in row)]
    ranks = row["loss"] not in ("focal", "qfl")
    assert model.anchors.per_cell == (3 if ranks else 1)
    assert [
        2 * float(cell[0, 2]) / stride for cell, stride in zip(model.anchors.cells, model.anchors.strides, strict=True)
    ] == ([4.0 if ranks else 8.0] * 5)
    assert isinstance(model.assigner, ProbabilisticAssigner)
    key = (row["loss"], "iou_head" in row)
    weighting, balance, error = {
        ("rank_sort", False): ("score", "value", 1.0),
        ("average_precision", False): ("score", 1.0, 1.0),
        ("average_precision", True): ("iou", 1.0, 1.0),
        ("alrp", False): ("", "", 1.0),
        ("focal", False): ("uniform", 2.0, 2.0),
        ("focal", True): ("iou", 1.3, 1.3),
        ("qfl", False): ("score", 2.0, 2.0),
    }[key]
    assert model.assigner.box_weight == error
    if isinstance(model.loss, Alrp):
        assert model.loss.delta == 1
    else:
        assert model.loss.localisation == Localisation(weighting, balance, shared=not ranks)
        assert not ranks or model.loss.delta == 0.5
    assert (model.score_scaling is not None) == ranks
    assert model.refine == ScoreVoting()
    assert model.detections.nms_iou == 0.6


def test_the_second_setting_of_quality_focal_loss():
    model = build(loss="qfl", iou_weighting=True, task_balance=1.3)
    assert model.loss.localisation == Localisation("iou", 1.3, shared=True)
    assert model.assigner.box_weight == 1.3


def test_switches_reach_the_recipe():
    def recipe(loss: str = "rank_sort", **switches: Any) -> DenseRecipe:
        return paa_recipe(loss, Switches(**switches))

    assert recipe(task_balance=2.0, score_weighting=False).loss.localisation == Localisation("uniform", 2.0)
    assert recipe(task_balance=2.0).box_weight == 2
    assert recipe(task_balance="magnitude").box_weight == 1
    assert recipe(iou_weighting=True).loss.localisation == Localisation("iou", "value")
    assert recipe("average_precision", delta=1.0, task_balance=3.0).loss.delta == 1
    assert recipe("focal", iou_head=True, task_balance=2.0).loss.localisation.balance == 2
    assert not recipe(score_scaling=False).score_scaling


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss='hinge' is not one of rank_sort, average_precision, alrp, focal, qfl"),
        ({"iou_head": True}, "iou_head=True does not go with loss='rank_sort', whose scores express the quality"),
        ({"loss": "qfl", "iou_head": True}, "iou_head=True does not go with loss='qfl'"),
        ({"loss": "alrp", "iou_weighting": True}, "iou_weighting=True does not go with loss='alrp'"),
        (
            {"score_weighting": True, "iou_weighting": True},
            "^score_weighting=True does not go with iou_weighting=True, which weights the boxes itself$",
        ),
        (
            {"loss": "focal", "iou_head": True, "score_weighting": False},
            "^score_weighting=False does not go with iou_head=True, which weights the boxes itself$",
        ),
        ({"loss": "focal", "delta": 0.5}, "delta=0.5 does not go with loss='focal', which does not rank"),
        ({"task_balance": "values"}, "task_balance='values' is neither"),
        ({"candidates_per_level": 0}, "candidates_per_level=0 is not at least 1"),
        ({"pre_nms": 0}, "pre_nms=0 is not at least 1"),
        ({"octave_base_scale": 0.0}, r"octave_base_scale=0.0 is not above 0"),
        ({"head_channels": 80}, "head_channels=80 is not a multiple of 32"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        paa(**({"backbone": BACKBONE} | options))


def test_the_auxiliary_head_learns_the_iou_of_the_boxes_and_weights_them_with_it(batch: Batch):
    model, seen = build(loss="focal", iou_head=True), []
    loss = model.loss.forward
    model.loss.forward = lambda outputs: seen.append(outputs) or loss(outputs)  # type: ignore[method-assign]
    losses = model(*batch)
    (outputs,) = seen
    boxes, auxiliary = outputs.tasks["bbox"], outputs.tasks["iou"]
    assert torch.equal(auxiliary.truths, boxes.quality)
    expected = 1.3 * (boxes.quality * boxes.errors).sum() / boxes.quality.sum()
    torch.testing.assert_close(losses["loss_bbox"], expected)
    assert "iou.weight" in dict(model.head.named_parameters())


def test_a_score_is_the_geometric_mean_with_the_predicted_iou_before_the_threshold(batch: Batch):
    model = build(loss="focal", iou_head=True, score_voting=False, detections=DetectionSettings(0.0, 1.0, 10_000))
    images = model.transform(batch[0])
    with torch.no_grad():
        outputs = model.head(list(model.backbone(images.pixels).values()))
        found = model.eval()(batch[0])
        every = torch.cat(
            [
                (level[0].view(1, 3, -1).sigmoid() * iou[0].view(1, 1, -1).sigmoid()).sqrt().flatten()
                for level, iou in zip(outputs.logits, outputs.auxiliary, strict=True)
            ]
        ).sort(descending=True)[0]
        torch.testing.assert_close(found[0]["scores"][:5], every[:5])
        threshold = float(every[20])
        model.detections = DetectionSettings(threshold, 1.0, 10_000)
        assert (model(batch[0])[0]["scores"] > threshold).all()


def test_voting_changes_boxes_alone(batch: Batch):
    found = [
        build(score_voting=voting, detections=DetectionSettings(0.0, 0.6)).eval()(batch[0]) for voting in (False, True)
    ]
    for plain, voted in zip(*found, strict=True):
        assert torch.equal(plain["scores"], voted["scores"])
        assert torch.equal(plain["labels"], voted["labels"])
        assert not torch.allclose(plain["boxes"], voted["boxes"], atol=0.1)


def test_positives_follow_the_predictions(batch: Batch):
    """A positive whose class becomes unlikely is one no longer."""
    model, seen = build(), []
    match = model.assigner.match
    model.assigner.match = lambda *given: seen.append(given) or match(*given)  # type: ignore[method-assign]
    model(*batch)
    ((scene, (logits, deltas)),) = seen
    before = match(scene, Predictions(logits, deltas))
    chosen = (before[0] == 0).nonzero()[:1].flatten()
    place = scene.layout.place(torch.zeros_like(chosen), chosen, 3)[0, batch[1][0]["labels"][0]]
    flat = torch.cat([level.detach().flatten() for level in logits])
    flat[place] = -30.0
    lowered = [
        part.view_as(level) for part, level in zip(flat.split([level.numel() for level in logits]), logits, strict=True)
    ]
    assert match(scene, Predictions(lowered, deltas))[0, chosen] != 0


def test_one_image_of_one_cell_on_the_coarsest_level():
    model = build(detections=DetectionSettings(0.0))
    step(model, random_images((32, 32)), [target([4.0, 4, 20, 20])])
    assert len(model.eval()(random_images((32, 32)))[0]["boxes"]) > 0


def test_nan_everywhere_is_a_loss_of_nan():
    images = [torch.full((3, 64, 64), torch.nan)]
    assert sum(build()(images, [target([8.0, 8, 40, 40])]).values()).isnan()
