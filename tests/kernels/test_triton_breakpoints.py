"""The passes by breakpoints on Triton: equal to the dense equations in float64, whatever the order of the work.

P  positives      M  logits
"""

from dataclasses import replace

import pytest
import torch
from rank_sort_cases import INTERPRETED, Ranking, named_rankings, random_ranking

pytest.importorskip("triton")
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from breakpoint_passes import (
    DEVICE,
    both_passes,
    count,
    counted,
    negatives_alone,
    of_positives,
    positives_of,
    prepared,
    scatter,
    weights_of,
)

from rst.kernels import triton_breakpoints as breakpoints
from rst.kernels import triton_kinks as kinks
from rst.kernels import triton_kinks_merge as merge
from rst.kernels import triton_scans as scans
from rst.kernels import triton_tally as tally
from rst.kernels.torch_step import pairwise_step
from rst.kernels.triton_masses import ALONG_KINKS, write_masses

NAMED = named_rankings()
UNIT = 2.0**-30


def assert_exact(ranking: Ranking, gradient_error: float = 2e-7) -> None:
    """Both passes against H in float64 on the same logits; a mass of nothing is exactly 0.

    Offsets are counted in whole units, so the error of a mass may grow with the number of visible logits.
    """
    made = prepared(ranking)
    masses = count(made, ranking.delta)
    weights = weights_of(made)
    gradient = scatter(weights, made, ranking.delta).double().cpu()

    logits, targets = ranking.logits.double(), ranking.targets
    step = pairwise_step(positives_of(made).double().cpu(), logits, ranking.delta)  # (P, M)
    for mass, chosen in ((masses.false_positives, targets == 0), (masses.true_positives, targets > 0)):
        truth, seen = step[:, chosen].sum(1), (step[:, chosen] > 0).sum(1)
        assert mass.dtype == torch.float64
        assert ((mass.cpu() - truth).abs() <= 1e-7 * truth + 3 * UNIT * seen).all(), (mass.cpu() - truth).abs().max()
        assert mass.cpu()[truth == 0].abs().sum() == 0
    truth = (weights.cpu() @ step).masked_fill(targets < 0, 0)
    assert (gradient - truth).abs().sum() <= gradient_error * truth.abs().sum() + 1e-30
    assert gradient[truth == 0].abs().sum() == 0


@pytest.mark.parametrize("name", NAMED)
def test_named_rankings(name):
    assert_exact(NAMED[name])


@pytest.mark.parametrize("seed", range(20))
def test_random_rankings(seed):
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 600, (), generator=generator))
    positives = int(torch.randint(1, size, (), generator=generator))
    delta, spread = [0.5, 0.0, 1.0, 0.1, 1 / 3][seed % 5], [1.0, 30.0, 1e-3][seed % 3]
    assert_exact(random_ranking(2000 + seed, size, positives, delta, spread=spread, ties=[0, 0.25][seed % 2] * spread))


@pytest.mark.parametrize("delta", [0.5, 0.0, 1e-3])
@pytest.mark.parametrize("seed", range(5))
def test_infinities_anywhere(seed, delta):
    ranking = random_ranking(seed, 60, 12, delta, ties=0.5)
    kinds = torch.randint(0, 9, (60,), generator=torch.Generator().manual_seed(seed))
    for kind, value in enumerate((torch.inf, -torch.inf, 1e29, -1e29)):
        ranking.logits[kinds == kind] = value
    assert_exact(ranking)


def test_beyond_1e30_counts_as_infinite():
    ranking = random_ranking(0, 60, 12)
    infinite, beyond = ranking.logits.clone(), ranking.logits.clone()
    for place, value in enumerate((2e30, -1e35, 3.4e38, 1e30)):
        beyond[place::10], infinite[place::10] = value, torch.inf if value > 0 else -torch.inf
    assert_same_bits(Ranking(beyond, ranking.targets), Ranking(infinite, ranking.targets))


