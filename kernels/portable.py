"""The exact count and scatter in linear time, in torch operators: for the CPU, and any device without Triton.

    P  positives      M  all logits      n  logits of one chunk      K  kinks, 2 P (P for a hard step)
    s  logits         d  delta           w  what each positive spreads over the logits that outrank it

Count gives every positive its number of false positives, the sum of H(s_j - s_i) over the negatives j; scatter gives
every logit the sum of w_i H(s_j - s_i) over the positives i. Both pass over the logits once, in chunks, and hold P-sized
float64 tables: O(M + P log P) time, O(P) memory and a chunk's worth of scratch. README.md derives them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .kinks import Kinks, build_kinks
from .relations import squash_infinities, step
from .targets import Examples, is_ignored

Levels = list[tuple[Tensor, Tensor | None]]  # the logits of each level and what says which of them are ignored

# Small enough for a chunk and its scratch to stay in cache, large enough to hide an operator's launch.
CHUNK = 1 << 17
# So few positives are cheaper to visit one by one than to build tables for.
FEW_POSITIVES = 3
# Below this share of logits that any positive can see, it pays to pick them out of their chunk first.
SPARSE_SHARE = 0.3


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What logits of `dtype` are computed in: float64 stays, everything else is widened to float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def any_nan(examples: Examples) -> Tensor:
    """() bool, whether a logit that is not ignored is NaN; no host sync."""
    device = examples.levels[0].device
    total = torch.zeros((), dtype=torch.float32, device=device)
    for chunk, _ in _chunks(_levels(examples), torch.empty(0, device=device), False, 0.0):
        total += 0 * chunk.amax().clamp(-1, 1)
    return total.isnan()


def count_false_positives(positives: Tensor, examples: Examples, delta: float) -> Tensor:
    """Per positive the sum of H(s_j - s_i) over the negatives j, (P,) float64, never below 0.

    `positives` are the logits (P,) at `examples.index` in the computing dtype. Any NaN among the logits that are not
    ignored makes every entry NaN.
    """
    if len(positives) == 0:
        return positives.new_zeros(0, dtype=torch.float64)
    everything = _levels(examples)
    own: Levels = [(positives, examples.masked)]
    if len(positives) <= FEW_POSITIVES:
        mass = _mass_one_by_one(positives, everything, delta) - _mass_one_by_one(positives, own, delta)
        # what rounding leaves of an empty sum is not an error that somebody made
        return torch.where(mass < 1e-9, 0.0 * mass, mass)

    kinks, positives_squashed = _kinks_of(positives, delta)
    counts, sums = _tally(kinks, everything, positives, positives_squashed, delta)
    own_counts, own_sums = _tally(kinks, own, positives, positives_squashed, delta)
    counts -= own_counts  # whole numbers: where no negative is left, nothing is
    sums = torch.where(counts > 0, sums - own_sums, 0.0 * sums)
    return _mass_from_tables(kinks, counts.double(), sums, delta) + 0.0 * sums.sum()


def scatter_to_logits(weights: Tensor, positives: Tensor, examples: Examples, delta: float, out: Tensor) -> None:
    """Writes the sum of w_i H(s_j - s_i) over the positives i to `out` (M,), 0 to the ignored logits.

    `weights` (P,) float64. What the positives' own places get is for the caller to overwrite.
    """
    if len(positives) == 0:
        out.zero_()
        return
    if len(positives) <= FEW_POSITIVES:
        _scatter_one_by_one(weights, positives, examples, delta, out)
        return
    kinks, squashed = _kinks_of(positives, delta)
    value, slope = _profile(kinks, weights, delta)
    dtype = positives.dtype
    # interval k lies between the kinks k - 1 and k: its value at the lower one, its slope, and where that one is
    value, slope = value.to(dtype), slope.to(dtype)
    start = torch.cat([kinks.threshold[:1], kinks.threshold])
    for chunk, part in _chunks(_levels(examples), positives, squashed, delta, out):
        top = chunk.amax()
        if chunk.device.type == "cpu" and top < kinks.threshold[0]:
            part.zero_()
            continue
        chunk = kinks.clamp(chunk)
        seen = _seen(chunk, kinks)
        if seen is None:
            interval = kinks.locate(chunk)
            result = chunk.sub_(start.index_select(0, interval)).mul_(slope.index_select(0, interval))
            part.copy_(result.add_(value.index_select(0, interval)))
        else:
            chunk = chunk[seen]
            interval = kinks.locate(chunk)
            result = chunk.sub_(start.index_select(0, interval)).mul_(slope.index_select(0, interval))
            part.zero_().index_copy_(0, seen, result.add_(value.index_select(0, interval)).to(part.dtype))


def _kinks_of(positives: Tensor, delta: float) -> tuple[Kinks, bool]:
    finite, squashed = _finite(positives, delta)
    return build_kinks(finite, delta, grid=positives.device.type == "cpu"), squashed


def _finite(positives: Tensor, delta: float) -> tuple[Tensor, bool]:
    """The positives with infinities squashed, and whether there were any: then every logit has to be squashed too."""
    squashed = bool(positives.isinf().any())
    return (squash_infinities(positives, positives, delta) if squashed else positives), squashed


def _levels(examples: Examples) -> Levels:
    return list(zip(examples.levels, examples.ignores, strict=True))


def _chunks(
    levels: Levels, positives: Tensor, squashed: bool, delta: float, out: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of the logits in the computing dtype, ignored ones at -inf, and the matching parts of `out`.

    A chunk may be the caller's own memory: read it, do not write to it.
    """
    offset = 0
    for level, ignore in levels:
        for begin in range(0, level.numel(), CHUNK):
            chunk = level[begin : begin + CHUNK]
            if squashed:
                chunk = squash_infinities(chunk, positives, delta)
            chunk = chunk.to(positives.dtype)
            if ignore is not None:
                chunk = chunk.masked_fill(is_ignored(ignore[begin : begin + CHUNK]), -torch.inf)
            yield chunk, chunk if out is None else out[offset + begin : offset + begin + len(chunk)]
        offset += level.numel()


