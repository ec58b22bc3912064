"""The terms of each loss from numbers worked by hand, what happens at their edges, and what the contract refuses."""

from dataclasses import replace

import pytest
import torch
from head_outputs import CODER, SQUARE, boxes_of_height, head_outputs, overlapping_masks
from torch.nn import functional as F

from rst.detectors import Boxes, DetectionLoss, HeadOutputs, Masks, RankSort, head_losses
from rst.detectors.losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from rst.detectors.losses.pointwise import QualityFocal
from rst.detectors.losses.ranking import Alrp
from rst.detectors.losses.tasks import Auxiliary

LOSSES = pytest.mark.parametrize(
    "loss", [RankSort(), BinaryCrossEntropy(), SoftmaxCrossEntropy(), SoftmaxCrossEntropy(giou=10.0)]
)
TWO = [(0, 0), (1, 0)]


def test_rank_sort_worked_by_hand():
    # One positive at 0 against one negative at 0 (half a rank each), one far below; IoU 0.5, GIoU 0.5.
    logits = torch.tensor([[0.0, 0.0, -9.0]], requires_grad=True)
    terms = RankSort(weight=0.2)(head_outputs(logits, [(0, 0)], boxes_of_height(5))).terms
    assert list(terms) == ["rank", "sort", "bbox"]
    assert [t.item() for t in terms.values()] == pytest.approx([0.2 * 0.5, 0, 0.2 * 0.5])
    sum(terms.values(), torch.zeros(())).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.1, 0.1, 0.0]]))


@pytest.mark.parametrize("kind", ["boxes", "masks", "masks beside perfect boxes"])
def test_rank_sort_labels_are_the_quality_of_the_predictions(kind: str):
    # The better prediction has the lower logit: sorting must see 0.8 against 0.3 and push the two towards each other.
    logits = torch.tensor([[1.0], [0.0]], requires_grad=True)
    if kind == "boxes":
        given = head_outputs(logits, TWO, boxes_of_height(3, 8))
    else:
        truths, masks = (None if kind == "masks" else [SQUARE] * 2), overlapping_masks((3, 17), (4, 6))
        given = head_outputs(logits, TWO, truths, labelled_by="mask", mask=masks)
    terms = RankSort()(given).terms
    assert list(terms) == ["rank", "sort", *given.tasks]
    torch.testing.assert_close(given.quality, torch.tensor([0.3, 0.8]))
    other, own = (1 - given.quality).tolist()  # a Dice has 1e-5 in its denominator
    assert terms["rank"].item() == 0
    # positive 1: H = 0.5 for itself (1 - 0.8) and 1 for the other (1 - 0.3), over 1.5; its target is its own 0.2
    expected = ((0.5 * own + other) / 1.5 - own) / 2
    assert terms["sort"].item() == pytest.approx(expected)
    terms["sort"].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[expected], [-expected]]))


def test_a_positive_without_overlap_stays_a_positive():
    logits = torch.zeros(1, 2, requires_grad=True)
    terms = RankSort()(head_outputs(logits, [(0, 0)], [[50.0, 50, 60, 60]])).terms
    terms["rank"].backward()
    assert terms["rank"].item() == pytest.approx(0.5)
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0


def test_binary_cross_entropy_leaves_out_what_is_ignored():
    logits = torch.tensor([[1.0], [-2.0], [7.0]], requires_grad=True)
    ignore = [torch.tensor([[False], [False], [True]])]
    terms = BinaryCrossEntropy()(head_outputs(logits, [(0, 0)], [[0.5, 0, 10.5, 10]], ignore=ignore)).terms
    assert terms["cls"].item() == pytest.approx((F.softplus(torch.tensor([-1.0, -2.0])).sum() / 2).item())
    # dx of 0.5 stds is 5 / 10 px = 0.05 of the width; beyond beta = 1/9 the loss is linear; two candidates
    assert terms["bbox"].item() == pytest.approx((0.5 - 0.5 / 9) / 2, rel=1e-5)


def test_softmax_cross_entropy_has_its_background_last():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]], requires_grad=True)
    loss = SoftmaxCrossEntropy()
    terms = loss(head_outputs(logits, [(0, 1)], [[0.5, 0, 10.5, 10]])).terms
    log = logits.detach().log_softmax(1)
    assert terms["cls"].item() == pytest.approx(-(log[0, 1] + log[1, 2]).item() / 2)
    assert terms["bbox"].item() == pytest.approx(0.5 * 0.5**2 / 2, rel=1e-5)  # quadratic below beta = 1
    torch.testing.assert_close(loss.classifier.scores(logits), logits.softmax(1)[:, :2])


