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
SPARSE_SHARE = 0.25
# The share is estimated from one logit in so many.
SAMPLE_STEP = 16
# Positives beyond the first number are scaled by the second, a power of two. Then the distance of two logits is finite,
# and so is the sum of all logits in float64. Only numbers that are nothing beside the largest lose digits.
MOST_LOGIT = {torch.float32: (2.0**126, 0.5), torch.float64: (2.0**960, 2.0**-64)}
# A chunk's logits as a matrix: torch spreads the rows of a look-up, or of a sum by index, over the threads.
ROWS = 4


@dataclass(frozen=True)
class View:
    """The positives as the passes over the logits compare with them, and how low a logit can be for that to matter."""

    positives: Tensor  # (R,) scaled
    finite: Tensor  # (R,) the same after `replace_infinities`
    delta: float  # scaled
    infinite: bool  # whether a positive is infinite
    reach: float  # logits below are below every positive by more than delta
    largest: float  # magnitude in `finite`
    scale: float  # of logits and delta: 1, or less where sums and distances would overflow

    def finite_logits(self, logits: Tensor) -> Tensor:
        """The logits in the computing dtype, scaled, with the same H; finite where a positive is infinite."""
        logits = logits.to(self.positives.dtype)
        if self.scale != 1:
            logits = logits * self.scale
        return replace_infinities(logits, self.positives, self.delta) if self.infinite else logits


def view_of(positives: Tensor, delta: float) -> View:
    """The view of `positives` (R,), R > 0."""
    lowest, highest = _range(positives)
    infinite, scale = math.isinf(lowest) or math.isinf(highest), 1.0
    most, shrink = MOST_LOGIT[positives.dtype]
    if delta > 0 and max(-lowest, highest) > most:
        positives, delta, scale = positives * shrink, delta * shrink, shrink
        lowest, highest = lowest * shrink, highest * shrink
    finite = positives
    if infinite:
        finite = replace_infinities(positives, positives, delta)
        lowest, highest = _range(finite)
    # Slightly wider than needed. The exact cut-off is applied later, so rounding cannot drop a logit.
    reach = lowest - 2 * delta - 1e-6 * abs(lowest)
    return View(positives, finite, delta, infinite, reach, max(-lowest, highest), scale)


@dataclass(frozen=True)
class Chunk:
    """Visible logits, finite or infinite, and the positions of their results."""

    logits: Tensor  # (n,) in the computing dtype; may share the caller's memory, so never write to it
    places: Tensor | None  # (n,) int64, their positions in `part`; None: all of it, in order
    part: Tensor | None  # this chunk's part of the output
    highest: float | None = None  # the largest logit, NaN if there is one; None: not known

    def room(self, spare: Tensor) -> Tensor:
        """Where to compute the values: the output itself where it is as long as `spare` and has its dtype."""
        part = self.part
        if part is None or self.places is not None or (len(part), part.dtype) != (len(spare), spare.dtype):
            return spare
        return part

    def write(self, values: Tensor) -> None:
        """Stores one value for each of the logits (maybe more are given); the others have got their 0 before."""
        assert self.part is not None, "these chunks are for reading"
        if values is self.part:
            return
        values = values[: len(self.logits)]
        if self.places is None:
            self.part.copy_(values)
        else:
            self.part.index_copy_(0, self.places, values.to(self.part.dtype))

    def is_nan(self) -> bool:
        """Whether a logit is NaN."""
        return math.isnan(self.logits.amax() if self.highest is None else self.highest)


class Scratch:
    """Memory for the temporaries of one chunk, which every chunk uses anew: fresh memory costs page faults."""

    def __init__(self, levels: Levels, like: Tensor) -> None:
        """For the longest chunk of the `levels`, in the dtype and on the device of `like`."""
        longest = min(CHUNK, max(level.numel() for level, _ in levels))
        size = -(-longest // ROWS) * ROWS
        self._memory = [like.new_empty(size) for _ in range(2)]
        self._memory += [like.new_empty(size, dtype=dtype) for dtype in (torch.int32, torch.int64)]
        self.resize(size)

    def resize(self, size: int) -> None:
        """Prepares for a chunk of `size` logits: n is the next multiple of ROWS."""
        size = -(-size // ROWS) * ROWS
        self.logits, self.offset, self.upto, self.index = (memory[:size] for memory in self._memory)


def counted_chunks(levels: Levels, out: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """All logits chunk by chunk: (logits, bool mask of the ignored ones or None, part of `out` (M,) or None)."""
    offset = 0
    for level, ignore in levels:
        for begin in range(0, level.numel(), CHUNK):
            logits = level[begin : begin + CHUNK]
            ignored = None if ignore is None else is_ignored(ignore[begin : begin + CHUNK])
            yield logits, ignored, None if out is None else out[offset + begin : offset + begin + len(logits)]
        offset += level.numel()


def visible_chunks(levels: Levels, view: View, out: Tensor | None = None, *, effort: float = 1.0) -> Iterator[Chunk]:
    """The logits with H > 0 for one of the positives, and maybe more; a NaN is always among them.

    `effort` is the work per logit, relative to that of the tables: the smaller it is, the less often it pays to pick
    logits out. Where a positive is infinite, the logits are changed by `replace_infinities`, as the positives are. With
    `out` (M,), the result of a logit that is left out is set to 0.
    """
    for logits, ignored, part in counted_chunks(levels, out):
        logits = view.finite_logits(logits)
        if ignored is not None:
            logits = logits.masked_fill(ignored, -torch.inf)
        if logits.device.type != "cpu":  # to read a value below would be a host sync
            yield Chunk(logits, None, part)
            continue
        highest = float(logits.amax())  # NaN if there is one
        sampled = logits[::SAMPLE_STEP]
        many = int((sampled >= view.reach).count_nonzero()) > effort * SPARSE_SHARE * len(sampled)
        if many or math.isnan(highest):
            yield Chunk(logits, None, part, highest)
            continue
        if part is not None:
            part.zero_()
        if highest >= view.reach:
            places = rare_places(logits, lambda block: block < view.reach)
            yield Chunk(logits[places], places, part, highest)


def poison_chunks(levels: Levels, out: Tensor, poison: Tensor) -> None:
    """Adds `poison` to the result `out` (M,) of every logit that is not ignored; those of ignored logits become 0."""
    for _, ignored, part in counted_chunks(levels, out):
        assert part is not None
        part += poison.to(out.dtype)
        if ignored is not None:
            part.masked_fill_(ignored, 0)


def masses_of_nothing(positives: Tensor, ranking: Ranking) -> Masses:
    """The masses of no `positives` (0,): only the poison is to be found."""
    highest = positives.new_zeros((), dtype=torch.float64)  # NaN if a logit is
    for logits, ignored, _ in counted_chunks(ranking.levels_with_ignores()):
        highest = torch.maximum(highest, (logits if ignored is None else logits.masked_fill(ignored, 0)).amax())
    none = positives.new_zeros(0, dtype=torch.float64)
    return Masses(none, none, torch.where(highest.isnan(), torch.nan, 0.0).double())


def _range(positives: Tensor) -> tuple[float, float]:
    low, high = positives.aminmax()
    return float(low), float(high)
