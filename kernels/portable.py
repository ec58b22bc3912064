"""The exact count and scatter in linear time, in torch operators: for the CPU, and any device without Triton.

    P  positives      M  all logits      n  logits of one chunk      K  kinks, 2 P (P for a hard step)
    s  logits         d  delta           w  what each positive spreads over the logits that outrank it

Count gives every positive its number of false positives, the sum of H(s_j - s_i) over the negatives j; scatter gives
every logit the sum of w_i H(s_j - s_i) over the positives i. Both pass over the logits once, in chunks, and hold tables
of the size of the positives in float64: O(M + P log P) time, O(P) memory and scratch for a chunk. README.md has the
derivation.
"""

import torch
from torch import Tensor

from .chunks import CHUNK, Levels, counted_chunks, visible_chunks
from .kinks import Kinks, build_kinks
from .relations import squash_infinities, step
from .targets import Examples

# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
FEW_EFFORT = 0.05  # of that of the tables
# Near initialisation most logits fall in one interval, and an addition has to wait for the one before it to the same
# place; neighbours that add to places of their own do not.
LANES = 8


def count_false_positives(positives: Tensor, examples: Examples, delta: float) -> Tensor:
    """Per positive the sum of H(s_j - s_i) over the negatives j, (P,) float64, never below 0.

    `positives` are the logits (P,) at `examples.index` in the computing dtype. Any NaN among the logits that are not
    ignored makes every entry NaN.
    """
    if len(positives) == 0:
        return positives.new_zeros(0, dtype=torch.float64)
    own: Levels = [(positives, examples.masked)]
    if len(positives) <= FEW_POSITIVES:
        mass = _mass_one_by_one(positives, examples.pairs(), delta) - _mass_one_by_one(positives, own, delta)
        # what rounding leaves of an empty sum is not an error that somebody made
        return torch.where(mass < 1e-9, 0.0 * mass, mass)

    kinks = build_kinks(squash_infinities(positives, positives, delta), delta)
    counts, sums = _tally(kinks, examples.pairs(), positives, delta)
    own_counts, own_sums = _tally(kinks, own, positives, delta)
    counts -= own_counts  # whole numbers: where no negative is left, nothing is
    sums = torch.where(counts > 0, sums - own_sums, 0.0 * sums)
    return _mass_from_tables(kinks, counts.double(), sums, delta) + 0.0 * sums.sum()


def scatter_to_logits(
    weights: Tensor, positives: Tensor, examples: Examples, delta: float, out: Tensor, poison: Tensor
) -> None:
    """Writes the sum of w_i H(s_j - s_i) over the positives i, plus `poison`, to `out` (M,); 0 to the ignored logits.

    `weights` (P,) float64, `poison` () 0 or NaN. What the positives' own places get is for the caller to overwrite.
    """
    asking = out.device.type == "cpu"  # elsewhere a look at the poison would be a host sync
    poisoned = not asking or bool(poison.isnan())
    if len(positives) == 0 or (asking and poisoned):
        out.zero_()
    else:
        _scatter(weights, positives, examples, delta, out)
    if poisoned:
        for _, ignored, part in counted_chunks(examples.pairs(), out):
            assert part is not None
            part += poison.to(out.dtype)
            if ignored is not None:
                part.masked_fill_(ignored, 0)


def _scatter(weights: Tensor, positives: Tensor, examples: Examples, delta: float, out: Tensor) -> None:
    finite = squash_infinities(positives, positives, delta)
    if len(positives) <= FEW_POSITIVES:
        pairs = list(zip(weights.to(finite.dtype), finite, strict=True))
        for chunk in visible_chunks(examples.pairs(), positives, delta, out, effort=FEW_EFFORT):
            total = torch.zeros_like(chunk.logits)
            for weight, positive in pairs:
                total += step(chunk.logits - positive, delta).mul_(weight)
            chunk.write(total)
        return

    kinks = build_kinks(finite, delta)
    # interval k lies between the kinks k - 1 and k: its value at the lower one, its slope, and where that one is
    value, slope = (table.to(finite.dtype) for table in _profile(kinks, weights, delta))
    start = torch.cat([kinks.threshold[:1], kinks.threshold])
    for chunk in visible_chunks(examples.pairs(), positives, delta, out):
        logits = kinks.clamp(chunk.logits)
        interval = kinks.locate(logits)
        offset = logits.sub_(start.index_select(0, interval))
        chunk.write(offset.mul_(slope.index_select(0, interval)).add_(value.index_select(0, interval)))


def _tally(kinks: Kinks, levels: Levels, positives: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
    places = (len(kinks.threshold) + 1) * LANES
    counts = torch.zeros(places, dtype=torch.int64, device=positives.device)
    sums = torch.zeros(places, dtype=torch.float64, device=positives.device)
    longest = min(CHUNK, max(level.numel() for level, _ in levels))
    lanes = torch.arange(LANES, dtype=torch.int32, device=positives.device).repeat(longest // LANES + 1)
    for chunk in visible_chunks(levels, positives, delta):
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
    """Per positive the sum of H over the tallied logits, (P,) float64."""
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


def _mass_one_by_one(positives: Tensor, levels: Levels, delta: float) -> Tensor:
    """Per positive the sum of H over the levels, (P,) float64, one positive at a time over cached chunks."""
    mass = torch.zeros(len(positives), dtype=torch.float64, device=positives.device)
    finite = squash_infinities(positives, positives, delta)
    for chunk in visible_chunks(levels, positives, delta, effort=FEW_EFFORT):
        for place, positive in enumerate(finite):
            mass[place] += step(chunk.logits - positive, delta).sum(dtype=torch.float64)
    return mass
