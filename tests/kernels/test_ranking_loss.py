"""A ranking loss from a score of your own: equal to the built-in loss with that score, and to its dense twin."""

import re
from pathlib import Path

import pytest
import torch
from rank_sort_cases import BACKENDS, named, named_rankings, outcome, random_ranking

from rst.kernels import Update, rank_sort, ranking_loss

NAMED = named_rankings()
DOCUMENT = Path(__file__).parents[2] / "kernels" / "README.md"

every_backend = pytest.mark.parametrize(
    ("backend", "device"), BACKENDS, ids=[f"{backend}-{device}" for backend, device in BACKENDS]
)


def precision_error(counts):
    return counts.false_positives / (counts.false_positives + counts.true_positives)


def by_quality(counts):
    """An error that uses everything a score is given: false positives and the quality lost to those above."""
    above = counts.weigh(1 - counts.quality) - counts.self_pair * (1 - counts.quality)
    return (counts.false_positives + above) / (counts.true_positives + counts.false_positives)


def own_loss(score, ranking, backend, device):
    logits = ranking.logits.detach().clone().to(device).requires_grad_()
    value = ranking_loss(score, logits, ranking.targets.to(device), delta=ranking.delta, **named(backend))
    value.backward()
    assert logits.grad is not None
    return value.double().item(), logits.grad.double().cpu()


@pytest.mark.parametrize("name", ["typical", "hard step", "ties", "one positive", "infinities of both", "separated"])
@every_backend
def test_the_ranking_part_of_rank_sort_from_its_score(backend, device, name):
    ranking = NAMED[name]
    expected = outcome(ranking, "reference", weights=(1, 0))
    value, gradient = own_loss(precision_error, ranking, backend, device)
    assert value == pytest.approx(expected[0], abs=3e-7)
    assert (gradient - expected[2]).abs().sum() <= 2e-6 * expected[2].abs().sum() + 1e-9


@pytest.mark.parametrize(
    "name", ["typical", "hard step", "ties", "three positives", "infinite positives", "all positive"]
)
@every_backend
def test_equals_its_dense_twin_in_float64(backend, device, name):
    ranking = NAMED[name]
    truth = own_loss(by_quality, ranking.to(torch.float64), "reference", "cpu")
    value, gradient = own_loss(by_quality, ranking, backend, device)
    assert value == pytest.approx(truth[0], abs=3e-7)
    assert (gradient - truth[1]).abs().sum() <= 2e-6 * truth[1].abs().sum() + 1e-9


@every_backend
def test_an_update_says_how_the_error_is_spread(backend, device):
    ranking = NAMED["typical"]

    def whole(counts):
        sums = counts.sorting_sums()
        error = precision_error(counts)
        nothing = torch.zeros_like(error)
        return Update(error, nothing, None, sums.missorted.double())

    logits = ranking.logits.clone().to(device).requires_grad_()
    ranking_loss(whole, logits, ranking.targets.to(device), **named(backend)).backward()
    gradient = logits.grad.cpu()
    assert (gradient[ranking.targets <= 0] == 0).all()
    assert (gradient >= 0).all()
    assert gradient.max() > 0


@every_backend
def test_without_positives_the_score_is_not_called(backend, device):
    logits = torch.zeros(4, device=device, requires_grad=True)
    value = ranking_loss(lambda counts: 1 / 0, logits, torch.zeros(4, device=device), **named(backend))
    value.backward()
    assert value.item() == 0
    assert logits.grad.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda counts: 0.5, r"score: expected errors \(40,\) or an Update, got 0.5"),
        (
            lambda counts: counts.false_positives.sum(),
            r"score: expected errors \(40,\) or an Update, got a tensor \(\)",
        ),
    ],
)
def test_scores_that_do_not_fit(score, message):
    ranking = random_ranking(0, 300, 40)
    with pytest.raises(ValueError, match=message):
        ranking_loss(score, ranking.logits, ranking.targets)


def test_the_example_of_the_readme():
    """The loss that kernels/README.md writes in a few lines, taken out of it and run."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text[text.index("## A loss of your own") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    space: dict = {}
    exec(code[1], space)
    logits, targets = random_ranking(0, 300, 40).logits.requires_grad_(), random_ranking(0, 300, 40).targets
    value = space["discounted_gain_loss"](logits, targets)
    value.backward()
    assert 0 < value.item() < 1
    assert logits.grad.sum().abs() < 1e-6
    # no negative above a positive: no loss, no gradient
    perfect = torch.where(targets > 0, 10.0, -10.0).requires_grad_()
    value = space["discounted_gain_loss"](perfect, targets)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert perfect.grad.abs().max() == 0
    assert rank_sort(perfect, targets).ranking.item() == 0