def test_a_positive_too_large_for_delta_still_counts():
    """float64 cannot tell 1e20 from 1e20 + 0.5, but a loss of 0 would hide the fault."""
    logits = torch.tensor([1e20, -1e20, 1e21, 1e19, -1e21, 0.0])
    made = prepared(Ranking(logits, torch.tensor([0.9, 0.8, 0.0, 0.0, 0.0, 0.0])))
    masses = count(made, 0.5)
    assert masses.false_positives.tolist() == [1, 3]
    assert masses.true_positives.tolist() == [0.5, 1.5]
    weights = torch.tensor([1.0, 10.0], dtype=torch.float64, device=DEVICE)
    gradient = scatter(weights, made, 0.5)
    assert gradient.tolist() == [10.5, 5, 11, 10, 0, 10]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_half_precision_with_ties(dtype, delta):
    """Logits are widened exactly, so the masses are those of the same logits in float32; the gradient is rounded."""
    ranking = random_ranking(40, 900, 60, delta).to(dtype)
    assert len(ranking.logits.unique()) < 880
    assert_exact(ranking, gradient_error=torch.finfo(dtype).eps)
    masses = (count(prepared(each), delta) for each in (ranking, ranking.to(torch.float32)))
    for one, other in zip(*(each[:3] for each in masses), strict=True):
        assert torch.equal(one, other)


def shortened(ranking: Ranking, size: int) -> Ranking:
    """The ranking of its first `size` logits."""
    return replace(ranking, logits=ranking.logits[:size], targets=ranking.targets[:size])