def test_giou_beside_cross_entropy():
    """Ten times 1 - GIoU of the decoded boxes over all candidates; cross-entropy as ever; L1 with a beta of 0."""
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0], [0.0, 1.0, 0.0]], requires_grad=True)
    given = head_outputs(logits, [(0, 1), (2, 0)], boxes_of_height(5, 8))  # GIoU 0.5 and 0.8
    plain, terms = SoftmaxCrossEntropy()(given).terms, SoftmaxCrossEntropy(giou=10.0)(given).terms
    assert terms["cls"] == plain["cls"]
    assert terms["bbox"].item() == pytest.approx(10 * (0.5 + 0.2) / 3, rel=1e-5)
    deltas = given.tasks["bbox"].output
    (gradient,) = torch.autograd.grad(terms["bbox"], deltas)
    assert gradient.any(dim=1).all()
    assert SoftmaxCrossEntropy(giou=10.0)(head_outputs(logits, [], [])).terms["bbox"].item() == 0

    shifted = head_outputs(torch.zeros(4, 1), [(0, 0)], [[0.5, 0, 10.5, 10]])  # a delta of half a deviation
    assert BinaryCrossEntropy(beta=0.0)(shifted).terms["bbox"].item() == pytest.approx(0.5 / 4, rel=1e-5)


@pytest.mark.parametrize("counted", [[True, False], [False, False]])
def test_giou_of_the_boxes_that_count(counted: list[bool]):
    given = head_outputs(torch.zeros(4, 3), TWO, boxes_of_height(5, 8))
    boxes = replace(given.tasks["bbox"], counted=torch.tensor(counted))
    terms = SoftmaxCrossEntropy(giou=10.0)(HeadOutputs(given.classification, {"bbox": boxes})).terms
    assert terms["bbox"].item() == pytest.approx(10 * 0.5 * counted[0] / 4, rel=1e-5)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), SoftmaxCrossEntropy()])
def test_cross_entropy_of_masks_is_a_mean_over_cells(loss: DetectionLoss):
    masks = Masks(torch.tensor([[[0.0, 2.0]], [[-1.0, 1.0]]]), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]]))
    terms = loss(head_outputs(torch.zeros(5, 2), TWO, [SQUARE] * 2, mask=masks)).terms
    assert list(terms) == ["cls", "bbox", "mask"]
    entropies = F.softplus(torch.tensor([0.0, -2.0, -1.0, 1.0]))
    assert terms["mask"].item() == pytest.approx(entropies.mean().item())
    foreign = Auxiliary(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"terms of \['bbox'\] for the tasks \['bbox', 'centerness'\]"):
        loss(head_outputs(torch.zeros(5, 2), TWO, [SQUARE] * 2, centerness=foreign))


