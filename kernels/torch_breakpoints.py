"""The exact count and scatter in linear time, in torch operators: for the CPU, and any device without Triton.

    R  rows, the positives asked about      P  positives of `examples`      M  all logits      n  logits of one chunk
    K  kinks, 2 R (R for a hard step)       s  logits      d  delta      w  what each row spreads over the rest

Count gives every row its mass of false positives, the sum of H(s_j - s_i) over the negatives j, and that of the
positives; scatter gives every logit the sum of w_i H(s_j - s_i) over the rows i. Both pass over the logits once, in
chunks, and hold tables of the size of the rows in float64: O(M + R log R) time, O(R) memory and scratch for a chunk.
README.md has the derivation.
"""

import torch
from torch import Tensor

from .targets import Examples, Masses
from .torch_chunks import CHUNK, Levels, counted_chunks, visible_chunks
from .torch_kinks import Kinks, build_kinks
from .torch_step import squash_infinities, step

# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
FEW_EFFORT = 0.05  # of that of the tables
# Near initialisation most logits fall in one interval, and an addition has to wait for the one before it to the same
# place; neighbours that add to places of their own do not.
LANES = 8


def count(rows: Tensor, own: Tensor, examples: Examples, delta: float) -> Masses:
    """Per row the sum of H(s_j - s_i) over the negatives j and over the positives j, (R,) float64, never below 0.

    `rows` (R,) are the logits asked about and `own` (P,) those at `examples.index`, both in the computing dtype; they
    differ where one ranking spans several processes. Any NaN among the logits that are not ignored makes every entry
    NaN.
    """
    if len(rows) == 0:
        return Masses(rows.new_zeros(0, dtype=torch.float64), rows.new_zeros(0, dtype=torch.float64))
    unmasked: Levels = [(own, examples.masked)]
    if len(rows) <= FEW_POSITIVES:
        true_positives = _mass_one_by_one(rows, [(own, None)], delta)
        taken_out = true_positives if examples.masked is None else _mass_one_by_one(rows, unmasked, delta)
        false_positives = _mass_one_by_one(rows, examples.pairs(), delta) - taken_out
        # what rounding leaves of an empty sum is not an error that somebody made
        false_positives = torch.where(false_positives < 1e-9, 0.0 * false_positives, false_positives)
        return Masses(false_positives, true_positives + 0.0 * false_positives.sum())

    kinks = build_kinks(squash_infinities(rows, rows, delta), delta)
    counts, sums = _tally(kinks, examples.pairs(), rows, delta)
    own_counts, own_sums = _tally(kinks, [(own, None)], rows, delta)
    true_positives = _mass_from_tables(kinks, own_counts, own_sums, delta)
    if examples.masked is not None:
        own_counts, own_sums = _tally(kinks, unmasked, rows, delta)
    counts -= own_counts  # whole numbers: where no negative is left, nothing is
    sums = torch.where(counts > 0, sums - own_sums, 0.0 * sums)
    poison = 0.0 * sums.sum()
    return Masses(_mass_from_tables(kinks, counts, sums, delta) + poison, true_positives + poison)


def scatter_to_logits(
    weights: Tensor, rows: Tensor, examples: Examples, delta: float, out: Tensor, poison: Tensor
) -> None:
    """Writes the sum of w_i H(s_j - s_i) over the rows i, plus `poison`, to `out` (M,); 0 to the ignored logits.

    `weights` (R,) float64, `poison` () 0 or NaN. What the positives' own places get is for the caller to overwrite.
    """
    asking = out.device.type == "cpu"  # elsewhere a look at the poison would be a host sync
    poisoned = not asking or bool(poison.isnan())
    if len(rows) == 0 or (asking and poisoned):
        out.zero_()
    else:
        _scatter(weights, rows, examples, delta, out)
    if poisoned:
        for _, ignored, part in counted_chunks(examples.pairs(), out):
            assert part is not None
            part += poison.to(out.dtype)
            if ignored is not None:
                part.masked_fill_(ignored, 0)


