"""How positives are weighted in a task, and how it is balanced against the classification: Table 9's switches."""

from dataclasses import replace

import pytest
import torch
from head_outputs import head_outputs, overlapping_masks
from torch import Tensor

from rst.detectors import Boxes, HeadOutputs, Localisation, RankSort, Task
from rst.detectors.geometry.boxes import paired_giou
from rst.detectors.losses.localisation import TaskBalance, balance_factor, score_weights, weighted_mean
from rst.detectors.losses.ranking import AveragePrecision
from rst.detectors.losses.tasks import Auxiliary, centerness

SCORES = torch.tensor([2.0, 0.0, 1.0]).sigmoid()  # the highest of each positive of `outputs`


def outputs(counted: Tensor | None = None, **others: Task) -> HeadOutputs:
    """Three positives among eight logits, whose boxes are more or less right."""
    return head_outputs(
        torch.tensor([[2.0, 0.5], [0.0, -1.0], [-2.0, 1.0], [0.3, 0.4]], requires_grad=True),
        [(0, 0), (1, 0), (2, 1)],
        [[0.0, 0, 10, 9], [4, 5, 15, 20], [20, 22, 40, 44]],
        deltas=torch.tensor([[0.5, 0, 0, 0], [0, 1, 0, 1], [1, 1, -1, 0]], requires_grad=True),
        references=torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [20, 20, 40, 40]]),
        counted=counted,
        **others,
    )


def boxes_of(given: HeadOutputs) -> Boxes:
    boxes = given.tasks["bbox"]
    assert isinstance(boxes, Boxes)
    return boxes


def box_errors(given: HeadOutputs) -> Tensor:
    boxes = boxes_of(given)
    return 1 - paired_giou(boxes.predicted, boxes.truths)


