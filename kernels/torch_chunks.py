"""The logits of a ranking in pieces that fit a cache, without those that no positive can see.

    P  positives      M  all logits      n  logits of one chunk

Whatever passes over the logits in torch operators passes over them here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .places import rare_places
from .targets import is_ignored
from .torch_step import squash_infinities

Levels = list[tuple[Tensor, Tensor | None]]  # the logits of each level, and what says which of them are ignored

# Small enough for a chunk and its scratch to stay in cache, large enough to hide an operator's launch.
CHUNK = 1 << 18
# Below this share of logits that any positive can see, it pays to pick them out of their chunk first.
SPARSE_SHARE = 0.1
# One logit in so many tells the share well enough.
SAMPLE_STEP = 16


@dataclass(frozen=True)
class Chunk:
    """Some logits that a positive may see, finite or infinite, and where their results belong."""

    logits: Tensor  # (n,) in the computing dtype; may be the caller's own memory, so read it only
    places: Tensor | None  # (n,) int64, where in `part` they belong; None: all of it, in order
    part: Tensor | None  # this chunk's part of the output
    highest: float | None = None  # the largest logit, NaN if there is one; None: nobody has looked

    def write(self, values: Tensor) -> None:
        """Stores one value (n,) for each of the logits; those left out have got their 0."""
        assert self.part is not None, "these chunks are for reading"
        if self.places is None:
            self.part.copy_(values)
        else:
            self.part.index_copy_(0, self.places, values.to(self.part.dtype))

    def is_nan(self) -> bool:
        """Whether a logit is NaN."""
        return math.isnan(self.logits.amax() if self.highest is None else self.highest)


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """What logits of `dtype` are computed in: float64 stays, everything else is widened to float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def counted_chunks(levels: Levels, out: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """All logits chunk by chunk: (logits, bool mask of the ignored ones or None, part of `out` (M,) or None)."""
    offset = 0
    for level, ignore in levels:
        for begin in range(0, level.numel(), CHUNK):
            logits = level[begin : begin + CHUNK]
            ignored = None if ignore is None else is_ignored(ignore[begin : begin + CHUNK])
            yield logits, ignored, None if out is None else out[offset + begin : offset + begin + len(logits)]
        offset += level.numel()


def visible_chunks(
    levels: Levels, positives: Tensor, delta: float, out: Tensor | None = None, *, effort: float = 1.0
) -> Iterator[Chunk]:
    """The logits with H > 0 for one of the `positives` (P,), and maybe more; a NaN is always among them.

    `effort` is the work on each logit, in that of the tables: the less, the rarer is picking them out worth it.
    Where a positive is infinite, all logits are squashed as `squash_infinities` does it to the positives. With `out`
    (M,), whatever is left out gets 0.
    """
    squashed = bool(positives.isinf().any())
    finite = squash_infinities(positives, positives, delta)
    # twice delta, and some more: the exact border is for the arithmetic behind, which must not be cut short by rounding
    lowest = float(finite.min())
    reach = lowest - 2 * delta - 1e-6 * abs(lowest)
    for logits, ignored, part in counted_chunks(levels, out):
        logits = squash_infinities(logits, positives, delta) if squashed else logits.to(positives.dtype)
        if ignored is not None:
            logits = logits.masked_fill(ignored, -torch.inf)
        if logits.device.type != "cpu":  # every look below would be a host sync
            yield Chunk(logits, None, part)
            continue
        highest = float(logits.amax())  # NaN if there is one
        sampled = logits[::SAMPLE_STEP]
        many = int((sampled >= reach).count_nonzero()) > effort * SPARSE_SHARE * len(sampled)
        if many or math.isnan(highest):
            yield Chunk(logits, None, part, highest)
            continue
        if part is not None:
            part.zero_()
        if highest >= reach:
            places = rare_places(logits, lambda block: block < reach)
            yield Chunk(logits[places], places, part, highest)


def any_nan(levels: Levels) -> Tensor:
    """() bool, whether a logit that is not ignored is NaN."""
    found = torch.zeros((), dtype=torch.bool, device=levels[0][0].device)
    for logits, ignored, _ in counted_chunks(levels):
        nan = logits.isnan()
        found |= (nan if ignored is None else nan & ~ignored).any()
    return found
