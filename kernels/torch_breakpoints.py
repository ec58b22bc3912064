"""The passes over the logits (`passes.LogitPasses`) in linear time, in torch operators: for CPUs, or without Triton.

    R  positives of the ranking      P  those of this process      M  its logits      n  logits of one chunk
    K  kinks, 2 R (R for a hard step)      D  distinct kinks      s  logits      d  delta      w  weights of the scatter

Both passes visit the logits once, in chunks, and hold tables of the size of the positives in float64: O(M + R log R)
time, O(R) memory and scratch for a chunk. README.md has the derivation; `triton_breakpoints.py` is the same for Triton.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .passes import Masses
from .targets import Ranking
from .torch_chunks import ROWS, Levels, Scratch, View, masses_of_nothing, poison_chunks, view_of, visible_chunks
from .torch_kinks import Kinks, build_kinks, is_below, look_up
from .torch_step import step

# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
FEW_EFFORT = 0.05  # work per logit, relative to that of the tables
# Near initialisation most logits fall in one interval. Additions to one address wait for each other, so neighbours add
# to addresses of their own, as long as there are few intervals.
LANES = 4  # a power of 2
MOST_SUMS = 1 << 17
# Sums over a band are whole numbers, at most 2^40 units for each logit, and less where so many logits would overflow.
UNIT_BITS, SUM_BITS = 40, 62


class Prepared(NamedTuple):
    """What both passes need of the positives."""

    view: View
    kinks: Kinks | None  # None for few positives


def count(positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
    if len(positives) == 0:
        return masses_of_nothing(positives, ranking)
    prepared = _prepare(positives, delta)
    view, kinks = prepared
    levels = ranking.levels_with_ignores()
    if kinks is None:
        true_positives = _mass_one_by_one(view, [(own, None)])
        taken_out = true_positives if ranking.masked is None else _mass_one_by_one(view, [(own, ranking.masked)])
        false_positives = _mass_one_by_one(view, levels) - taken_out
        # an empty sum is exactly 0: a remainder of rounding is no error
        false_positives = torch.where(false_positives < 1e-9, 0.0 * false_positives, false_positives)
        true_positives = true_positives + 0.0 * false_positives.sum()
    else:
        counts, sums = _tally(kinks, levels, view)
        own_counts, own_sums = taken_out = _tally_few(kinks, view.finite_logits(own))
        if ranking.masked is not None:  # the levels hold the others alone
            taken_out = _tally_few(kinks, view.finite_logits(own)[~ranking.masked])
        counts -= taken_out[0]  # whole numbers: where no negative is left, exactly 0
        sums = torch.where(counts > 0, sums - taken_out[1], 0.0 * sums)
        bits = min(UNIT_BITS, SUM_BITS - (ranking.size + len(positives)).bit_length())
        masses = _masses_from_tables(
            kinks, torch.stack([counts, own_counts]), torch.stack([sums, own_sums]), delta, bits
        )
        false_positives, true_positives = masses + 0.0 * sums.sum()
    return Masses(false_positives, true_positives, 0 * false_positives.sum(), prepared)


def scatter(
    weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: object | None = None
) -> Tensor:
    flat, _ = ranking.new_gradient()
    levels = ranking.levels_with_ignores()
    on_cpu = flat.device.type == "cpu"  # on other devices reading the poison would be a host sync
    poisoned = not on_cpu or bool(poison.isnan())
    if len(positives) == 0 or (on_cpu and poisoned):
        flat.zero_()
    else:
        view, kinks = reuse if isinstance(reuse, Prepared) else _prepare(positives, delta)
        if kinks is None:
            _scatter_one_by_one(weights, view, levels, flat)
        else:
            _scatter(kinks, weights, view, levels, flat)
    if poisoned:
        poison_chunks(levels, flat, poison)
    return flat


def _prepare(positives: Tensor, delta: float) -> Prepared:
    view = view_of(positives, delta)
    few = len(positives) <= FEW_POSITIVES
    return Prepared(view, None if few else build_kinks(view.finite, view.delta, view.largest))


def _tally(kinks: Kinks, levels: Levels, view: View) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
    return _offsets(kinks, *_sums_by_interval(kinks, levels, view))


def _sums_by_interval(kinks: Kinks, levels: Levels, view: View) -> tuple[Tensor, Tensor]:
    """Per interval between distinct kinks the number of logits (D + 1,) int64 and their sum, float64."""
    # Each row adds to a table of its own, so the order of the additions does not depend on the number of threads.
    number = LANES if ROWS * LANES * len(kinks.below) <= MOST_SUMS else 1
    scratch = Scratch(levels, view.positives)
    integer = torch.int32 if sum(level.numel() for level, _ in levels) < 1 << 31 else torch.int64
    counts = torch.zeros((ROWS, len(kinks.below) * number), dtype=integer, device=scratch.logits.device)
    sums = torch.zeros_like(counts, dtype=torch.float64)
    lanes = torch.arange(len(scratch.upto), dtype=torch.int32, device=counts.device).bitwise_and_(number - 1)
    ones = torch.ones_like(scratch.upto, dtype=integer)
    wide = torch.empty_like(ones, dtype=torch.float64)
    for chunk in visible_chunks(levels, view):
        if chunk.is_nan():
            sums.fill_(torch.nan)
            break
        kinks.locate(chunk.logits, scratch)
        size = len(scratch.logits)
        wide[:size].copy_(scratch.logits)
        interval = scratch.upto.add_(is_below(scratch))
        scratch.index.copy_(torch.add(lanes[:size], interval, alpha=number, out=scratch.upto))
        index = scratch.index.view(ROWS, -1)
        counts.scatter_add_(1, index, ones[:size].view(ROWS, -1))
        sums.scatter_add_(1, index, wide[:size].view(ROWS, -1))
    return counts.sum(0).view(-1, number).sum(1), sums.sum(0).view(-1, number).sum(1)


def _tally_few(kinks: Kinks, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same for finite `logits` (n,), without the outlay for many."""
    logits = logits.clamp(kinks.floor, kinks.top)
    interval = kinks.search(logits)
    counts = torch.bincount(interval, minlength=len(kinks.below))
    sums = torch.zeros_like(counts, dtype=torch.float64).index_add_(0, interval, logits.double())
    sums += 0 * sums.sum()  # a NaN reaches every interval
    return _offsets(kinks, counts, sums)


