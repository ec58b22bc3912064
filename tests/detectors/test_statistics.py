"""The statistics of a training step besides its losses: rank correlation, negatives per positive, task balance."""

import math
from typing import Any

import pytest
import torch
from detector_cases import Batch, Case
from head_outputs import boxes_of_height, head_outputs
from scipy import stats
from torch import Tensor
from torch._subclasses import FakeTensorMode

from rst.detectors import BackboneSettings, Boxes, HeadOutputs, RankSort, TwoStageDetector
from rst.detectors.geometry.boxes import paired_iou
from rst.detectors.losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from rst.detectors.losses.statistics import head_statistics, spearman

NAMES = {"spearman", "positives", "negatives", "negatives_per_positive"}


def outputs(logits: Tensor, positives: list[tuple[int, int]], heights: list[float], ignore: Tensor | None = None):
    """Predictions (0, 0, 10, 10) against truths (0, 0, 10, height): the IoU is height / 10."""
    return head_outputs(logits, positives, boxes_of_height(*heights), ignore=None if ignore is None else [ignore])


def build(loss: str = "rank_sort", **options: Any) -> TwoStageDetector:
    model = Case("faster_rcnn", {"loss": loss}).build(backbone=BackboneSettings("resnet18", fpn_channels=16), **options)
    assert isinstance(model, TwoStageDetector)
    return model


def recorded(model: TwoStageDetector) -> list[HeadOutputs]:
    """The outputs of the box head in each later training step."""
    given: list[HeadOutputs] = []
    compute = model.box_heads[0].outputs
    model.box_heads[0].outputs = lambda *arguments: given.append(compute(*arguments)) or given[-1]
    return given


@pytest.mark.parametrize("length", [3, 4, 17, 300])
@pytest.mark.parametrize("levels", [2, 5, 10**6], ids=["two values", "many ties", "few ties"])
def test_correlation_is_that_of_scipy(length: int, levels: int):
    generator = torch.Generator().manual_seed(length)
    first, second = torch.randint(levels, (2, length), generator=generator).float()
    first[:2], second[:2] = torch.tensor([0.0, 1]), torch.tensor([1.0, 0])  # neither is constant
    expected = stats.spearmanr(first.numpy(), second.numpy()).statistic
    assert spearman(first, second).item() == pytest.approx(expected, abs=1e-12)
    assert spearman(first, 2 * first + 1).item() == pytest.approx(1.0)
    assert spearman(first, -first).item() == pytest.approx(-1.0)


def test_correlation_survives_infinities_and_needs_three_pairs_that_differ():
    values = torch.tensor([-math.inf, 0.0, math.inf])
    assert spearman(values, torch.tensor([1.0, 2, 3])).item() == pytest.approx(1.0)
    assert spearman(values, torch.ones(3)).isnan()
    for length in range(3):
        assert spearman(values[:length], values[:length]).isnan()


def test_statistics_wait_for_no_device_and_compile():
    scores, quality = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    with FakeTensorMode() as mode:  # it raises where a value is asked for
        head_statistics(*(mode.from_tensor(value) for value in (torch.tensor(5), scores, quality)))
    compiled: Any = torch.compile(head_statistics, backend="eager", fullgraph=True)
    for length in (9, 4, 0):
        given = torch.tensor(5), scores[:length], quality[:length]
        torch.testing.assert_close(compiled(*given), head_statistics(*given), equal_nan=True)


def test_rank_sort_worked_by_hand():
    logits = torch.tensor([[1.0, 9, 9], [3, 9, 9], [9, 2, 9], [9, 9, 9]], requires_grad=True)
    loss = RankSort(weight=0.2)(outputs(logits, [(0, 0), (1, 0), (2, 1)], [2, 8, 9]))
    found = {name: value.item() for name, value in loss.statistics.items()}
    assert found.keys() == NAMES | {"balance"}
    assert (found["positives"], found["negatives"], found["negatives_per_positive"]) == (3, 9, 3)
    assert found["spearman"] == pytest.approx(0.5)  # ranks 1, 3, 2 against 1, 2, 3
    top = torch.tensor(9.0).sigmoid()  # the same weight for all three
    giou_loss = (top * torch.tensor([0.8, 0.2, 0.1])).sum() / (3 * top)
    terms = {name: term / 0.2 for name, term in loss.terms.items()}
    assert found["balance"] == pytest.approx(((terms["rank"] + terms["sort"]) / giou_loss).item(), rel=1e-6)
    assert terms["bbox"].item() == pytest.approx(found["balance"] * giou_loss.item(), rel=1e-6)


def test_what_is_ignored_is_no_negative():
    logits = torch.zeros(6, 1, requires_grad=True)
    ignore = torch.tensor([0, 0, 1, 1, 1, 0]).bool()[:, None]
    for loss in (RankSort(), BinaryCrossEntropy()):
        found = loss(outputs(logits, [(0, 0), (1, 0)], [5, 5], ignore)).statistics
        assert (found["positives"].item(), found["negatives"].item()) == (2, 1)
        assert found["negatives_per_positive"].item() == 0.5