def assert_same_bits(one: Ranking, other: Ranking, split: tuple[int, ...] = ()) -> None:
    for expected, got in zip(both_passes(one), both_passes(other, split), strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize("split", [(0, 1), (400,), (3, 3, 776), (16, 48, 300, 777)])
def test_levels_split_anywhere_give_the_same_bits(split):
    assert_same_bits(NAMED["typical"], NAMED["typical"], split)


@pytest.mark.parametrize("name", ["typical", "initialisation", "hard step", "ties", "infinities of both"])
@pytest.mark.parametrize(("block", "programs", "tables"), [(4, 3, 1), (32, 1, 2), (64, 9, 8), (1024, 1, 4)])
def test_any_work_sharing_gives_the_same_bits(monkeypatch, name, block, programs, tables):
    ranking = shortened(NAMED[name], 100)
    expected = both_passes(ranking)
    for module in (breakpoints, tally):
        monkeypatch.setattr(module, "BLOCK", block)
        monkeypatch.setattr(module, "program_count", lambda tiles, device: programs)
    monkeypatch.setattr(tally, "LEAST_TABLES", tables)
    monkeypatch.setattr(tally, "MOST_TABLES", tables)
    for one, other in zip(expected, both_passes(ranking), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["typical", "hard step", "ties", "infinities of both"])
@pytest.mark.parametrize(("programs", "tables", "most"), [(2, 2, 8), (3, 1, 24), (5, 2, 16)])
def test_tables_that_are_full_are_reduced_and_used_again(monkeypatch, name, programs, tables, most):
    ranking = shortened(NAMED[name], 100)
    expected = both_passes(ranking, (0, 33))
    monkeypatch.setattr(tally, "BLOCK", 8)
    monkeypatch.setattr(tally, "program_count", lambda tiles, device: programs)
    monkeypatch.setattr(tally, "LEAST_TABLES", tables)
    monkeypatch.setattr(tally, "MOST_TABLES", tables)
    monkeypatch.setattr(tally, "MOST_COUNTED", most)
    for one, other in zip(expected, both_passes(ranking, (0, 33)), strict=True):
        assert torch.equal(one, other)


class Tiles:
    """Stands in for `Pieces`: all that `rounds_of` asks for is a number of tiles."""

    def __init__(self, number: int) -> None:
        self.number = number

    def tiles(self, block: int) -> int:
        del block
        return self.number


@pytest.mark.parametrize("tiles", [[0], [1], [3, 5], [84_000], [84_000, 1, 70_000], [300_000]])
@pytest.mark.parametrize("number", [1, 4, 64, 256])
@pytest.mark.parametrize("segmented", [False, True])
def test_no_table_counts_more_than_it_can_hold(monkeypatch, tiles, number, segmented):
    block, multiprocessors = 256, 132
    monkeypatch.setattr(tally, "BLOCK", block)
    monkeypatch.setattr(tally, "program_count", lambda tiles, device: min(tiles, 32 * multiprocessors))
    rounds = tally.rounds_of([Tiles(each) for each in tiles], number, torch.device("cpu"))  # type: ignore
    held, visited = [0] * number, 0
    for pieces, begin, end, programs, reduced in rounds:
        visited += end - begin
        for program in range(programs):
            if segmented:  # as `share_of` cuts them
                share = -(-(end - begin) // programs)
                seen = max(0, min(share, end - begin - program * share))
            else:
                seen = len(range(begin + program, end, programs))
            held[program % number] += seen * block
        assert max(held) <= tally.MOST_COUNTED
        if reduced:
            held = [0] * number
        assert isinstance(pieces, Tiles)
    assert visited == sum(tiles)
    assert not any(held)
    if number == 256 and sum(tiles) * block < 30_000_000:
        assert len(rounds) == sum(each > 0 for each in tiles)


@pytest.mark.parametrize("name", ["typical", "hard step", "far apart", "equal logits"])
def test_any_blocks_along_the_kinks(monkeypatch, name):
    """Other blocks of the scan change the order of float64 sums; the sums of the count are whole numbers."""
    ranking = shortened(NAMED[name], 200)
    expected = both_passes(ranking)
    monkeypatch.setattr(merge, "BLOCK", 64)
    monkeypatch.setattr(tally, "REDUCE_BLOCK", 16)
    monkeypatch.setattr(scans, "SCAN_BLOCK", 4)
    masses, gradient = both_passes(ranking)
    assert torch.equal(masses, expected[0])
    torch.testing.assert_close(gradient, expected[1], rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("cells", [1, 2, 64, 1 << 13])
def test_any_grid_over_the_kinks(monkeypatch, cells):
    expected = both_passes(NAMED["outlying positive"])
    monkeypatch.setattr(merge, "LEAST_CELLS", cells)
    monkeypatch.setattr(merge, "MOST_CELLS", cells)
    for one, other in zip(expected, both_passes(NAMED["outlying positive"]), strict=True):
        assert torch.equal(one, other)


def test_the_same_bits_every_time():
    """In any order of the logits; on a GPU also in any order of the atomics."""
    ranking = random_ranking(50, 200 if INTERPRETED else 100_000, 20)
    masses, gradient = both_passes(ranking)
    made = prepared(ranking)
    for seed in range(3 if INTERPRETED else 100):
        order = torch.randperm(len(ranking.logits), generator=torch.Generator().manual_seed(seed))
        index = order.argsort()[made.index.cpu()].to(DEVICE)  # the positives stay in the caller's order
        labels = ranking.targets[order].to(DEVICE)
        other = replace(made, levels=[made.levels[0][order]], index=index, ignores=[labels])
        assert torch.equal(torch.stack(count(other, 0.5)[:2]), masses)
        assert torch.equal(scatter(weights_of(made), other, 0.5), gradient[order])


@pytest.mark.skipif(not INTERPRETED, reason="listens to an interpreted kernel")
@pytest.mark.parametrize(("distance", "searches"), [(0.0, 2), (2.0, 0)], ids=["initialisation", "trained"])
def test_most_tiles_need_no_search(monkeypatch, distance, searches):
    """Each of two programs searches once, with its first tile, and never where all logits are too low."""
    monkeypatch.setattr(tally, "BLOCK", 64)
    monkeypatch.setattr(tally, "program_count", lambda tiles, device: 2)
    calls = []
    monkeypatch.setattr(tally, "locate", lambda *args: calls.append(0) or kinks.locate(*args))
    positives, logits = torch.randn(20) * 0.01, torch.randn(1000) * 0.01 - distance
    masses = count(negatives_alone(logits), 0.5, others=[of_positives(positives)])
    assert len(calls) == searches
    truth = pairwise_step(positives.double(), logits.double(), 0.5).sum(1)
    torch.testing.assert_close(masses.false_positives, truth, rtol=1e-7, atol=0)


def test_more_logits_than_an_int32_counts():
    """The tables of 2^32 logits: sums along the kinks wrap around, their differences do not."""
    _, tables = counted(of_positives(torch.tensor([0.0, 0.25, 100.0, 200.0])), 0.5)
    rows = 2 * 4 + 1
    tallies = torch.zeros((3, rows, 2), dtype=torch.int64, device=DEVICE)
    tallies[2, 2] = torch.tensor([1 << 31, (1 << 31) * (1 << 27)])  # [-0.25, 0.5), at -0.125 all: 2^27 units from -0.25
    tallies[2, 8, 0] = 1 << 31  # above all
    along = torch.empty(3 * rows, dtype=torch.int64, device=DEVICE)
    units = scans.units_per_logit(0.5)
    assert units == 2**30 / 2
    scans.integrate(tables, tallies, along, 0.5, units)
    false_positives = write_masses(tables, ALONG_KINKS, tallies, along, 0.5).masses[:4]
    expected = torch.tensor([(1 << 31) * (1 + 0.5), (1 << 31) * 1.25, 1 << 31, 1 << 31], dtype=torch.float64)
    torch.testing.assert_close(false_positives.cpu(), expected, rtol=1e-8, atol=0)
