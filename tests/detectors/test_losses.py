"""The terms of each loss from numbers worked by hand, and what happens at their edges."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rst.detectors.geometry.boxes import BoxCoder
from rst.detectors.losses.contract import DetectionLoss, HeadOutputs
from rst.detectors.losses.cross_entropy import BinaryCrossEntropy, SoftmaxCrossEntropy
from rst.detectors.losses.ranking import RankSort

STD = (0.1, 0.1, 0.2, 0.2)


def outputs(
    logits: Tensor,  # (R, K)
    positives: list[tuple[int, int]],
    truths: list[list[float]],
    ignore: Tensor | None = None,
) -> HeadOutputs:
    """Candidates whose reference boxes all are (0, 0, 10, 10) and whose deltas are all zero."""
    row = torch.tensor([p[0] for p in positives], dtype=torch.int64)
    column = torch.tensor([p[1] for p in positives], dtype=torch.int64)
    return HeadOutputs(
        logits=[logits],
        ignore=None if ignore is None else [ignore],
        index=row * logits.shape[1] + column,
        rows=logits.detach()[row],
        deltas=torch.zeros(len(positives), 4, requires_grad=True),
        references=torch.tensor([[0.0, 0, 10, 10]]).expand(len(positives), 4),
        truths=torch.tensor(truths).reshape(-1, 4),
        coder=BoxCoder(STD),
    )


def test_rank_sort_worked_by_hand():
    # One positive at 0 against one negative at 0 (half a rank each), one far below; IoU 0.5, GIoU 0.5.
    logits = torch.tensor([[0.0, 0.0, -9.0]], requires_grad=True)
    terms = RankSort(weight=0.2)(outputs(logits, [(0, 0)], [[0, 0, 10, 5]])).terms
    assert list(terms) == ["rank", "sort", "bbox"]
    assert [t.item() for t in terms.values()] == pytest.approx([0.2 * 0.5, 0, 0.2 * 0.5])
    sum(terms.values(), torch.zeros(())).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.1, 0.1, 0.0]]))


def test_rank_sort_labels_are_the_ious_of_the_predictions():
    # The better box has the lower logit: sorting must see IoU 0.8 against 0.3 and push the two towards each other.
    logits = torch.tensor([[1.0], [0.0]], requires_grad=True)
    terms = RankSort()(outputs(logits, [(0, 0), (1, 0)], [[0, 0, 10, 3], [0, 0, 10, 8]])).terms
    assert terms["rank"].item() == 0
    # positive 1: H = 0.5 for itself (1 - 0.8) and 1 for the other (1 - 0.3), over 1.5; its target is its own 0.2
    expected = ((0.5 * 0.2 + 0.7) / 1.5 - 0.2) / 2
    assert terms["sort"].item() == pytest.approx(expected)
    terms["sort"].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[expected], [-expected]]))


def test_a_positive_without_overlap_stays_a_positive():
    logits = torch.zeros(1, 2, requires_grad=True)
    terms = RankSort()(outputs(logits, [(0, 0)], [[50, 50, 60, 60]])).terms
    terms["rank"].backward()
    assert terms["rank"].item() == pytest.approx(0.5)
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0


def test_binary_cross_entropy_leaves_out_what_is_ignored():
    logits = torch.tensor([[1.0], [-2.0], [7.0]], requires_grad=True)
    ignore = torch.tensor([[False], [False], [True]])
    terms = BinaryCrossEntropy()(outputs(logits, [(0, 0)], [[0.5, 0, 10.5, 10]], ignore)).terms
    assert terms["cls"].item() == pytest.approx((F.softplus(torch.tensor([-1.0, -2.0])).sum() / 2).item())
    # dx of 0.5 stds is 5 / 10 px = 0.05 of the width; beyond beta = 1/9 the loss is linear; two candidates
    assert terms["bbox"].item() == pytest.approx((0.5 - 0.5 / 9) / 2, rel=1e-5)


def test_softmax_cross_entropy_has_its_background_last():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]], requires_grad=True)
    loss = SoftmaxCrossEntropy()
    terms = loss(outputs(logits, [(0, 1)], [[0.5, 0, 10.5, 10]])).terms
    log = logits.detach().log_softmax(1)
    assert terms["cls"].item() == pytest.approx(-(log[0, 1] + log[1, 2]).item() / 2)
    assert terms["bbox"].item() == pytest.approx(0.5 * 0.5**2 / 2, rel=1e-5)  # quadratic below beta = 1
    torch.testing.assert_close(loss.scores(logits), logits.softmax(1)[:, :2])


@pytest.mark.parametrize("loss", [RankSort(), BinaryCrossEntropy(), SoftmaxCrossEntropy()])
@pytest.mark.parametrize("candidates", [0, 3])
def test_without_positives_every_term_has_a_gradient_and_boxes_cost_nothing(loss: DetectionLoss, candidates: int):
    logits = torch.randn(candidates, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = outputs(logits, [], [])
    terms = loss(given).terms
    assert terms["bbox"].item() == 0
    if isinstance(loss, RankSort) or candidates == 0:
        assert sum(t.item() for t in terms.values()) == 0
    sum(terms.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert given.deltas.grad is not None


@pytest.mark.parametrize("loss", [RankSort(), BinaryCrossEntropy(), SoftmaxCrossEntropy()])
def test_half_precision_logits_cost_float32(loss: DetectionLoss):
    logits = torch.tensor([[1.0, 0.0], [-2.0, 0.5]])
    exact = loss(outputs(logits, [(0, 0)], [[0, 0, 10, 8]])).terms
    half = loss(outputs(logits.bfloat16(), [(0, 0)], [[0, 0, 10, 8]])).terms  # these logits are exact in bfloat16
    for name, term in half.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, exact[name])


@pytest.mark.parametrize("loss", [RankSort(), BinaryCrossEntropy(), SoftmaxCrossEntropy()])
def test_nan_is_not_hidden(loss: DetectionLoss):
    logits = torch.tensor([[torch.nan, 0.0], [0.0, 0.0]], requires_grad=True)
    terms = loss(outputs(logits, [(0, 0)], [[0, 0, 10, 8]])).terms
    assert sum(terms.values(), torch.zeros(())).isnan()
