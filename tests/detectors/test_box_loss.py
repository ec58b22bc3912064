"""How positives are weighted in a box loss, and how it is balanced against the classification: Table 9's switches."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rst.detectors.geometry.boxes import BoxCoder, paired_giou
from rst.detectors.losses.contract import HeadOutputs
from rst.detectors.losses.localisation import (
    BoxLoss,
    TaskBalance,
    balance_factor,
    centerness,
    score_weights,
    weighted_mean,
)
from rst.detectors.losses.ranking import RankSort


def outputs(**changes: Tensor) -> HeadOutputs:
    """Three positives among eight logits, whose boxes are more or less right."""
    logits = torch.tensor([[2.0, 0.5], [0.0, -1.0], [-2.0, 1.0], [0.3, 0.4]], requires_grad=True)
    row, column = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1])
    given = HeadOutputs(
        logits=[logits],
        ignore=None,
        index=row * 2 + column,
        rows=logits.detach()[row],
        deltas=torch.tensor([[0.5, 0, 0, 0], [0, 1, 0, 1], [1, 1, -1, 0]], requires_grad=True),
        references=torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [20, 20, 40, 40]]),
        truths=torch.tensor([[0.0, 0, 10, 9], [4, 5, 15, 20], [20, 22, 40, 44]]),
        coder=BoxCoder((0.1, 0.1, 0.2, 0.2)),
    )
    return replace(given, **changes)


def test_weights_are_the_highest_score_of_any_class():
    rows = torch.tensor([[0.0, -3.0], [-1.0, 2.0]])
    w = torch.tensor([0.0, 2.0]).sigmoid()
    losses = torch.tensor([1.0, 0.25])
    torch.testing.assert_close(weighted_mean(losses, score_weights(rows)), (w * losses).sum() / w.sum())


def test_weights_that_vanish_do_not_divide_by_zero():
    assert weighted_mean(torch.ones(2), score_weights(torch.full((2, 1), -200.0))).item() == 0


@pytest.mark.parametrize(("loss", "expected"), [(0.5, 2.0), (1e-4, 2.0), (0.0, 0.0)])
def test_a_balanced_loss_has_the_value_of_its_reference(loss: float, expected: float):
    value = torch.tensor(loss, requires_grad=True)
    reference = torch.tensor(2.0, requires_grad=True)
    balanced = balance_factor(value, reference) * value
    balanced.backward()
    assert balanced.item() == pytest.approx(expected, rel=1e-6)
    assert reference.grad is None
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(2.0 / max(loss, 1e-6), rel=1e-6)


@pytest.mark.parametrize("weighting", ["uniform", "score"])
@pytest.mark.parametrize("balance", [2.0, "value"])
def test_terms_worked_by_hand(weighting: str, balance: TaskBalance):
    given = outputs()
    errors = 1 - paired_giou(given.boxes, given.truths)
    weights = torch.tensor([2.0, 0.0, 1.0]).sigmoid() if weighting == "score" else torch.ones(3)
    mean = ((weights * errors).sum() / weights.sum()).item()
    terms = RankSort(weight=0.5, box=BoxLoss(weighting, balance))(given).terms  # pyright: ignore[reportArgumentType]
    classification = (terms["rank"] + terms["sort"]).item()
    assert classification > 0
    expected = classification if balance == "value" else 0.5 * 2 * mean
    assert terms["bbox"].item() == pytest.approx(expected, rel=1e-6)


def test_magnitude_makes_the_gradients_of_both_outputs_equally_large():
    given = outputs()
    loss = RankSort(weight=0.2, box=BoxLoss(balance="magnitude"))(given)
    assert given.deltas.grad is None
    assert given.logits[0].grad is None, "weighing touches no gradient"
    sum(loss.terms.values(), torch.zeros(())).backward()
    norms = [tensor.grad.abs().sum() for tensor in (given.deltas, given.logits[0]) if tensor.grad is not None]
    torch.testing.assert_close(norms[0], norms[1])
    assert loss.statistics["balance"].item() != pytest.approx(2.0, rel=0.1)


def test_magnitude_without_positives_and_without_gradients():
    none = torch.zeros(0, 4)
    empty = torch.zeros(0, dtype=torch.int64)
    given = outputs(
        index=empty, rows=torch.zeros(0, 2), deltas=none.clone().requires_grad_(), references=none, truths=none
    )
    terms = RankSort(box=BoxLoss(balance="magnitude"))(given).terms
    assert [term.item() for term in terms.values()] == [0, 0, 0]
    with torch.no_grad(), pytest.raises(ValueError, match="task_balance='magnitude' compares gradients"):
        RankSort(box=BoxLoss(balance="magnitude"))(outputs())


@pytest.mark.parametrize("balance", ["values", 0, -1.0, float("inf"), float("nan"), True, None])
def test_other_balances_are_refused(balance: object):
    with pytest.raises(ValueError, match=r"task_balance=.* is neither 'value' nor 'magnitude' nor a number above 0"):
        BoxLoss(balance=balance)  # pyright: ignore[reportArgumentType]


def test_switches_replace_only_what_is_given():
    row = BoxLoss("score", 2.0, shared=True)
    assert row.switched(None, None) == row
    assert row.switched(False, None) == BoxLoss("uniform", 2.0, shared=True)
    assert row.switched(None, "magnitude") == BoxLoss("score", "magnitude", shared=True)
    assert BoxLoss("uniform").switched(True, 1.0) == BoxLoss("score", 1.0)


def test_centerness_worked_by_hand():
    # centres (5, 5) and (10, 15): of the first left 5, right 15, top 5, bottom 5; the second is in the middle
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [3, 3, 5, 5]])
    truths = torch.tensor([[0.0, 0, 20, 10], [0, 10, 20, 20], [4, 0, 8, 8]])
    torch.testing.assert_close(centerness(anchors, truths), torch.tensor([(1 / 3) ** 0.5, 1.0, 0.0]))


def test_the_auxiliary_head_learns_centerness_and_weighs_the_boxes_with_it():
    logits = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    given = outputs(centerness=logits)
    loss = RankSort(box=BoxLoss("centerness", 2.0))(given)
    assert list(loss.terms) == ["rank", "sort", "bbox", "centerness"]
    target = centerness(given.references, given.truths)
    errors = 1 - paired_giou(given.boxes, given.truths)
    assert loss.terms["bbox"].item() == pytest.approx(2 * ((target * errors).sum() / target.sum()).item(), rel=1e-6)
    p = logits.detach().sigmoid()
    entropy = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert loss.terms["centerness"].item() == pytest.approx(entropy.item(), rel=1e-6)
    loss.terms["centerness"].backward()
    torch.testing.assert_close(logits.grad, (p - target) / 3)