@LOSSES
@pytest.mark.parametrize("candidates", [0, 3])
def test_without_positives_every_term_has_a_gradient_and_tasks_cost_nothing(loss: DetectionLoss, candidates: int):
    logits = torch.randn(candidates, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = head_outputs(logits, [], [], mask=overlapping_masks(kept=[]))
    terms = loss(given).terms
    assert terms["bbox"].item() == terms["mask"].item() == 0
    if isinstance(loss, RankSort) or candidates == 0:
        assert sum(t.item() for t in terms.values()) == 0
    sum(terms.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert all(task.output.grad is not None for task in given.tasks.values())


@LOSSES
def test_half_precision_costs_float32(loss: DetectionLoss):
    # These numbers are exact in bfloat16.
    logits, masks, truths = torch.tensor([[1.0, 0.0], [-2.0, 0.5]]), torch.tensor([[[1.0, -2.0]]]), torch.ones(1, 1, 2)

    def terms(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        masks_here = Masks(masks.to(dtype), truths)
        return loss(head_outputs(logits.to(dtype), [(0, 0)], boxes_of_height(8), mask=masks_here)).terms

    exact = terms(torch.float32)
    for name, term in terms(torch.bfloat16).items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, exact[name])


@LOSSES
def test_nan_is_not_hidden(loss: DetectionLoss):
    logits = torch.tensor([[torch.nan, 0.0], [0.0, 0.0]], requires_grad=True)
    terms = loss(head_outputs(logits, [(0, 0)], boxes_of_height(8))).terms
    assert sum(terms.values(), torch.zeros(())).isnan()


def test_quality_focal_loss_takes_the_dice_as_its_target():
    logits = torch.tensor([[0.3], [-1.0]])
    boxes = QualityFocal()(head_outputs(logits, TWO, boxes_of_height(8, 5))).terms
    masks = QualityFocal()(head_outputs(logits, TWO, labelled_by="mask", mask=overlapping_masks((4, 6), (2, 6)))).terms
    assert list(masks) == ["cls", "mask"]
    torch.testing.assert_close(masks["cls"], boxes["cls"])
    torch.testing.assert_close(masks["mask"], boxes["bbox"])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kept", [None, [1, 0]])
def test_a_task_has_one_prediction_for_each_of_its_positives(count: int, kept: list[int] | None):
    masks = overlapping_masks(*[(4, 4)] * count, kept=kept)
    with pytest.raises(ValueError, match=rf"tasks\['mask'\] has {count} predictions for 2 positives"):
        head_outputs(torch.zeros(2, 1), TWO, [SQUARE] * 2, mask=masks)
    if kept is None:
        with pytest.raises(ValueError, match=rf"tasks\['bbox'\] has {count} predictions for 2 positives"):
            head_outputs(torch.zeros(2, 1), TWO, [SQUARE] * count)


def test_labels_come_from_a_task_of_all_positives():
    with pytest.raises(ValueError, match="labelled_by='mask' is not one of the tasks bbox"):
        head_outputs(torch.zeros(2, 1), TWO, [SQUARE] * 2, labelled_by="mask")
    for kept, cells in (([0], [(4, 4)]), ([0, 1], [(4, 4)] * 2)):  # also where it happens to be all of them
        masks = overlapping_masks(*cells, kept=kept)
        with pytest.raises(ValueError, match="labelled_by='mask': a task of only some positives cannot label all"):
            head_outputs(torch.zeros(2, 1), TWO, [SQUARE] * 2, labelled_by="mask", mask=masks)


def test_each_task_needs_its_own_term():
    given = head_outputs(torch.zeros(2, 1), TWO, [SQUARE] * 2)
    one = torch.ones(())
    losses = head_losses(given, {"cls": one}, {"bbox": 2 * one}, weight=3.0, balance={"bbox": 4 * one})
    assert {name: term.item() for name, term in losses.terms.items()} == {"cls": 3, "bbox": 6}
    assert losses.statistics["balance"].item() == 4
    for terms in ({}, {"mask": one}, {"bbox": one, "mask": one}):
        with pytest.raises(ValueError, match=rf"terms of \[{', '.join(map(repr, terms))}\] for the tasks \['bbox'\]"):
            head_losses(given, {"cls": one}, terms)


def test_alrp_ranks_boxes_and_nothing_else():
    logits, loss, masks = torch.zeros(2, 1, requires_grad=True), Alrp(), overlapping_masks((4, 6), (2, 6))
    assert list(loss(head_outputs(logits, TWO, boxes_of_height(8, 5))).terms) == ["cls", "bbox"]
    boxes = Boxes(torch.zeros(2, 4), torch.tensor([SQUARE] * 2), torch.tensor([SQUARE] * 2), CODER)
    refused: list[HeadOutputs] = [
        head_outputs(logits, TWO, [SQUARE] * 2, mask=masks),
        head_outputs(logits, TWO, labelled_by="mask", mask=masks),
        head_outputs(logits, TWO, bbox=masks),
        head_outputs(logits, TWO, labelled_by="other", other=boxes),
    ]
    for given in refused:
        with pytest.raises(
            ValueError, match=f"aLRP ranks box errors and no others, not those of {', '.join(given.tasks)}"
        ):
            loss(given)


def test_truths_of_another_shape_are_refused():
    box = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"Boxes: shapes differ: .*'truths': \(1, 4\)"):
        Boxes(box, box, box[:1], CODER)
    with pytest.raises(ValueError, match=r"Masks: shapes differ: .*'truths': \(1, 5, 5\)"):
        Masks(torch.zeros(3, 5, 5), torch.zeros(1, 5, 5))
    with pytest.raises(ValueError, match="Auxiliary: shapes differ"):
        Auxiliary(torch.zeros(3), torch.zeros(1))


def test_the_factor_of_a_task_without_a_positive_is_no_value():
    logits = torch.zeros(3, 2, requires_grad=True)
    none = Masks(torch.zeros(0, 4, 4, requires_grad=True), torch.zeros(0, 4, 4), kept=torch.zeros(0, dtype=torch.int64))
    outputs = head_outputs(logits, [(0, 0)], boxes_of_height(5))
    loss = RankSort()(HeadOutputs(outputs.classification, {**outputs.tasks, "mask": none}))
    assert loss.terms["mask"].item() == 0
    assert loss.statistics["balance_mask"].isnan()
    assert loss.statistics["balance"].isfinite()
