"""The logits of a ranking in pieces that fit a cache, without those that are too low for any positive.

    R  positives of the ranking      M  all logits      n  logits of one chunk

Every torch pass over the logits goes through these chunks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import Masses
from .places import is_ignored, rare_places
from .targets import Ranking
from .torch_step import replace_infinities

Levels = list[tuple[Tensor, Tensor | None]]  # as `Ranking.levels_with_ignores` returns them

# Small enough for a chunk and its scratch to stay in cache, large enough to hide an operator's launch.
CHUNK = 1 << 18
# Below this share of visible logits, it pays to pick them out of their chunk first.
SPARSE_SHARE = 0.1
# The share is estimated from one logit in so many.
SAMPLE_STEP = 16


@dataclass(frozen=True)
class Chunk:
    """Visible logits, finite or infinite, and the positions of their results."""

    logits: Tensor  # (n,) in the computing dtype; may share the caller's memory, so never write to it
    places: Tensor | None  # (n,) int64, their positions in `part`; None: all of it, in order
    part: Tensor | None  # this chunk's part of the output
    highest: float | None = None  # the largest logit, NaN if there is one; None: not known

    def write(self, values: Tensor) -> None:
        """Stores one value (n,) for each of the logits; the others of the chunk have got their 0 before."""
        assert self.part is not None, "these chunks are for reading"
        if self.places is None:
            self.part.copy_(values)
        else:
            self.part.index_copy_(0, self.places, values.to(self.part.dtype))

    def is_nan(self) -> bool:
        """Whether a logit is NaN."""
        return math.isnan(self.logits.amax() if self.highest is None else self.highest)


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
    """The logits with H > 0 for one of the `positives` (R,), and maybe more; a NaN is always among them.

    `effort` is the work per logit, relative to that of the tables: the smaller it is, the less often it pays to pick
    logits out. Where a positive is infinite, the logits are changed by `replace_infinities`, as the positives are. With
    `out` (M,), the result of a logit that is left out is set to 0.
    """
    infinite = bool(positives.isinf().any())
    finite = replace_infinities(positives, positives, delta)
    # Slightly wider than needed. The exact cut-off is applied later, so rounding cannot drop a logit.
    lowest = float(finite.min())
    reach = lowest - 2 * delta - 1e-6 * abs(lowest)
    for logits, ignored, part in counted_chunks(levels, out):
        logits = replace_infinities(logits, positives, delta) if infinite else logits.to(positives.dtype)
        if ignored is not None:
            logits = logits.masked_fill(ignored, -torch.inf)
        if logits.device.type != "cpu":  # to read a value below would be a host sync
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


def masses_of_nothing(positives: Tensor, ranking: Ranking) -> Masses:
    """The masses of no `positives` (0,): only the poison is to be found."""
    found = torch.zeros((), dtype=torch.bool, device=positives.device)
    for logits, ignored, _ in counted_chunks(ranking.levels_with_ignores()):
        nan = logits.isnan()
        found |= (nan if ignored is None else nan & ~ignored).any()
    none = positives.new_zeros(0, dtype=torch.float64)
    return Masses(none, none, torch.where(found, torch.nan, 0.0).double())
