"""The peers of the benchmarks compute the published losses: exactly, or with the known error of their approximation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from contenders import exact_outcome, loop_difference, relative_error
from peers import (
    Outcome,
    binary_cross_entropy,
    bucketed,
    dense_matrix,
    per_positive_loop,
    per_positive_rank_sort,
    quality_focal,
    sigmoid_focal,
)
from rank_sort_cases import INTERPRETED, Ranking, named_rankings, outcome, random_ranking
from shapes import STAGES, Shape, sample

from rst.kernels import SparseTargets, rank_sort

pytestmark = pytest.mark.skipif(INTERPRETED, reason="no kernel of ours takes part")

PUBLISHED = np.load(Path(__file__).parent.parent / "data" / "ranking_losses.npz")
EXACT = {"per-positive loop": per_positive_loop, "dense matrix": dense_matrix}
RANKINGS = {
    name: ranking
    for name, ranking in named_rankings().items()
    if ranking.logits.isfinite().all() and len(ranking.logits) < 10_000
}


def dense(ranking: Ranking) -> Outcome:
    """The paper's equations in float64."""
    ranking_error, sorting_error, gradient = outcome(ranking.to(torch.float64), "reference")
    return Outcome(*(torch.tensor(value, dtype=torch.float64) for value in (ranking_error, sorting_error)), gradient)


