"""Rank & Sort on every backend: equal to the paper's equations, to the published numbers, and to itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_sort_cases import BACKENDS, INTERPRETED, Ranking, assert_exact, named, named_rankings, outcome, random_ranking

from rst.kernels import SparseTargets, rank_sort

PUBLISHED = np.load(Path(__file__).parent.parent / "data" / "ranking_losses.npz")
NAMED = named_rankings()

pytestmark = pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=["-".join(pair) for pair in BACKENDS])


@pytest.mark.parametrize("name", NAMED)
def test_equals_the_dense_equations_in_float64(backend, device, name):
    ranking = NAMED[name]
    assert_exact(outcome(ranking, backend, device), ranking)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_dense_equations_on_random_rankings(backend, device, seed):
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 200 if INTERPRETED else 400, (), generator=generator))
    positives = int(torch.randint(1, size, (), generator=generator))
    ranking = random_ranking(
        1000 + seed, size, positives, [0.5, 0.0, 1.0, 0.1][seed % 4], ties=[0, 0.5, 0][seed % 3], spread=3 ** (seed % 3)
    )
    assert_exact(outcome(ranking, backend, device), ranking)


@pytest.mark.parametrize("case", sorted({name[:3] for name in PUBLISHED}))
def test_equals_the_published_implementation(backend, device, case):
    vector = {name: PUBLISHED[f"{case}_{name}"] for name in ("logits", "targets", "delta", "rs_ranking", "rs_sorting")}
    ranking = Ranking(torch.tensor(vector["logits"]), torch.tensor(vector["targets"]), float(vector["delta"]))
    got = outcome(ranking, backend, device)
    assert abs(got[0] - vector["rs_ranking"]) <= 1e-6
    assert abs(got[1] - vector["rs_sorting"]) <= 1e-6
    assert np.abs(got[2].numpy() - PUBLISHED[f"{case}_rs_grad"]).max() <= 1e-6


# Printed by the published code, for the sum of both parts (float32).
A_LOGITS, A_TARGETS = [2.0, 1.0, 0.2, 1.5, 0.8, -1.0, 3.0], [0.9, 0.5, 0.7, 0, 0, 0, -1]
PRINTED = [
    (A_LOGITS, A_TARGETS, 0.5, 0.302910, 0.044444, [0, -0.110317, -0.192593, 0.193122, 0.109788, 0, 0]),
    (A_LOGITS, A_TARGETS, 0.0, 0.244444, 0.033333, [0, -0.077778, -0.166667, 0.177778, 0.066667, 0, 0]),
    (A_LOGITS, A_TARGETS, 1.0, 0.393362, 0.041667, [-0.111111, -0.097727, -0.184524, 0.281385, 0.111977, 0, 0]),
    ([0, 0], [0.8, 0], 0.5, 0.5, 0, [-0.5, 0.5]),
    ([5, 0], [0.8, 0], 0.5, 0, 0, [0, 0]),
    ([0, 0], [0.8, 0.3], 0.5, 0, 0.125, [-0.125, 0.125]),
    ([0, 1], [0.5, 0.5], 0.5, 0, 0, [0, 0]),
    ([0, -0.5], [0.5, 0], 0.5, 0, 0, [0, 0]),
    ([0, 2], [0.9, 0.1], 0.5, 0, 0.266667, [-0.266667, 0.266667]),
]


@pytest.mark.parametrize(("logits", "targets", "delta", "ranking", "sorting", "gradient"), PRINTED)
def test_equals_the_printed_examples(backend, device, logits, targets, delta, ranking, sorting, gradient):
    got = outcome(Ranking(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets), delta), backend, device)
    assert got[0] == pytest.approx(ranking, abs=1e-6)
    assert got[1] == pytest.approx(sorting, abs=1e-6)
    assert got[2].tolist() == pytest.approx(gradient, abs=1e-6)


def test_both_upstream_gradients_are_honoured(backend, device):
    ranking = random_ranking(30, 500, 40)
    only_ranking = outcome(ranking, backend, device, (1, 0))[2]
    only_sorting = outcome(ranking, backend, device, (0, 1))[2]
    assert only_sorting.abs().sum() > 0.01
    assert only_sorting[ranking.targets == 0].abs().max() == 0
    both = outcome(ranking, backend, device, (2, 3))[2]
    torch.testing.assert_close(both, 2 * only_ranking + 3 * only_sorting, rtol=1e-5, atol=1e-8)
    assert_exact(outcome(ranking, backend, device, (0.2, 5)), ranking, (0.2, 5))


def test_one_part_alone_can_go_backward(backend, device):
    logits = torch.tensor([0.0, 2.0, 1.0], device=device, requires_grad=True)
    rank_sort(logits, torch.tensor([0.9, 0.1, 0.0], device=device), **named(backend)).sorting.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-0.266667, 0.266667, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["typical", "odd and large", "ties", "hard step", "initialisation"])
def test_invariants(backend, device, name):
    ranking = NAMED[name]
    value, sorting, gradient = outcome(ranking, backend, device)
    _, _, ranking_gradient = outcome(ranking, backend, device, (1, 0))
    assert gradient.sum().abs() < 1e-6
    assert ranking_gradient[ranking.targets == 0].sum() == pytest.approx(value, abs=2e-6)
    assert gradient[ranking.targets < 0].abs().max() == 0
    assert sorting >= 0

    moved = Ranking(ranking.logits + 4.0, ranking.targets, ranking.delta)
    assert outcome(moved, backend, device)[2] == pytest.approx(gradient, abs=1e-5)

    order = torch.randperm(len(ranking.logits), generator=torch.Generator().manual_seed(0))
    permuted = outcome(Ranking(ranking.logits[order], ranking.targets[order], ranking.delta), backend, device)
    assert permuted[:2] == pytest.approx((value, sorting), abs=1e-6)
    torch.testing.assert_close(permuted[2], gradient[order], rtol=1e-5, atol=1e-8)


def test_sorting_error_is_never_negative(backend, device):
    for seed in range(3 if INTERPRETED else 30):
        ranking = random_ranking(seed, 40, 30, ties=0.5)
        assert outcome(ranking, backend, device)[1] >= 0


@pytest.mark.parametrize("name", ["typical", "ties", "three positives", "one positive", "odd and large"])
def test_sparse_targets_equal_dense_ones(backend, device, name):
    ranking = NAMED[name]
    expected = outcome(ranking, backend, device)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(1))]
    logits = ranking.logits.clone().to(device).requires_grad_()
    sparse = SparseTargets(index, ranking.targets[index], ranking.targets < 0)
    sparse = SparseTargets(sparse.index.to(device), sparse.quality.to(device), sparse.ignore.to(device))
    loss = rank_sort(logits, sparse, delta=ranking.delta, **named(backend))
    sum(loss).backward()
    assert [part.item() for part in loss] == pytest.approx(expected[:2], abs=5e-7)
    torch.testing.assert_close(logits.grad.double().cpu(), expected[2], rtol=3e-6, atol=1e-8)


def test_a_sparse_positive_of_quality_zero_stays_a_positive(backend, device):
    logits = torch.tensor([0.0, 0.0], device=device, requires_grad=True)
    targets = SparseTargets(torch.tensor([0], device=device), torch.zeros(1, device=device))
    loss = rank_sort(logits, targets, **named(backend))
    sum(loss).backward()
    assert loss.ranking.item() == pytest.approx(0.5)
    assert logits.grad.tolist() == pytest.approx([-0.5, 0.5])


def test_a_positive_is_never_ignored(backend, device):
    logits = torch.tensor([0.0, 0.0, 3.0], device=device, requires_grad=True)
    ignore = torch.tensor([True, False, True], device=device)
    targets = SparseTargets(torch.tensor([0], device=device), torch.tensor([0.8], device=device), ignore)
    loss = rank_sort(logits, targets, **named(backend))
    sum(loss).backward()
    assert loss.ranking.item() == pytest.approx(0.5)
    assert logits.grad.tolist() == pytest.approx([-0.5, 0.5, 0])


@pytest.mark.parametrize("sparse", [False, True])
def test_levels_are_one_ranking(backend, device, sparse):
    ranking = NAMED["typical"]
    expected = outcome(ranking, backend, device)
    shapes = [(2, 3, 100), (7, 25), (0,), (1,), (1,)]
    sizes = [600, 175, 0, 1, 1]
    levels = [
        part.view(shape).to(device).requires_grad_()
        for part, shape in zip(ranking.logits.clone().split(sizes), shapes, strict=True)
    ]
    labels = [part.view(shape).to(device) for part, shape in zip(ranking.targets.split(sizes), shapes, strict=True)]
    index = (ranking.targets > 0).nonzero().squeeze(1).to(device)
    quality = ranking.targets.to(device)[index]
    targets = SparseTargets(index, quality, [label < 0 for label in labels]) if sparse else labels
    loss = rank_sort(levels, targets, delta=ranking.delta, **named(backend))
    sum(loss).backward()
    assert [part.item() for part in loss] == pytest.approx(expected[:2], abs=5e-7)
    gradient = torch.cat([level.grad.flatten() for level in levels]).double().cpu()
    torch.testing.assert_close(gradient, expected[2], rtol=3e-6, atol=1e-8)
    assert [level.grad.shape for level in levels] == [torch.Size(shape) for shape in shapes]


def test_non_contiguous_logits(backend, device):
    ranking = random_ranking(40, 24 * 20, 30)
    expected = outcome(ranking, backend, device)
    stored = ranking.logits.view(24, 20).t().contiguous().to(device).requires_grad_()
    loss = rank_sort(stored.t(), ranking.targets.view(24, 20).to(device), **named(backend))
    sum(loss).backward()
    assert [part.item() for part in loss] == pytest.approx(expected[:2], abs=5e-7)
    torch.testing.assert_close(stored.grad.t().flatten().double().cpu(), expected[2], rtol=3e-6, atol=1e-8)


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_both_zeros_are_one_number(backend, device, delta):
    kinks = [0.0, -0.0, 1.0, 2.0, 3.0] if delta == 0 else [0.5, 0.5, 1.0, -0.5, -0.5]  # delta away from them
    logits, targets = torch.tensor([*kinks, 0.0, -0.0]), torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.0, 0.0])
    signed = outcome(Ranking(logits, targets, delta), backend, device)
    unsigned = outcome(Ranking(logits + 0.0, targets, delta), backend, device)
    assert signed[:2] == unsigned[:2]
    assert torch.equal(signed[2], unsigned[2])
    assert_exact(signed, Ranking(logits, targets, delta))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(backend, device, dtype):
    ranking = random_ranking(41, 700, 40)
    rounded = ranking.to(dtype)
    expected = outcome(rounded.to(torch.float32), backend, device)
    logits = rounded.logits.clone().to(device).requires_grad_()
    loss = rank_sort(logits, ranking.targets.to(device), **named(backend))
    assert loss.ranking.dtype == loss.sorting.dtype == torch.float32
    sum(loss).backward()
    assert logits.grad.dtype == dtype
    assert [part.item() for part in loss] == pytest.approx(expected[:2], abs=1e-6)
    # half a unit in the last place of the gradient's own dtype, and float16's subnormals
    resolution = torch.finfo(dtype).eps
    torch.testing.assert_close(logits.grad.double().cpu(), expected[2], rtol=resolution, atol=1e-7)


def test_float64_is_computed_in_float64(backend, device):
    if backend.startswith("triton"):
        with pytest.raises(ValueError, match="float64"):
            rank_sort(
                torch.zeros(3, dtype=torch.float64, device=device), torch.ones(3, device=device), **named(backend)
            )
        return
    ranking = random_ranking(42, 3000, 100).to(torch.float64)
    got, truth = outcome(ranking, backend, device), outcome(ranking, "reference")
    assert got[:2] == pytest.approx(truth[:2], abs=1e-13)
    assert (got[2] - truth[2]).abs().sum() <= 1e-12 * truth[2].abs().sum()


def test_autocast_changes_nothing(backend, device):
    ranking = random_ranking(43, 400, 30)
    expected = outcome(ranking, backend, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = outcome(ranking, backend, device)
    assert got[:2] == expected[:2]
    assert torch.equal(got[2], expected[2])


@pytest.mark.parametrize("targets", [[0.0, 0, 0], [-1.0, -1, -1], [0.0, -1, 0]])
def test_no_positives_is_zero_and_attached(backend, device, targets):
    logits = torch.tensor([1.0, 2.0, -torch.inf], device=device, requires_grad=True)
    loss = rank_sort(logits, torch.tensor(targets, device=device), **named(backend))
    assert [part.item() for part in loss] == [0, 0]
    sum(loss).backward()
    assert logits.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_logits(backend, device, shape):
    logits = torch.zeros(shape, device=device, requires_grad=True)
    loss = rank_sort(logits, torch.zeros(shape, device=device), **named(backend))
    sum(loss).backward()
    assert [part.item() for part in loss] == [0, 0]
    assert logits.grad.shape == shape


@pytest.mark.parametrize("where", ["positive", "negative", "low negative", "quality"])
@pytest.mark.parametrize("count", [2, 40])
def test_nan_makes_everything_nan_but_the_ignored(backend, device, where, count):
    ranking = random_ranking(44, 300, count)
    logits, targets = ranking.logits.clone(), ranking.targets.clone()
    place = (targets > 0).nonzero()[0] if where in ("positive", "quality") else (targets == 0).nonzero()[0]
    if where == "low negative":  # far below every positive, where nothing else would look
        logits[targets == 0] = -50
    (targets if where == "quality" else logits)[place] = torch.nan
    ranking_value, sorting, gradient = outcome(Ranking(logits, targets), backend, device)
    assert np.isnan(ranking_value)
    assert np.isnan(sorting)
    assert gradient[targets >= 0].isnan().all()
    assert (gradient[targets < 0] == 0).all()


def test_nan_without_positives_is_seen(backend, device):
    logits = torch.tensor([torch.nan, 0.0], device=device, requires_grad=True)
    loss = rank_sort(logits, torch.tensor([0.0, 0.0], device=device), **named(backend))
    sum(loss).backward()
    assert all(part.isnan() for part in loss)
    assert logits.grad.isnan().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_ignored_logits_may_be_anything(backend, device, value):
    ranking = NAMED["infinite positives" if value != value else "typical"]
    expected = outcome(ranking, backend, device)
    logits = torch.where(ranking.targets < 0, value, ranking.logits)
    got = outcome(Ranking(logits, ranking.targets, ranking.delta), backend, device)
    assert got[:2] == expected[:2]
    assert torch.equal(got[2], expected[2])


@pytest.mark.skipif(INTERPRETED, reason="every backend has this gradient, and a check takes a dozen runs")
@pytest.mark.filterwarnings("ignore:Input #0 requires gradient:UserWarning")  # Triton takes float32 only
def test_gradcheck_fails_because_the_update_is_no_derivative(backend, device):
    dtype = torch.float32 if backend.startswith("triton") else torch.float64
    logits = torch.tensor([0.1, -0.2, 0.3, 0.05], dtype=dtype, device=device, requires_grad=True)
    targets = torch.tensor([0.9, 0.4, 0.0, 0.0], device=device)
    same = torch.autograd.gradcheck(
        lambda x: rank_sort(x, targets, **named(backend)).ranking, logits, raise_exception=False, eps=1e-3, atol=1e-3
    )
    assert not same


def test_only_one_of_several_levels_may_need_a_gradient(backend, device):
    levels = [torch.tensor([0.0, 1.0], device=device, requires_grad=True), torch.tensor([0.5], device=device)]
    loss = rank_sort(levels, [torch.tensor([0.9, 0.0], device=device), torch.zeros(1, device=device)], **named(backend))
    sum(loss).backward()
    assert levels[0].grad is not None
    assert levels[1].grad is None