def test_weights_are_the_highest_score_of_any_class():
    candidates = torch.tensor([[0.0, -3.0], [-1.0, 2.0]])
    w = torch.tensor([0.0, 2.0]).sigmoid()
    losses = torch.tensor([1.0, 0.25])
    torch.testing.assert_close(weighted_mean(losses, score_weights(candidates)), (w * losses).sum() / w.sum())


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
    errors = box_errors(given)
    weights = SCORES if weighting == "score" else torch.ones(3)
    mean = ((weights * errors).sum() / weights.sum()).item()
    localisation = Localisation(weighting, balance)  # pyright: ignore[reportArgumentType]
    terms = RankSort(weight=0.5, localisation=localisation)(given).terms
    classification = (terms["rank"] + terms["sort"]).item()
    assert classification > 0
    expected = classification if balance == "value" else 0.5 * 2 * mean
    assert terms["bbox"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kept", [[2, 0], [0, 2], [1]], ids=str)
def test_a_task_of_some_positives_takes_their_weights_and_no_others(kept: list[int]):
    cells = [(3, 17), (4, 6)][: len(kept)]  # errors 0.7 and 0.2
    masks = overlapping_masks(*cells, kept=kept)
    given = outputs(mask=masks)
    errors, weights = torch.tensor([0.7, 0.2])[: len(kept)], SCORES[kept]
    mean = ((weights * errors).sum() / weights.sum()).item()
    others = [SCORES.roll(1)[kept], SCORES[kept].flip(0), torch.ones(len(kept))]
    swapped = [((other * errors).sum() / other.sum()).item() for other in others]
    assert len(kept) == 1 or all(abs(mean - wrong) > 0.02 for wrong in swapped), "these would show"
    losses = RankSort(localisation=Localisation(balance=2.0))(given)
    assert losses.terms["mask"].item() == pytest.approx(2 * mean, rel=1e-5)
    losses.terms["mask"].backward()
    assert masks.logits.grad is not None
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(masks.select(values), values[kept])
    assert boxes_of(given).select(values) is values


@pytest.mark.parametrize("weighting", ["uniform", "score"])
@pytest.mark.parametrize("balance", ["value", "magnitude", 2.0])
@pytest.mark.parametrize("counted", [[True, False, True], [False, True, False]], ids=str)
def test_what_does_not_count_is_ranked_and_not_localised(counted: list[bool], balance: TaskBalance, weighting: str):
    """As if its box were not there, but for its label; worked by hand."""
    chosen = torch.tensor(counted)
    every, given = outputs(), outputs(chosen)
    loss = RankSort(localisation=Localisation(weighting, balance))  # pyright: ignore[reportArgumentType]
    before, after = loss(every), loss(given)
    for name in ("rank", "sort"):
        assert torch.equal(after.terms[name], before.terms[name]), "labels and ranking are those of all"
    weights = (SCORES if weighting == "score" else torch.ones(3)).double()[chosen]
    mean = (weights * box_errors(given).detach().double()[chosen]).sum() / weights.sum()
    factor = after.statistics["balance"]
    assert after.terms["bbox"].item() == pytest.approx((factor * mean).item(), rel=1e-6)
    if balance == "value":
        expected = (after.terms["rank"] + after.terms["sort"]) / mean
        assert factor.item() == pytest.approx(expected.item(), rel=1e-6)
    after.terms["bbox"].backward()
    gradient = boxes_of(given).deltas.grad
    assert gradient is not None
    assert torch.equal(gradient.any(dim=1), chosen)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("balance", ["value", "magnitude", 2.0])
def test_a_batch_where_nothing_counts(balance: TaskBalance, shared: bool):
    """No box loss, no factor, and no gradient but the ranking's: nothing is divided by 0."""
    given = outputs(torch.zeros(3, dtype=torch.bool))
    losses = RankSort(localisation=Localisation(balance=balance, shared=shared))(given)
    assert losses.terms["bbox"].item() == 0
    assert losses.terms["rank"].item() > 0
    assert losses.statistics["balance"].isnan()
    assert losses.statistics["positives"].item() == 3
    torch.stack(list(losses.terms.values())).sum().backward()
    deltas, logits = boxes_of(given).deltas.grad, given.classification.logits[0].grad
    assert deltas is not None
    assert logits is not None
    assert not deltas.any()
    assert logits.isfinite().all()
    assert logits.any()


@pytest.mark.parametrize("counted", [None, [True, False, True], [False, False, False]], ids=str)
@pytest.mark.parametrize("shift", [20.0, 24.0, 30.0, 200.0, 1e5])
@pytest.mark.parametrize("kind", [RankSort, AveragePrecision])
def test_scores_that_vanish_together_weigh_on(
    kind: type[RankSort | AveragePrecision], shift: float, counted: list[bool] | None
):
    """A ranking does not see a shift of all logits; far down, the box loss does not either, and it does not stop."""
    chosen = None if counted is None else torch.tensor(counted)
    given = outputs(chosen)
    (logits,) = given.classification.logits
    low = [(logits.detach() - shift).requires_grad_()]
    ranked = given.classification
    moved = replace(ranked, logits=low, candidate_logits=ranked.candidate_logits - shift)
    losses = kind()(replace(given, classification=moved))
    own = torch.ones(3, dtype=torch.bool) if chosen is None else chosen
    highest = moved.candidate_logits.amax(dim=1).double()[own]
    weights = (highest - highest.max()).exp() if own.any() else highest  # what sigmoids tend to, up to a factor
    mean = (weights * box_errors(given).detach().double()[own]).sum() / weights.sum()
    losses.terms["bbox"].backward()
    gradient = boxes_of(given).deltas.grad
    assert gradient is not None
    assert torch.equal(gradient.any(dim=1), own)
    if own.any():
        expected = losses.statistics["balance"] * mean
        assert losses.terms["bbox"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert losses.statistics["balance"] < 10
    else:
        assert losses.terms["bbox"].item() == 0


def test_shared_scores_that_vanish_count_as_little_as_they_are():
    """Sums over processes need a common scale: a process of small scores weighs little, and alone it weighs nothing."""
    given = outputs()
    low = replace(given.classification, candidate_logits=given.classification.candidate_logits - 200)
    localisation = Localisation("score", 2.0, shared=True)
    assert localisation(replace(given, classification=low), torch.ones(())).terms["bbox"].item() == 0


@pytest.mark.parametrize("size", [2, 4])
def test_a_count_of_other_boxes_is_refused(size: int):
    with pytest.raises(ValueError, match=rf"counted has shape \({size},\) for 3 boxes"):
        outputs(torch.ones(size, dtype=torch.bool))


@pytest.mark.parametrize("balance", ["value", 3.0])
def test_each_balanced_task_has_its_own_factor(balance: TaskBalance):
    given = outputs(mask=overlapping_masks((3, 17), (4, 6), kept=[2, 0]))
    losses = RankSort(weight=0.5, localisation=Localisation(balance=balance))(given)
    terms = losses.terms
    for name, statistic in {"bbox": "balance", "mask": "balance_mask"}.items():
        task, factor = given.tasks[name], losses.statistics[statistic].item()
        mean = weighted_mean(task.errors, task.select(SCORES)).item()
        assert terms[name].item() == pytest.approx(0.5 * factor * mean, rel=1e-6)
        if balance == "value":
            assert terms[name].item() == pytest.approx((terms["rank"] + terms["sort"]).item(), rel=1e-6)
        else:
            assert factor == balance


def test_the_factor_of_the_task_that_labels_is_the_balance():
    masks = overlapping_masks((3, 17), (4, 6), (5, 5))
    given = replace(outputs(mask=masks), labelled_by="mask")
    losses = RankSort()(given)
    for statistic, errors in {"balance": masks.errors, "balance_bbox": box_errors(given)}.items():
        expected = (losses.terms["rank"] + losses.terms["sort"]) / weighted_mean(errors, SCORES)
        assert losses.statistics[statistic].item() == pytest.approx(expected.item(), rel=1e-6)


def test_magnitude_makes_the_gradients_of_all_outputs_equally_large():
    masks = overlapping_masks((3, 17), (4, 6), kept=[2, 0])
    masks = replace(masks, logits=(masks.logits.detach() / 50).requires_grad_())
    given = outputs(mask=masks)
    leaves = [boxes_of(given).deltas, masks.logits, given.classification.logits[0]]
    loss = RankSort(weight=0.2, localisation=Localisation(balance="magnitude"))(given)
    assert all(leaf.grad is None for leaf in leaves), "the comparison touches no gradient"
    sum(loss.terms.values(), torch.zeros(())).backward()
    norms = [tensor.grad.abs().sum() for tensor in leaves if tensor.grad is not None]
    torch.testing.assert_close(norms[0], norms[2])
    torch.testing.assert_close(norms[1], norms[2])
    assert loss.statistics["balance"].item() != pytest.approx(2.0, rel=0.1)


def test_magnitude_without_positives_and_without_gradients():
    magnitude = RankSort(localisation=Localisation(balance="magnitude"))
    terms = magnitude(head_outputs(torch.zeros(4, 2, requires_grad=True), [], [])).terms
    assert [term.item() for term in terms.values()] == [0, 0, 0]
    with torch.no_grad(), pytest.raises(ValueError, match="task_balance='magnitude' compares gradients"):
        magnitude(outputs())


@pytest.mark.parametrize("balance", ["values", 0, -1.0, float("inf"), float("nan"), True, None])
def test_other_balances_are_refused(balance: object):
    with pytest.raises(ValueError, match=r"task_balance=.* is neither 'value' nor 'magnitude' nor a number above 0"):
        Localisation(balance=balance)  # pyright: ignore[reportArgumentType]


def test_switches_replace_only_what_is_given():
    row = Localisation("score", 2.0, shared=True)
    assert row.switched(None, None) == row
    assert row.switched(False, None) == Localisation("uniform", 2.0, shared=True)
    assert row.switched(None, "magnitude") == Localisation("score", "magnitude", shared=True)
    assert Localisation("uniform").switched(True, 1.0) == Localisation("score", 1.0)


def test_centerness_worked_by_hand():
    # centres (5, 5) and (10, 15): of the first left 5, right 15, top 5, bottom 5; the second is in the middle
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [3, 3, 5, 5]])
    truths = torch.tensor([[0.0, 0, 20, 10], [0, 10, 20, 20], [4, 0, 8, 8]])
    torch.testing.assert_close(centerness(anchors, truths), torch.tensor([(1 / 3) ** 0.5, 1.0, 0.0]))


def test_the_auxiliary_head_learns_centerness_and_weights_the_boxes_with_it():
    logits = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    boxes = boxes_of(outputs())
    target = centerness(boxes.references, boxes.truths)
    given = outputs(centerness=Auxiliary(logits, target))
    loss = RankSort(localisation=Localisation("centerness", 2.0))(given)
    assert list(loss.terms) == ["rank", "sort", "bbox", "centerness"]
    assert "balance_centerness" not in loss.statistics
    errors = box_errors(given)
    assert loss.terms["bbox"].item() == pytest.approx(2 * ((target * errors).sum() / target.sum()).item(), rel=1e-6)
    p = logits.detach().sigmoid()
    entropy = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert loss.terms["centerness"].item() == pytest.approx(entropy.item(), rel=1e-6)
    loss.terms["centerness"].backward()
    torch.testing.assert_close(logits.grad, (p - target) / 3)