def assert_same(peer: Outcome, truth: Outcome) -> None:
    assert peer.ranking.item() == pytest.approx(truth.ranking.item(), abs=1e-12)
    assert peer.sorting.item() == pytest.approx(truth.sorting.item(), abs=1e-6), "quality in float32 against float64"
    torch.testing.assert_close(peer.gradient, truth.gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize("peer", EXACT)
def test_exact_peer_equals_the_dense_equations(peer, name):
    ranking = RANKINGS[name].to(torch.float64)
    assert_same(EXACT[peer](ranking.logits, ranking.targets.double(), ranking.delta), dense(ranking))


@pytest.mark.parametrize("peer", EXACT)
@pytest.mark.parametrize("case", ["c00", "c01", "c02", "c03", "c05"])
def test_exact_peer_equals_the_published_implementation(case, peer):
    vector = {name: PUBLISHED[f"{case}_{name}"] for name in ("logits", "targets", "delta", "rs_ranking", "rs_sorting")}
    ranking = Ranking(torch.tensor(vector["logits"]), torch.tensor(vector["targets"]), float(vector["delta"]))
    found = EXACT[peer](ranking.logits, ranking.targets, ranking.delta)
    assert abs(found.ranking.item() - vector["rs_ranking"]) <= 1e-6
    assert abs(found.sorting.item() - vector["rs_sorting"]) <= 1e-6
    assert np.abs(found.gradient.numpy() - PUBLISHED[f"{case}_rs_grad"]).max() <= 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_bucketed_equals_the_dense_equations_for_a_hard_step_without_ties(seed):
    ranking = random_ranking(seed, 900, 40, delta=0.0).to(torch.float64)
    assert_same(bucketed(ranking.logits, ranking.targets.double(), 0.0), dense(ranking))


def errors(positives: int, negatives: int, stage: str, delta: float, draws: int) -> tuple[float, float, float]:
    """Of bucketing, mean over draws: relative L1 error of the gradient, of the negatives' part; error of `sorting`."""
    found = []
    for seed in range(draws):
        data = sample(Shape(positives, negatives), stage, seed=seed)
        truth = dense_matrix(data.logits.double(), data.dense.double(), delta)
        peer = bucketed(data.logits, data.dense, delta)
        error, norm = (peer.gradient - truth.gradient).abs(), truth.gradient.abs()
        if not norm.any():  # a positive above all negatives
            continue
        negative = data.dense == 0
        found.append(
            (
                float(error.sum() / norm.sum()),
                float(error[negative].sum() / norm[negative].sum()),
                abs(float(peer.sorting - truth.sorting)),
            )
        )
    return tuple(torch.tensor(found).double().mean(0).tolist())


@pytest.mark.parametrize(
    ("positives", "negatives", "stage", "delta", "low", "high"),
    [
        (400, 200_000, "initialisation", 0.5, 5e-5, 2e-4),
        (400, 200_000, "early", 0.5, 3e-3, 1e-2),
        (50, 20_000, "early", 0.5, 0.03, 0.05),
        (5, 20_000, "early", 0.5, 0.12, 0.30),
        (1, 20_000, "early", 0.5, 0.10, 0.22),
        (5, 20_000, "early", 1.0, 0.15, 0.40),
        (50, 20_000, "early", 0.0, 0.0, 5e-5),  # some of the float32 logits tie
    ],
)
def test_bucketed_is_off_by_as_much_as_known(positives, negatives, stage, delta, low, high):
    """H has its kinks at s_i - delta and s_i + delta, but the buckets are cut at s_i."""
    total, among_negatives, sorting = errors(positives, negatives, stage, delta, draws=2 if positives == 400 else 20)
    assert low <= total <= high
    assert among_negatives >= total, "the positives' own share comes closer than the negatives'"
    assert sorting < 1e-5, "the sorting part is not bucketed"


def test_bucketed_is_off_by_more_the_fewer_positives_there_are():
    found = [errors(positives, 20_000, "early", 0.5, draws=5)[0] for positives in (200, 50, 20, 5)]
    assert found == sorted(found)


def test_bucketed_is_off_for_a_hard_step_too_where_logits_tie():
    """bfloat16 logits: a negative that ties with a positive falls into the bucket below, and is not counted."""
    data = sample(Shape(50, 20_000), "early")
    logits = data.logits.bfloat16().float()
    truth = dense_matrix(logits.double(), data.dense.double(), 0.0)
    peer = bucketed(logits, data.dense, 0.0)
    assert relative_error(peer, truth) > 5e-3
    assert peer.ranking < truth.ranking, "a negative that is not counted above a positive is missing from its error"


@pytest.mark.parametrize("stage", STAGES)
def test_truth_of_the_benchmarks(stage):
    data = sample(Shape(40, 3000), stage)
    truth = exact_outcome(data)
    equations = dense(Ranking(data.logits, data.dense))
    assert relative_error(truth, equations) < 1e-12
    assert truth.ranking.item() == pytest.approx(equations.ranking.item(), abs=1e-14)
    assert truth.sorting.item() == pytest.approx(equations.sorting.item(), abs=1e-14)
    assert loop_difference(data, truth) < 1e-12


def test_visible_negatives_are_those_in_reach_of_the_lowest_positive():
    data = sample(Shape(20, 5000), "late")
    lowest = data.logits[data.sparse.index].min()
    assert data.visible == int(((data.logits >= lowest - 0.5) & (data.dense == 0)).sum())
    assert 0 < data.visible < 5000
    assert data.pairs == 20 * (20 + data.visible)


def test_drop_in_takes_the_arguments_of_rank_sort():
    """Levels, ignored logits and a weighted loss, as in a detector."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(shape, generator=generator) for shape in ((2, 30), (45,))]
    ignore = [torch.rand(level.shape, generator=generator) < 0.2 for level in levels]
    targets = SparseTargets(torch.tensor([3, 61, 104]), torch.tensor([0.5, 0.9, 0.7]), ignore)
    found = []
    for function in (per_positive_rank_sort, rank_sort):
        leaves = [level.clone().requires_grad_() for level in levels]
        loss = function(leaves, targets, delta=0.5)
        (0.2 * (loss.ranking + loss.sorting)).backward()
        found.append((loss.ranking.item(), loss.sorting.item(), *[leaf.grad for leaf in leaves]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_drop_in_without_positives():
    level = torch.randn(7, requires_grad=True)
    empty = SparseTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    loss = per_positive_rank_sort([level], empty)
    sum(loss).backward()
    assert sum(loss).item() == 0
    assert level.grad.count_nonzero() == 0


def test_quality_focal_is_its_definition():
    """The value term by term, and the gradient derived by hand, for beta = 2."""
    logits = torch.linspace(-6, 6, 41, dtype=torch.float64)
    quality = torch.where(torch.arange(41) % 5 == 0, 0.8, 0.0).double()
    score = logits.sigmoid()
    entropy = -(quality * score.log() + (1 - quality) * (1 - score).log())
    off = quality - score
    found = quality_focal(logits, quality)
    assert found.ranking.item() == pytest.approx((off.square() * entropy).sum().item(), rel=1e-12)
    by_hand = -2 * off * score * (1 - score) * entropy - off.square() * off
    torch.testing.assert_close(found.gradient, by_hand, rtol=1e-10, atol=1e-12)


def test_pointwise_peers_have_gradients_of_their_sums():
    logits = torch.linspace(-4, 4, 21, dtype=torch.float64)
    labels = (torch.arange(21) % 3 == 0).double()
    torch.testing.assert_close(binary_cross_entropy(logits, labels).gradient, logits.sigmoid() - labels)
    step = 1e-6
    found = sigmoid_focal(logits, labels)
    for place in (0, 1, 10):
        moved = logits.clone()
        moved[place] += step
        slope = (sigmoid_focal(moved, labels).ranking - found.ranking) / step
        assert found.gradient[place].item() == pytest.approx(slope.item(), rel=1e-4)
