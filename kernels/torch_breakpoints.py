"""The passes over the logits (`passes.LogitPasses`) in linear time, in torch operators: for CPUs, or without Triton.

    R  positives of the ranking      P  those of this process      M  its logits      n  logits of one chunk
    K  kinks, 2 R (R for a hard step)      s  logits      d  delta      w  weights of the scatter

Both passes visit the logits once, in chunks, and hold tables of the size of the positives in float64: O(M + R log R)
time, O(R) memory and scratch for a chunk. README.md has the derivation; `triton_breakpoints.py` is the same for Triton.
"""

from typing import Any

import torch
from torch import Tensor

from .passes import Masses
from .targets import Ranking
from .torch_chunks import CHUNK, Levels, counted_chunks, masses_of_nothing, visible_chunks
from .torch_kinks import Kinks, build_kinks
from .torch_step import replace_infinities, step

# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
FEW_EFFORT = 0.05  # work per logit, relative to that of the tables
# Near initialisation most logits fall in one interval. Additions to one address wait for each other, so neighbours add
# to addresses of their own.
LANES = 8


def count(positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
    if len(positives) == 0:
        return masses_of_nothing(positives, ranking)
    levels = ranking.levels_with_ignores()
    among: Levels = [(own, ranking.masked)]  # the positives that the levels hold
    if len(positives) <= FEW_POSITIVES:
        true_positives = _mass_one_by_one(positives, [(own, None)], delta)
        taken_out = true_positives if ranking.masked is None else _mass_one_by_one(positives, among, delta)
        false_positives = _mass_one_by_one(positives, levels, delta) - taken_out
        # an empty sum is exactly 0: a remainder of rounding is no error
        false_positives = torch.where(false_positives < 1e-9, 0.0 * false_positives, false_positives)
        true_positives = true_positives + 0.0 * false_positives.sum()
    else:
        kinks = build_kinks(replace_infinities(positives, positives, delta), delta)
        counts, sums = _tally(kinks, levels, positives, delta)
        own_counts, own_sums = _tally(kinks, [(own, None)], positives, delta)
        true_positives = _mass_from_tables(kinks, own_counts, own_sums, delta)
        if ranking.masked is not None:
            own_counts, own_sums = _tally(kinks, among, positives, delta)
        counts -= own_counts  # whole numbers: where no negative is left, exactly 0
        sums = torch.where(counts > 0, sums - own_sums, 0.0 * sums)
        poison = 0.0 * sums.sum()
        false_positives = _mass_from_tables(kinks, counts, sums, delta) + poison
        true_positives = true_positives + poison
    return Masses(false_positives, true_positives, 0 * false_positives.sum())


def scatter(
    weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: Any = None
) -> Tensor:
    del reuse
    flat, _ = ranking.new_gradient()
    levels = ranking.levels_with_ignores()
    on_cpu = flat.device.type == "cpu"  # on other devices reading the poison would be a host sync
    poisoned = not on_cpu or bool(poison.isnan())
    if len(positives) == 0 or (on_cpu and poisoned):
        flat.zero_()
    else:
        _scatter(weights, positives, levels, delta, flat)
    if poisoned:
        for _, ignored, part in counted_chunks(levels, flat):
            assert part is not None
            part += poison.to(flat.dtype)
            if ignored is not None:
                part.masked_fill_(ignored, 0)
    return flat


def _scatter(weights: Tensor, positives: Tensor, levels: Levels, delta: float, out: Tensor) -> None:
    finite = replace_infinities(positives, positives, delta)
    if len(positives) <= FEW_POSITIVES:
        pairs = list(zip(weights.to(finite.dtype), finite, strict=True))
        for chunk in visible_chunks(levels, positives, delta, out, effort=FEW_EFFORT):
            total = torch.zeros_like(chunk.logits)
            for weight, positive in pairs:
                total += step(chunk.logits - positive, delta).mul_(weight)
            chunk.write(total)
        return

    kinks = build_kinks(finite, delta)
    # interval k lies between the kinks k - 1 and k: its value at the lower one, its slope, and where that one is
    value, slope = (table.to(finite.dtype) for table in _build_profile(kinks, weights, delta))
    start = torch.cat([kinks.threshold[:1], kinks.threshold])
    for chunk in visible_chunks(levels, positives, delta, out):
        logits = kinks.clamp(chunk.logits)
        interval = kinks.locate(logits)
        offset = logits.sub_(start.index_select(0, interval))
        chunk.write(offset.mul_(slope.index_select(0, interval)).add_(value.index_select(0, interval)))


def _tally(kinks: Kinks, levels: Levels, positives: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
    size = (len(kinks.threshold) + 1) * LANES
    counts = torch.zeros(size, dtype=torch.int64, device=positives.device)
    sums = torch.zeros(size, dtype=torch.float64, device=positives.device)
    longest = min(CHUNK, max(level.numel() for level, _ in levels))
    lanes = torch.arange(LANES, dtype=torch.int32, device=positives.device).repeat(longest // LANES + 1)
    for chunk in visible_chunks(levels, positives, delta):
        if chunk.is_nan():
            sums.fill_(torch.nan)
            break
        logits = kinks.clamp(chunk.logits)
        place = kinks.locate(logits).mul_(LANES).add_(lanes[: len(logits)]).long()
        counts += torch.bincount(place, minlength=size)
        sums.scatter_add_(0, place, logits.double())
    counts, sums = counts.view(-1, LANES).sum(1), sums.view(-1, LANES).sum(1)
    # the logits' sum minus that of the kinks: float64 holds both to far more digits than a float32 logit has
    sums[1:] -= counts[1:] * kinks.position
    sums[0] = 0
    return counts, sums


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


def _mass_one_by_one(positives: Tensor, levels: Levels, delta: float) -> Tensor:
    """Per positive the sum of H over the levels, (R,) float64, one positive at a time over cached chunks."""
    mass = torch.zeros(len(positives), dtype=torch.float64, device=positives.device)
    finite = replace_infinities(positives, positives, delta)
    for chunk in visible_chunks(levels, positives, delta, effort=FEW_EFFORT):
        for place, positive in enumerate(finite):
            mass[place] += step(chunk.logits - positive, delta).sum(dtype=torch.float64)
    return mass
