"""Every magnitude: logits from 1e-45 to 3e38, their distances, and delta. No loss looks perfect after a divergence.

M  logits
"""

import pytest
import torch
from every_loss import LOSSES, every_backend, outcome
from magnitudes import LARGEST, ranking_of_magnitude
from rank_sort_cases import INTERPRETED, Ranking, assert_exact, random_ranking
from rank_sort_cases import outcome as both_parts

from rst.kernels import torch_pairs

# A distance in deltas may be too large for float32. The interpreter warns of it, and H is 1 there.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

# 268: positives beside the largest logits, and at them
SEEDS = (*range(8), 268) if INTERPRETED else range(300)
ALTERNATING = (torch.arange(8) % 2 == 1) * 0.8


def limit(backend: str) -> float:
    """The largest logit: on Triton those beyond 1e30 count as infinite."""
    return 1e30 if backend.startswith("triton") else LARGEST


@every_backend
@pytest.mark.parametrize("part", range(4))
def test_rank_sort_equals_the_dense_equations(backend, device, part):
    for seed in SEEDS[part::4]:
        ranking = ranking_of_magnitude(seed, limit(backend))
        assert_exact(both_parts(ranking, backend, device), ranking)


@every_backend
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "rank_sort"])
def test_other_losses_equal_the_dense_equations(backend, device, name):
    for seed in SEEDS[::10]:
        ranking = ranking_of_magnitude(1000 + seed, limit(backend))
        value, gradient = outcome(LOSSES[name], ranking, backend, device)
        truth, true_gradient = outcome(LOSSES[name], ranking.to(torch.float64), "reference")
        yardstick, yardstick_gradient = outcome(LOSSES[name], ranking, "reference")
        assert abs(value.double() - truth) <= abs(yardstick.double() - truth) + 3e-7 * max(1.0, abs(truth)), seed
        margin = (yardstick_gradient.double() - true_gradient).abs().sum() + 1e-6 * true_gradient.abs().sum() + 1e-9
        assert (gradient.double() - true_gradient).abs().sum() <= margin, seed


@every_backend
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("of_positives", [True, False])
def test_beside_the_largest_logits(backend, device, sign, of_positives):
    """What counts as infinite is above or below everything else, however near that is."""
    largest = limit(backend)
    logits = torch.tensor([largest, largest, largest, largest * 0.9995, largest * 0.99, 1.0, 0.0]) * sign
    qualities = torch.tensor([0.5, 0, 0.8, 0.7, 0, 0.9, 0]) if of_positives else torch.tensor([0, 0, 0, 0.7, 0, 0.9, 0])
    for delta in (0.0, 0.5, 1e20):
        ranking = Ranking(logits, qualities, delta)
        assert_exact(both_parts(ranking, backend, device), ranking)


@pytest.mark.skipif(INTERPRETED, reason="the pairs of the torch backend")
def test_many_positives(monkeypatch):
    monkeypatch.setattr(torch_pairs, "MANY", 0)
    for seed in range(2000, 2060):
        ranking = ranking_of_magnitude(seed)
        assert_exact(both_parts(ranking, "torch"), ranking)


@every_backend
@pytest.mark.parametrize(
    ("logits", "delta"),
    [
        (torch.arange(8.0) * 1e16, 0.5),
        (torch.arange(8.0) * 1e-16, 0.5),
        (torch.arange(8.0), 1e-20),
        (torch.zeros(8), 1e-20),
        (torch.full((8,), 1e16), 0.5),  # ties, where float64 loses delta
        (torch.full((8,), -3e7), 0.5),  # ties, where float32 loses delta
        (torch.tensor([1e16, 1e16, 0, 0, -1e16, -1e16, 5, 5]), 0.5),
        (torch.arange(8.0) * 1e16, 1e16),
        (torch.arange(8.0), 1e20),
    ],
    ids=str,
)
def test_alternating_positives(backend, device, logits, delta):
    ranking = Ranking(logits, ALTERNATING, delta)
    # interpreted, the losses that between them use every pass
    for loss in (LOSSES[name] for name in (["alrp"] if INTERPRETED else LOSSES)):
        value, gradient = outcome(loss, ranking, backend, device)
        truth, true_gradient = outcome(loss, ranking.to(torch.float64), "reference")
        assert value.item() == pytest.approx(truth.item(), rel=3e-7)
        assert gradient.tolist() == pytest.approx(true_gradient.tolist(), abs=1e-7)


@every_backend
def test_an_outlying_positive_does_not_blur_the_others(backend, device):
    logits = torch.randn(200, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(200) % 9 == 0) * 0.5
    logits[0] = -1e8
    ranking = Ranking(logits, targets)
    got, truth = both_parts(ranking, backend, device), both_parts(ranking.to(torch.float64), "reference")
    assert got[:2] == pytest.approx(truth[:2], abs=2e-7)
    # with an infinite one beside the largest number as well
    logits[9], logits[1], logits[2] = torch.inf, LARGEST, torch.inf
    value, _, gradient = both_parts(ranking, backend, device)
    assert value == value
    assert gradient.isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="Triton computes in float32")
@pytest.mark.parametrize("factor", [1.0, 2.0**600, 2.0**-600])
def test_float64_logits_of_every_magnitude(factor):
    for seed in range(3000, 3060):
        ranking = ranking_of_magnitude(seed).to(torch.float64)
        ranking = Ranking(ranking.logits * factor, ranking.targets, ranking.delta)
        assert_close_in_float64(ranking)


@pytest.mark.skipif(INTERPRETED, reason="Triton computes in float32")
def test_float64_logits_far_from_zero():
    """With more digits than float32 has: up to 2^26 deltas from zero."""
    for seed, distance in enumerate([1.0, 1e3, 1e5, 1e7, -3e7]):
        ranking = random_ranking(seed, 300, 30).to(torch.float64)
        assert_close_in_float64(Ranking(ranking.logits + distance, ranking.targets, 0.5))


def assert_close_in_float64(ranking):
    got, truth = both_parts(ranking, "torch"), both_parts(ranking, "reference")
    assert got[:2] == pytest.approx(truth[:2], abs=1e-7)
    assert (got[2] - truth[2]).abs().sum() <= 1e-6 * truth[2].abs().sum() + 1e-9
