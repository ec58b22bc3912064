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
from .torch_kinks import Kinks, build_kinks, look_up, to_intervals
from .torch_step import step

# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
FEW_EFFORT = 0.05  # work per logit, relative to that of the tables
# Near initialisation most logits fall in one interval. Additions to one address wait for each other, so neighbours add
# to addresses of their own, as long as there are few intervals.
LANES = 4  # a power of 2
MOST_SUMS = 1 << 17


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
        own_counts, own_sums = _tally_few(kinks, view.finite_logits(own))
        true_positives = _mass_from_tables(kinks, own_counts, own_sums, delta)
        if ranking.masked is not None:  # the levels hold the others alone
            own_counts, own_sums = _tally_few(kinks, view.finite_logits(own)[~ranking.masked])
        counts -= own_counts  # whole numbers: where no negative is left, exactly 0
        sums = torch.where(counts > 0, sums - own_sums, 0.0 * sums)
        poison = 0.0 * sums.sum()
        false_positives = _mass_from_tables(kinks, counts, sums, delta) + poison
        true_positives = true_positives + poison
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
    return Prepared(view, None if len(positives) <= FEW_POSITIVES else build_kinks(view.finite, delta))


def _tally(kinks: Kinks, levels: Levels, view: View) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
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
        scratch.index.copy_(torch.add(lanes[:size], to_intervals(scratch), alpha=number, out=scratch.upto))
        index = scratch.index.view(ROWS, -1)
        counts.scatter_add_(1, index, ones[:size].view(ROWS, -1))
        sums.scatter_add_(1, index, wide[:size].view(ROWS, -1))
    return _offsets(kinks, *(table.sum(0).view(-1, number).sum(1) for table in (counts, sums)))


def _tally_few(kinks: Kinks, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same for finite `logits` (n,), without the outlay for many."""
    logits = logits.clamp(kinks.floor, kinks.top)
    interval = kinks.search(logits)
    counts = torch.bincount(interval, minlength=len(kinks.below))
    sums = torch.zeros_like(counts, dtype=torch.float64).index_add_(0, interval, logits.double())
    sums += 0 * logits.sum()  # a NaN reaches every interval
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
    profile = (table.to(view.finite.dtype) for table in _build_profile(kinks, weights, view.delta))
    value, slope = (table.index_select(0, kinks.below) for table in profile)  # of each interval between distinct kinks
    scratch = Scratch(levels, view.positives)
    result = torch.empty_like(scratch.logits)
    for chunk in visible_chunks(levels, view, out):
        kinks.locate(chunk.logits, scratch)
        values = chunk.room(result[: len(scratch.logits)])
        if view.delta == 0:
            scratch.index.copy_(to_intervals(scratch))
            look_up(value, scratch.index, values)
        else:  # no jumps: the value at a kink serves the intervals on both sides
            scratch.index.copy_(scratch.upto)
            look_up(value, scratch.index, values)
            scratch.index.copy_(to_intervals(scratch))
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


def _mass_from_tables(kinks: Kinks, counts: Tensor, sums: Tensor, delta: float) -> Tensor:
    """Per positive the sum of H over the tallied logits, (R,) float64."""
    counts = counts.double()
    at_or_above = counts.flip(0).cumsum(0).flip(0)[1:]  # (K,) logits at or above each kink
    if delta == 0:
        # equal kinks have the same count: that of the last of them
        last = torch.searchsorted(kinks.position, kinks.position, right=True) - 1
        return at_or_above[last][kinks.lower]
    # N(i) = 1/2d * integral of C over [s_i - d, s_i + d], C(t) the number of logits at or above t
    width = kinks.position.diff()
    integral = torch.zeros_like(at_or_above)
    integral[1:] = (at_or_above[1:] * width + sums[1:-1]).cumsum(0)
    return (integral[kinks.upper] - integral[kinks.lower]) / (2 * delta)


def _build_profile(kinks: Kinks, weights: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """F(s) = sum of w_i H(s - s_i): its value at the lower kink and its slope in each interval, (K + 1,) float64."""
    size = len(kinks.position)
    value = torch.zeros(size + 1, dtype=torch.float64, device=weights.device)
    slope = torch.zeros_like(value)
    if delta == 0:
        value[1:].index_copy_(0, kinks.lower, weights).cumsum_(0)
        return value, slope
    change = torch.empty(size, dtype=torch.float64, device=weights.device)  # of the slope, at each kink
    change[kinks.lower] = weights / (2 * delta)
    change[kinks.upper] = -weights / (2 * delta)
    slope[1:] = change.cumsum(0)
    slope[-1] = 0  # without what rounding leaves
    value[2:] = (slope[1:-1] * kinks.position.diff()).cumsum(0)
    return value, slope


def _mass_one_by_one(view: View, levels: Levels) -> Tensor:
    """Per positive the sum of H over the levels, (R,) float64, one positive at a time over cached chunks."""
    mass = torch.zeros(len(view.finite), dtype=torch.float64, device=view.finite.device)
    for chunk in visible_chunks(levels, view, effort=FEW_EFFORT):
        for place, positive in enumerate(view.finite):
            mass[place] += step(chunk.logits - positive, view.delta).sum(dtype=torch.float64)
    return mass