def test_a_background_is_no_negative_and_lowers_scores():
    # The logits of their classes (3, 2, 1) would put the positives in the wrong order.
    logits = torch.tensor([[3.0, 0, 9], [2, 0, 5], [0, 1, -3], [0, 0, 9]], requires_grad=True)
    found = SoftmaxCrossEntropy()(outputs(logits, [(0, 0), (1, 0), (2, 1)], [2, 5, 9])).statistics
    assert found.keys() == NAMES
    assert (found["positives"].item(), found["negatives"].item()) == (3, 5)  # of 4 candidates x 2 classes
    assert found["spearman"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [RankSort(), BinaryCrossEntropy(), SoftmaxCrossEntropy()])
def test_without_positives_there_are_counts_and_no_other_value(loss: Any):
    found = loss(outputs(torch.zeros(3, 2, requires_grad=True), [], [])).statistics
    counts = {name: found.pop(name).item() for name in ("positives", "negatives")}
    assert counts == {"positives": 0, "negatives": 3 if loss.classifier.background else 6}
    assert all(value.isnan() for value in found.values())


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_a_detector_keeps_the_statistics_of_its_last_training_step(batch: Batch, loss: str):
    model = build(loss)
    assert model.statistics == {}
    given = recorded(model)
    terms = model(*batch)
    found = model.statistics
    names = NAMES | ({"balance"} if loss == "rank_sort" else set())
    assert found.keys() == {f"{name}_{head}" for name in names for head in ("rpn", "roi")}
    for value in found.values():
        assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float64, False)
    assert not found.keys() & terms.keys()

    head, boxes = given[0].classification, given[0].tasks["bbox"]
    assert isinstance(boxes, Boxes)
    label = (head.index % head.candidate_logits.shape[1])[:, None]
    scores = model.box_heads[0].loss.classifier.scores(head.candidate_logits.double()).gather(1, label)
    iou = paired_iou(boxes.predicted.detach(), boxes.truths)
    expected = stats.spearmanr(scores.squeeze(1).numpy(), iou.numpy()).statistic
    assert found["spearman_roi"].item() == pytest.approx(expected, abs=1e-9)
    assert found["positives_roi"].item() == len(iou) >= 3
    assert found["negatives_roi"].item() == 3 * len(head.logits[0]) - len(iou), "three classes"
    if loss == "cross_entropy":
        assert found["positives_rpn"] + found["negatives_rpn"] == 2 * 256, "sampled of two images"
    model.eval()(batch[0])
    assert model.statistics == found, "detecting leaves them"


def test_without_sorting_error_the_ranking_error_is_the_whole_classification_loss(batch: Batch):
    full, ranking = build()(*batch), build(sorting_error=False)(*batch)
    assert ranking.keys() == {name for name in full if not name.endswith("_sort")}
    for head in ("rpn", "roi"):
        rank = ranking[f"loss_{head}_rank"]
        assert rank.item() == full[f"loss_{head}_rank"].item() > 0
        torch.testing.assert_close(ranking[f"loss_{head}_bbox"], rank, rtol=1e-6, atol=0)
        assert full[f"loss_{head}_sort"] > 0


def test_without_sorting_error_positives_are_not_moved_against_each_other():
    logits = torch.tensor([[1.0], [0.0]], requires_grad=True)
    terms = RankSort(sorting_error=False)(outputs(logits, [(0, 0), (1, 0)], [3, 8])).terms
    sum(terms.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    "switch",
    [{"sorting_error": False}, {"delta": 0.5}, {"score_weighting": True}, {"task_balance": 2.0}],
    ids=lambda switch: next(iter(switch)),
)
def test_cross_entropy_refuses_the_switches_of_ranking(switch: dict[str, Any]):
    ((name, value),) = switch.items()
    with pytest.raises(ValueError, match=rf"{name}={value} does not go with loss='cross_entropy'"):
        build("cross_entropy", **switch)


def test_the_switches_of_table_9_reach_both_heads(batch: Batch):
    plain = build(score_weighting=False, task_balance=2.0)
    terms = plain(*batch)
    assert plain.statistics["balance_rpn"] == plain.statistics["balance_roi"] == 2
    assert terms["loss_roi_bbox"] != terms["loss_roi_rank"] + terms["loss_roi_sort"]
    magnitude = build(task_balance="magnitude")
    given = recorded(magnitude)
    terms = magnitude(*batch)
    logits, deltas = given[0].classification.logits[0], given[0].tasks["bbox"].output
    ranking = torch.autograd.grad(terms["loss_roi_rank"] + terms["loss_roi_sort"], logits, retain_graph=True)[0]
    boxes = torch.autograd.grad(terms["loss_roi_bbox"], deltas)[0]
    torch.testing.assert_close(boxes.abs().sum(), ranking.abs().sum())
