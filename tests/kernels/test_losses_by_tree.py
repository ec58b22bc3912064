"""Whole losses with the tree over pairs of positives, which many positives take: the same values and gradients.

R  positives
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from pair_trees import DEVICE, TREES, triton_only
from rank_sort_cases import INTERPRETED, Ranking, assert_exact, named, named_rankings, outcome, random_ranking
from torch import Tensor
from torch.nn.functional import pad

from rst.kernels import SparseTargets, alrp, rank_sort, ranking_loss
from rst.kernels.targets import targets_to

NAMED = named_rankings()
PUBLISHED = np.load(Path(__file__).parent.parent / "data" / "ranking_losses.npz")
BACKENDS = {name: name.replace("triton", "triton breakpoints").rsplit("-", 1) for name in TREES}
every_backend = pytest.mark.parametrize(("backend", "device"), BACKENDS.values(), ids=BACKENDS)


@pytest.fixture
def always_the_tree(monkeypatch):
    for pairs, _, _ in TREES.values():
        monkeypatch.setattr(pairs, "MANY", 0)


# interpreted: without those that differ in their negatives alone
# interpreted, a level takes two launches: there the rankings in which pairs are unusual
PAIRED = ["typical", "ties", "hard step", "equal qualities", "infinite positives"] if INTERPRETED else list(NAMED)


@every_backend
@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.usefixtures("always_the_tree")
def test_rank_sort_equals_the_dense_equations(backend, device, name):
    assert_exact(outcome(NAMED[name], backend, device), NAMED[name])


@every_backend
@pytest.mark.parametrize("case", sorted({name[:3] for name in PUBLISHED})[:: 8 if INTERPRETED else 1])
@pytest.mark.usefixtures("always_the_tree")
def test_equals_the_published_implementation(backend, device, case):
    vector = {name: PUBLISHED[f"{case}_{name}"] for name in ("logits", "targets", "delta", "rs_ranking", "rs_sorting")}
    ranking = Ranking(torch.tensor(vector["logits"]), torch.tensor(vector["targets"]), float(vector["delta"]))
    ranking_error, sorting_error, gradient = outcome(ranking, backend, device)
    assert abs(ranking_error - vector["rs_ranking"]) <= 1e-6
    assert abs(sorting_error - vector["rs_sorting"]) <= 1e-6
    assert np.abs(gradient.numpy() - PUBLISHED[f"{case}_rs_grad"]).max() <= 1e-6


@every_backend
@pytest.mark.parametrize("seed", range(4 if INTERPRETED else 40))
@pytest.mark.usefixtures("always_the_tree")
def test_rank_sort_equals_the_dense_equations_on_random_rankings(backend, device, seed):
    ties = [0, 0.5, 0][seed % 3]
    ranking = random_ranking(seed, 300, 1 + 7 * seed, [0.5, 0.0, 1.0, 0.1][seed % 4], ties=ties, spread=3 ** (seed % 3))
    assert_exact(outcome(ranking, backend, device), ranking)


@every_backend
@pytest.mark.parametrize("where", ["logit", "quality"])
@pytest.mark.usefixtures("always_the_tree")
def test_nan_poisons_every_gradient(backend, device, where):
    ranking = random_ranking(0, 60, 20)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    logits, quality = ranking.logits.clone(), ranking.targets[index]
    if where == "logit":
        logits[index[3]] = torch.nan
    else:
        quality[3] = torch.nan
    logits = logits.to(device).requires_grad_()
    loss = rank_sort(logits, SparseTargets(index.to(device), quality.to(device)), **named(backend))
    sum(loss).backward()
    assert loss.sorting.isnan()
    assert logits.grad is not None
    assert logits.grad.isnan().all()


@triton_only
@pytest.mark.parametrize("segments", [None, 3])
def test_every_loss_on_triton_takes_the_tree_above_the_crossover(monkeypatch, segments):
    """Values, gradients and padding as by pairs; `ranking_loss` asks in the caller's order."""
    generator = torch.Generator().manual_seed(3)
    start, error = torch.randn(90, generator=generator), torch.rand(20, generator=generator).to(DEVICE)
    targets = SparseTargets(torch.randperm(90, generator=generator)[:20], torch.rand(20, generator=generator))
    targets = targets_to(targets.padded(23), DEVICE)

    def score(counts):
        return counts.weigh(counts.quality) + counts.sorting_sums().deficit.double()

    def everything() -> list[Tensor]:
        made = []
        for loss in (
            lambda logits, **more: list(rank_sort(logits, targets, **more)),
            lambda logits, **more: list(alrp(logits, targets, pad(error, (0, 3)), **more)),
            lambda logits, **more: [ranking_loss(score, logits, targets, **more)],
        ):
            logits = start.to(DEVICE).requires_grad_()
            parts = loss(logits, segments=segments, backend="triton", algorithm="breakpoints")
            sum(part.sum() for part in parts).backward()
            made += [*parts, logits.grad]
        return made

    by_pairs = everything()
    monkeypatch.setattr("rst.kernels.triton_pairs.MANY", 0)
    for got, expected in zip(everything(), by_pairs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
