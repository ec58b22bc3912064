"""The tables of the positives that all Triton passes share, and where each of them lies in its buffer.

    R  positives of the rankings, those of all processes, with padding      S  segments, the rankings of one call
    k  a positive in sorted order: by segment, then by logit ascending, NaN last; padding comes after all segments
    i  a positive in the caller's order      G  cells of a segment's grid      K  its kinks, see `triton_kinks.py`

Three buffers live from forward to backward, and `units` through the count alone. Few buffers mean few allocations and
few arguments of a launch, which both cost time on the host. A function `..._table` gives where a table begins.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_step import blocks_of

# Flags of a positive.
OWN = tl.constexpr(1)  # this process has it
COUNTED = tl.constexpr(2)  # this process has it, and no mask covers its logit: the pass over the logits counts it too

# The tables of updates that a score writes (`scores.Update`), float64: first part, then second.
PROMOTION, NEGATIVE_WEIGHT = tl.constexpr(0), tl.constexpr(1)
SECOND_PROMOTION, POSITIVE_WEIGHT = tl.constexpr(2), tl.constexpr(3)
CHARGE = tl.constexpr(2)  # of aLRP: the gradient of the localisation part with respect to each error

# Sizes change from batch to batch; Triton would compile anew where one is 1 or divisible by 16.
SIZES = ["positives_size", "segments"]


class Tables(NamedTuple):
    """The positives of all segments, and what the passes know of them; O(R + S G) memory."""

    singles: Tensor  # float32: positives (R,), qualities (R,), thresholds (2 R,), bounds (S, 8), poison (S,)
    doubles: Tensor  # float64: kinks (2 R,), updates (4, R)
    ints: Tensor  # int32: starts (S + 1,), order (R,), flags (R,), places (2, R), owners (2 R,), cells (S, G + 2)
    positives: int  # R
    segments: int  # S
    cells: int  # G, 0 if there are no kinks

    @property
    def sizes(self) -> tuple[int, int]:
        """The arguments `SIZES` of a kernel."""
        return self.positives, self.segments

    @property
    def longest(self) -> int:
        """A number of positives that few segments exceed; in those, the programs of a kernel take turns."""
        return max(min(self.positives, 4 * blocks_of(self.positives, self.segments)), 1)

    @property
    def sorted_logits(self) -> Tensor:
        """(R,) float32."""
        return self.singles[: self.positives]

    @property
    def sorted_quality(self) -> Tensor:
        """(R,) float32."""
        return self.singles[self.positives : 2 * self.positives]

    @property
    def starts(self) -> Tensor:
        """(S + 1,) int32, the sorted position of the first positive of each segment, and of the padding."""
        return self.ints[: self.segments + 1]

    @property
    def order(self) -> Tensor:
        """(R,) int32, i of each k."""
        return self.ints[self.segments + 1 : self.segments + 1 + self.positives]

    def ranges(self) -> tuple[Tensor, Tensor, Tensor]:
        """(R,) int32 each, in sorted order: the segment (S for padding), its first positive and the one after its last.

        Of padding first and last are the same.
        """
        starts = torch.cat([self.starts, self.starts[-1:]])
        places = torch.arange(self.positives, dtype=torch.int32, device=starts.device)
        segment = torch.searchsorted(self.starts[1:], places, right=True, out_int32=True)
        return segment, starts[segment], starts[segment + 1]


def new_tables(positives: int, segments: int, cells: int, device: torch.device) -> Tables:
    """Unwritten tables."""
    return Tables(
        torch.empty(4 * positives + 9 * segments, dtype=torch.float32, device=device),
        torch.empty(6 * positives, dtype=torch.float64, device=device),
        torch.empty(segments + 1 + 6 * positives + segments * (cells + 2), dtype=torch.int32, device=device),
        positives,
        segments,
        cells,
    )


@triton.jit
def quality_table(singles_ptr, positives_size):
    return singles_ptr + positives_size


@triton.jit
def threshold_table(singles_ptr, positives_size):
    return singles_ptr + 2 * positives_size


@triton.jit
def bounds_table(singles_ptr, positives_size):
    return singles_ptr + 4 * positives_size


@triton.jit
def poison_table(singles_ptr, positives_size, segments):
    return singles_ptr + 4 * positives_size + 8 * segments


@triton.jit
def update_table(doubles_ptr, positives_size, NUMBER: tl.constexpr):
    return doubles_ptr + (2 + NUMBER) * positives_size


@triton.jit
def order_table(ints_ptr, segments):
    return ints_ptr + segments + 1


@triton.jit
def flags_table(ints_ptr, positives_size, segments):
    return ints_ptr + segments + 1 + positives_size


@triton.jit
def place_table(ints_ptr, positives_size, segments):
    return ints_ptr + segments + 1 + 2 * positives_size


@triton.jit
def owner_table(ints_ptr, positives_size, segments):
    return ints_ptr + segments + 1 + 4 * positives_size


@triton.jit
def cells_table(ints_ptr, positives_size, segments):
    return ints_ptr + segments + 1 + 6 * positives_size


@triton.jit
def first_row(start, segment, HARD: tl.constexpr):
    """The row of a segment's interval 0 in tables of all intervals, whose segments have K + 1 rows each."""
    return start * (1 if HARD else 2) + segment


@triton.jit
def row_count(positives_size, segments):
    """The rows of such a table; some stay unused for a hard step, or because of padding."""
    return 2 * positives_size + segments


@triton.jit
def upstream_scale(upstream_ptr, segment, stride, processes, size):
    """What the updates of a segment are multiplied by, a float64 scalar.

    Data-parallel training averages gradients over the processes: the average is that of the whole ranking.
    """
    upstream = tl.load(upstream_ptr + segment.to(tl.int64) * stride).to(tl.float64)
    return upstream * (processes.to(tl.float64) / tl.maximum(size, 1).to(tl.float64))


def with_stride(upstream: Tensor | None, unused: Tensor) -> tuple[Tensor, int]:
    """The kernel arguments of an upstream gradient () or (S,), which may be an expanded number, or of none."""
    if upstream is None:
        return unused, 0
    return upstream, upstream.stride(0) if upstream.dim() else 0