def _scatter(weights: Tensor, rows: Tensor, examples: Examples, delta: float, out: Tensor) -> None:
    finite = squash_infinities(rows, rows, delta)
    if len(rows) <= FEW_POSITIVES:
        pairs = list(zip(weights.to(finite.dtype), finite, strict=True))
        for chunk in visible_chunks(examples.pairs(), rows, delta, out, effort=FEW_EFFORT):
            total = torch.zeros_like(chunk.logits)
            for weight, row in pairs:
                total += step(chunk.logits - row, delta).mul_(weight)
            chunk.write(total)
        return

    kinks = build_kinks(finite, delta)
    # interval k lies between the kinks k - 1 and k: its value at the lower one, its slope, and where that one is
    value, slope = (table.to(finite.dtype) for table in _profile(kinks, weights, delta))
    start = torch.cat([kinks.threshold[:1], kinks.threshold])
    for chunk in visible_chunks(examples.pairs(), rows, delta, out):
        logits = kinks.clamp(chunk.logits)
        interval = kinks.locate(logits)
        offset = logits.sub_(start.index_select(0, interval))
        chunk.write(offset.mul_(slope.index_select(0, interval)).add_(value.index_select(0, interval)))


def _tally(kinks: Kinks, levels: Levels, rows: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
    places = (len(kinks.threshold) + 1) * LANES
    counts = torch.zeros(places, dtype=torch.int64, device=rows.device)
    sums = torch.zeros(places, dtype=torch.float64, device=rows.device)
    longest = min(CHUNK, max(level.numel() for level, _ in levels))
    lanes = torch.arange(LANES, dtype=torch.int32, device=rows.device).repeat(longest // LANES + 1)
    for chunk in visible_chunks(levels, rows, delta):
        if chunk.is_nan():
            sums.fill_(torch.nan)
            break
        logits = kinks.clamp(chunk.logits)
        place = kinks.locate(logits).mul_(LANES).add_(lanes[: len(logits)]).long()
        counts += torch.bincount(place, minlength=places)
        sums.scatter_add_(0, place, logits.double())
    counts, sums = counts.view(-1, LANES).sum(1), sums.view(-1, LANES).sum(1)
    # the logits' sum less that of the kinks: float64 holds both to far more digits than a float32 logit has
    sums[1:] -= counts[1:] * kinks.position
    sums[0] = 0
    return counts, sums


def _mass_from_tables(kinks: Kinks, counts: Tensor, sums: Tensor, delta: float) -> Tensor:
    """Per row the sum of H over the tallied logits, (R,) float64."""
    counts = counts.double()
    at_or_above = counts.flip(0).cumsum(0).flip(0)[1:]  # (K,) logits at or above each kink
    if delta == 0:
        # kinks of one place count alike, so each takes the last of its ties
        last = torch.searchsorted(kinks.position, kinks.position, right=True) - 1
        return at_or_above[last][kinks.lower]
    # N(i) = 1/2d * integral of C over [s_i - d, s_i + d], C(t) the number of logits at or above t
    width = kinks.position.diff()
    integral = torch.zeros_like(at_or_above)
    integral[1:] = (at_or_above[1:] * width + sums[1:-1]).cumsum(0)
    return (integral[kinks.upper] - integral[kinks.lower]) / (2 * delta)


def _profile(kinks: Kinks, weights: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """F(s) = sum of w_i H(s - s_i): its value at the lower kink and its slope in each interval, (K + 1,) float64."""
    size = len(kinks.position)
    value = torch.zeros(size + 1, dtype=torch.float64, device=weights.device)
    slope = torch.zeros_like(value)
    if delta == 0:
        value[1:].index_copy_(0, kinks.lower, weights).cumsum_(0)
        return value, slope
    bend = torch.empty(size, dtype=torch.float64, device=weights.device)
    bend[kinks.lower] = weights / (2 * delta)
    bend[kinks.upper] = -weights / (2 * delta)
    slope[1:] = bend.cumsum(0)
    slope[-1] = 0  # what rounding leaves of it
    value[2:] = (slope[1:-1] * kinks.position.diff()).cumsum(0)
    return value, slope


def _mass_one_by_one(rows: Tensor, levels: Levels, delta: float) -> Tensor:
    """Per row the sum of H over the levels, (R,) float64, one row at a time over cached chunks."""
    mass = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    finite = squash_infinities(rows, rows, delta)
    for chunk in visible_chunks(levels, rows, delta, effort=FEW_EFFORT):
        for place, row in enumerate(finite):
            mass[place] += step(chunk.logits - row, delta).sum(dtype=torch.float64)
    return mass