def _offsets(kinks: Kinks, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """From counts and sums of the logits in each interval between distinct kinks (D + 1,) to those of `_tally`."""
    size = len(kinks.position) + 1
    counts, sums = (table.new_zeros(size).index_copy_(0, kinks.below, table) for table in (counts, sums))
    # the logits' sum minus that of the kinks: float64 holds both to far more digits than a float32 logit has
    sums[1:] -= counts[1:] * kinks.position
    sums[0] = 0
    return counts, sums


def _scatter(kinks: Kinks, weights: Tensor, view: View, levels: Levels, out: Tensor) -> None:
    value, slope = _build_profile(kinks, weights, view)
    scratch = Scratch(levels, view.positives)
    result = torch.empty_like(scratch.logits)
    for chunk in visible_chunks(levels, view, out):
        kinks.locate(chunk.logits, scratch)
        values = chunk.room(result[: len(scratch.logits)])
        scratch.index.copy_(torch.add(is_below(scratch), scratch.upto, alpha=2, out=scratch.upto))
        look_up(value, scratch.index, values)
        if view.delta > 0:
            look_up(slope, scratch.index, scratch.logits)
            values.addcmul_(scratch.logits, scratch.offset)
        chunk.write(values)


def _scatter_one_by_one(weights: Tensor, view: View, levels: Levels, out: Tensor) -> None:
    pairs = list(zip(weights.to(view.finite.dtype), view.finite, strict=True))
    for chunk in visible_chunks(levels, view, out, effort=FEW_EFFORT):
        total = torch.zeros_like(chunk.logits)
        for weight, positive in pairs:
            total += step(chunk.logits - positive, view.delta).mul_(weight)
        chunk.write(total)


def _masses_from_tables(kinks: Kinks, counts: Tensor, sums: Tensor, delta: float, bits: int) -> Tensor:
    """Per positive the sum of H over the logits of each tally, (T, R) float64.

    Takes T tallies, (T, K + 1) int64 and float64. A band counts all logits above it, and those in it by their distance
    from its lower end. That is a difference of running sums, but of whole numbers, 2^`bits` to a band: it is exact,
    even where the sums over all bands wrap around 2^64.
    """
    above = counts.flip(1).cumsum(1).flip(1)[:, 1:]  # (T, K) logits at or above each kink
    if delta == 0:
        # equal kinks have the same count: that of the last of them
        last = torch.searchsorted(kinks.position, kinks.position, right=True) - 1
        return above[:, last][:, kinks.lower].double()
    units = 2.0**bits
    place = kinks.width.cumsum(0).sub_(kinks.width).mul_(units).round_().long()  # (K,) of each kink, along the bands
    offsets = torch.where(kinks.width > 0, sums[:, 1:] / kinks.band * units, 0.0).round_().long().clamp_(min=0)
    along = offsets.add_(counts[:, 1:] * place).cumsum(1)  # up to the next kink
    along = along.sub_(offsets)
    lower, upper = kinks.lower, kinks.upper
    full = above[:, upper]
    ramp = along[:, upper] - along[:, lower] - place[lower] * (above[:, lower] - full)
    return full + ramp.double() / units


def _build_profile(kinks: Kinks, weights: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """F(s) = sum of w_i H(s - s_i) next to each distinct kink: its value there and its slope, (2 D + 1,).

    Place 2 k is for logits at or above the k-th distinct kink, 2 k - 1 for those below it, up to the next one. The
    value is that at the threshold, which logits are compared with: their distance from it is exact.
    """
    size, dtype = len(kinks.position), view.finite.dtype
    last, first = kinks.below[1:] - 1, kinks.below[:-1]  # (D,) of the kinks of each threshold
    value, slope = (torch.zeros(2 * len(last) + 1, dtype=dtype, device=weights.device) for _ in range(2))
    if view.delta == 0:
        at_kinks = torch.zeros(size, dtype=torch.float64, device=weights.device)
        at_kinks.index_copy_(0, kinks.lower, weights).cumsum_(0)
        value[2::2] = at_kinks[last]
        value[3::2] = at_kinks[first[1:] - 1]
        return value, slope
    # the weights of the bands that cover the interval above each kink
    covering = torch.empty(size, dtype=torch.float64, device=weights.device)
    covering[kinks.lower] = weights
    covering[kinks.upper] = -weights
    # outside all bands exactly 0: a gap can be so wide that a rounding error would show
    covering = torch.where(kinks.width > 0, covering.cumsum_(0), 0.0)
    rise = covering * kinks.width
    at_kinks, slopes = rise.cumsum(0).sub_(rise), covering.div_(kinks.band)
    del rise
    threshold, most = kinks.threshold.double(), torch.finfo(dtype).max
    for places, kink, before in ((slice(2, None, 2), last, last), (slice(1, None, 2), first, first - 1)):
        steepness = slopes[before]  # below all kinks that of the last one, which is 0 too
        value[places] = at_kinks[kink] + steepness * (threshold - kinks.position[kink])
        slope[places] = steepness.clamp(-most, most)
    return value, slope


def _mass_one_by_one(view: View, levels: Levels) -> Tensor:
    """Per positive the sum of H over the levels, (R,) float64, one positive at a time over cached chunks."""
    mass = torch.zeros(len(view.finite), dtype=torch.float64, device=view.finite.device)
    for chunk in visible_chunks(levels, view, effort=FEW_EFFORT):
        for place, positive in enumerate(view.finite):
            mass[place] += step(chunk.logits - positive, view.delta).sum(dtype=torch.float64)
    return mass