def _seen(chunk: Tensor, kinks: Kinks) -> Tensor | None:
    """The places of the clamped logits above the first kink if they are few, else None: take them all."""
    if chunk.device.type != "cpu":
        return None
    above = chunk >= kinks.threshold[0]
    if int(above.count_nonzero()) > SPARSE_SHARE * len(chunk):
        return None
    return above.nonzero().squeeze(1)


def _tally(
    kinks: Kinks, levels: Levels, positives: Tensor, squashed: bool, delta: float
) -> tuple[Tensor, Tensor]:
    """Per interval the number of logits (K + 1,) int64 and the sum of their offsets from its lower kink, float64."""
    intervals = len(kinks.threshold) + 1
    counts = torch.zeros(intervals, dtype=torch.int64, device=positives.device)
    sums = torch.zeros(intervals, dtype=torch.float64, device=positives.device)
    for chunk, _ in _chunks(levels, positives, squashed, delta):
        top = chunk.amax()  # NaN if there is one
        if chunk.device.type == "cpu":
            if top < kinks.threshold[0]:
                continue
            if top.isnan():
                sums.fill_(torch.nan)
                return counts, sums
        else:
            sums += 0.0 * top.clamp(-1, 1)
        chunk = kinks.clamp(chunk)
        seen = _seen(chunk, kinks)
        chunk = chunk if seen is None else chunk[seen]
        interval = kinks.locate(chunk)
        counts += torch.bincount(interval, minlength=intervals)
        sums.scatter_add_(0, interval.long(), chunk.double())
    # the offsets' sum is exact to float64 this way too: the logits are float32, the products with whole numbers
    sums[1:] -= counts[1:] * kinks.position
    sums[0] *= 0
    return counts, sums


def _mass_from_tables(kinks: Kinks, counts: Tensor, sums: Tensor, delta: float) -> Tensor:
    """Per positive the sum of H over the tallied logits, (P,) float64."""
    at_or_above = counts.flip(0).cumsum(0).flip(0)[1:]  # (K,) logits at or above each kink
    if delta == 0:
        # ties: all kinks of one place count alike
        first = torch.searchsorted(kinks.position, kinks.position, right=True)[kinks.lower] - 1
        return at_or_above[first]
    # N(i) = 1/2d * integral of C over [s_i - d, s_i + d], C(t) the number of logits at or above t
    width = kinks.position.diff()
    integral = torch.zeros_like(at_or_above)
    integral[1:] = (at_or_above[1:] * width + sums[1:-1]).cumsum(0)
    return (integral[kinks.upper] - integral[kinks.lower]) / (2 * delta)


def _profile(kinks: Kinks, weights: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """F(s) = sum of w_i H(s - s_i) as its value at the lower kink and its slope in each interval, both (K + 1,) float64."""
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
    finite, squashed = _finite(positives, delta)
    for chunk, _ in _chunks(levels, positives, squashed, delta):
        for place, positive in enumerate(finite):
            mass[place] += step(chunk - positive, delta).sum(dtype=torch.float64)
    return mass


def _scatter_one_by_one(weights: Tensor, positives: Tensor, examples: Examples, delta: float, out: Tensor) -> None:
    finite, squashed = _finite(positives, delta)
    for chunk, part in _chunks(_levels(examples), positives, squashed, delta, out):
        total = torch.zeros_like(chunk)
        for weight, positive in zip(weights.to(positives.dtype), finite, strict=True):
            total += step(chunk - positive, delta).mul_(weight)
        part.copy_(total)
