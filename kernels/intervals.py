"""The kinks of H around the positives, and which interval between two of them a logit falls in (Triton).

    R  rows: the positives that are asked about, ascending      K  kinks: 2 R, or R for a hard step
    s_i  a row's logit      d  delta      b_0 <= ... <= b_{K-1}  kinks: s_i - d and s_i + d, in float64
    t_k  threshold: the least float32 that is not below b_k, so that s >= b_k is s >= t_k for every float32 s
    G  cells of a uniform grid over the kinks

Interval k holds the logits with k kinks at or below them, interval 0 those that no row sees. Only the R rows are sorted,
in float32: the lower kinks and the upper ones are ascending as they come, and two ascending lists are merged by counting
in the other one. Nothing here, or in what uses it, makes the host wait: sizes are R and K, never values.

`kinks.py` is the same in torch operators.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import LARGEST, launch_context, step

INTERPRETED = not isinstance(step, triton.runtime.JITFunction)

# Eight cells for a kink leave most cells without any, so that a look-up ends most searches. 2^15 cells of 4 bytes stay in
# the first-level cache of a big GPU, beside the thresholds of a few thousand rows.
CELLS_PER_KINK = 8
LEAST_CELLS, MOST_CELLS = 1 << 8, 1 << 15
# Kinks closer together than that get one cell: their float32 scale would overflow.
LEAST_SPAN = tl.constexpr(1e-30)
# One element a thread and a warp or more: every element is a chain of dependent loads, so spread them over the GPU. The
# interpreter pays per operation instead, whatever the tile.
BLOCK = 4096 if INTERPRETED else 128

# What `kinks_before` counts.
BELOW = tl.constexpr(0)
AT_OR_BELOW = tl.constexpr(1)
IN_EARLIER_CELLS = tl.constexpr(2)


@dataclass(frozen=True)
class Intervals:
    """The sorted kinks of R > 0 rows, and what finds a logit's interval among them; all on the rows' device."""

    delta: float
    order: Tensor  # (R,) int64, the caller's place of each row
    rows: Tensor  # (R,) float32 ascending, NaN last
    position: Tensor  # (K,) float64, b_k
    threshold: Tensor  # (K,) float32, t_k
    place: Tensor  # (2, R) int32, where each row's lower and upper kink are; the same for a hard step
    owner: Tensor  # (K,) int32, i where the kink is the lower one of row i, -1 - i where it is the upper one
    cells: Tensor  # (G + 2,) int32, kinks in the cells before this one
    frame: Tensor  # (7,) float32, see `load_frame`

    @property
    def kinks(self) -> int:
        """K"""
        return len(self.position)

    @property
    def grid(self) -> int:
        """G"""
        return len(self.cells) - 2


@triton.jit
def load_frame(frame_ptr):
    """(first, last, scale, lowest, highest, minus, plus), scalars.

    The first and the last threshold, cells per logit, and how `squash` moves logits: finite ones into [lowest,
    highest], infinite ones to `minus` and `plus`.
    """
    first, last, scale = tl.load(frame_ptr), tl.load(frame_ptr + 1), tl.load(frame_ptr + 2)
    lowest, highest = tl.load(frame_ptr + 3), tl.load(frame_ptr + 4)
    return first, last, scale, lowest, highest, tl.load(frame_ptr + 5), tl.load(frame_ptr + 6)


@triton.jit
def squash(logits, lowest, highest, minus, plus):
    """Logits that differ by finite numbers and have the same H against every row; a NaN stays one.

    The twin of `relations.squash_infinities`, without a look at the values from the host: always on, which is as exact,
    since a logit 2 d or more from all finite rows has the H of one at that distance.
    """
    logits = tl.where(logits > highest, tl.where(logits >= LARGEST, plus, highest), logits)
    return tl.where(logits < lowest, tl.where(logits <= -LARGEST, minus, lowest), logits)


@triton.jit
def cell_of(logits, first, last, scale, CELLS: tl.constexpr):
    """The cell, 0 to CELLS, of logits at or above `first`: monotone, for a subtraction and a multiplication are.

    Building and reading the grid share this function, and there is no multiply-add in it to be fused in one place only:
    a kink of an earlier cell is below the logit, one of a later cell above it.
    """
    cell = ((tl.minimum(logits, last) - first) * scale).to(tl.int32)
    return tl.minimum(tl.maximum(cell, 0), CELLS)


@triton.jit
def locate(logits, wanted, threshold_ptr, cells_ptr, first, last, scale, CELLS: tl.constexpr):
    """The interval of each `wanted` logit (at or above `first`), int32: the number of kinks at or below it.

    The grid narrows the search to one cell, and bisection ends it. The loop runs until the last logit of the tile is
    done: once or not at all where kinks are spread evenly, log2 K times where they crowd in one cell.
    """
    cell = cell_of(tl.where(wanted, logits, first), first, last, scale, CELLS)
    low = tl.load(cells_ptr + cell, mask=wanted, other=0)
    high = tl.load(cells_ptr + cell + 1, mask=wanted, other=0)
    while tl.max(high - low, 0) > 0:
        middle = (low + high) >> 1
        searching = low < high
        reached = logits >= tl.load(threshold_ptr + middle, mask=searching, other=0.0)
        low = tl.where(searching & reached, middle + 1, low)
        high = tl.where(searching & ~reached, middle, high)
    return low


@triton.jit
def round_up(position):
    """The least float32 that is not below a float64 of moderate size."""
    nearest = position.to(tl.float32)
    bits = nearest.to(tl.int32, bitcast=True)
    above = tl.where(nearest > 0, bits + 1, tl.where(nearest < 0, bits - 1, 1)).to(tl.float32, bitcast=True)
    return tl.where(nearest.to(tl.float64) < position, above, nearest)


@triton.jit
def load_kinks(rows_ptr, places, inside, shift, lowest, highest, minus, plus):
    """s_i + shift in float64; a NaN, which the caller has to find by itself, is taken for an infinity."""
    rows = tl.load(rows_ptr + places, mask=inside, other=0.0)
    rows = squash(tl.where(rows == rows, rows, LARGEST), lowest, highest, minus, plus)
    return rows.to(tl.float64) + shift


@triton.jit
def kinks_before(
    bound,  # (BLOCK,) float64, or int32 IN_EARLIER_CELLS
    rows_ptr,
    count,
    shift,
    first,
    last,
    scale,
    lowest,
    highest,
    minus,
    plus,
    RULE: tl.constexpr,
    CELLS: tl.constexpr,
):
    """How many of the kinks s_i + shift, ascending, come before each bound, by bisection."""
    low = tl.zeros(bound.shape, tl.int32)
    high = low + count
    while tl.max(high - low, 0) > 0:
        middle = (low + high) >> 1
        searching = low < high
        kinks = load_kinks(rows_ptr, middle, searching, shift, lowest, highest, minus, plus)
        if RULE == 0:
            before = kinks < bound
        elif RULE == 1:
            before = kinks <= bound
        else:
            before = cell_of(round_up(kinks), first, last, scale, CELLS) < bound
        low = tl.where(searching & before, middle + 1, low)
        high = tl.where(searching & ~before, middle, high)
    return low


@triton.jit
def rows_before(bound, rows_ptr, count, REACHED: tl.constexpr):
    """How many rows are below `bound`, or at it where REACHED, a scalar by bisection; NaN rows are last."""
    edge = tl.load(rows_ptr if REACHED else rows_ptr + count - 1)
    low = tl.zeros((), tl.int32)
    high = low + count
    # the common answers need no search
    if REACHED:
        high = tl.where(edge <= bound, high, low)
    else:
        low = tl.where(edge < bound, high, low)
    while low < high:
        middle = (low + high) >> 1
        row = tl.load(rows_ptr + middle)
        before = row <= bound if REACHED else row < bound
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def intervals_kernel(
    rows_ptr,  # (R,) float32, ascending, NaN last
    count,  # R
    delta: tl.float64,  # 0 for a hard step
    room,  # max(2 delta, 1)
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    place_ptr,  # (2, R) int32
    owner_ptr,  # (K,) int32
    cells_ptr,  # (CELLS + 2,) int32
    frame_ptr,  # (7,) float32
    HARD: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program writes the kinks of a block of rows and a block of the grid; each works out the frame for itself."""
    smallest, largest = rows_before(-LARGEST, rows_ptr, count, True), rows_before(LARGEST, rows_ptr, count, False) - 1
    some = smallest <= largest
    low = tl.load(rows_ptr + smallest, mask=some, other=0.0)
    high = tl.load(rows_ptr + largest, mask=some, other=0.0)
    # relative as well as absolute, so that the room survives the rounding of large logits
    room = (tl.abs(low) + tl.abs(high)) * 1e-3 + room
    lowest, highest, minus, plus = low - room, high + room, low - 3 * room, high + 3 * room
    first = round_up(load_kinks(rows_ptr, 0, True, -delta, lowest, highest, minus, plus))
    last = round_up(load_kinks(rows_ptr, count - 1, True, delta, lowest, highest, minus, plus))
    span = last - first
    scale = tl.where(span > LEAST_SPAN, CELLS / tl.where(span > LEAST_SPAN, span, 1.0), 0.0)

    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    lower = load_kinks(rows_ptr, index, inside, -delta, lowest, highest, minus, plus)
    upper = load_kinks(rows_ptr, index, inside, delta, lowest, highest, minus, plus)
    lower_place, upper_place = index, index
    cells = kinks_before(
        index, rows_ptr, count, -delta, first, last, scale, lowest, highest, minus, plus, IN_EARLIER_CELLS, CELLS
    )
    if not HARD:
        # where kinks are equal, the lower ones come first
        lower_place += kinks_before(
            lower, rows_ptr, count, delta, first, last, scale, lowest, highest, minus, plus, BELOW, CELLS
        )
        upper_place += kinks_before(
            upper, rows_ptr, count, -delta, first, last, scale, lowest, highest, minus, plus, AT_OR_BELOW, CELLS
        )
        cells += kinks_before(
            index, rows_ptr, count, delta, first, last, scale, lowest, highest, minus, plus, IN_EARLIER_CELLS, CELLS
        )
        tl.store(position_ptr + upper_place, upper, mask=inside)
        tl.store(threshold_ptr + upper_place, round_up(upper), mask=inside)
        tl.store(owner_ptr + upper_place, -1 - index, mask=inside)
    tl.store(position_ptr + lower_place, lower, mask=inside)
    tl.store(threshold_ptr + lower_place, round_up(lower), mask=inside)
    tl.store(owner_ptr + lower_place, index, mask=inside)
    tl.store(place_ptr + index, lower_place, mask=inside)
    tl.store(place_ptr + count + index, upper_place, mask=inside)
    tl.store(cells_ptr + index, cells, mask=index < CELLS + 2)
    if tl.program_id(0) == 0:
        tl.store(frame_ptr, first)
        tl.store(frame_ptr + 1, last)
        tl.store(frame_ptr + 2, scale)
        tl.store(frame_ptr + 3, lowest)
        tl.store(frame_ptr + 4, highest)
        tl.store(frame_ptr + 5, minus)
        tl.store(frame_ptr + 6, plus)


def build_intervals(rows: Tensor, delta: float) -> Intervals:
    """The intervals of `rows` (R,) float32, R > 0, in any order; infinities and NaN are legal."""
    ascending, order = rows.sort()
    count = len(rows)
    kinks = count if delta == 0 else 2 * count
    cells = min(max(1 << (CELLS_PER_KINK * kinks - 1).bit_length(), LEAST_CELLS), MOST_CELLS)
    found = Intervals(
        delta,
        order,
        ascending,
        position=torch.empty(kinks, dtype=torch.float64, device=rows.device),
        threshold=torch.empty(kinks, dtype=torch.float32, device=rows.device),
        place=torch.empty((2, count), dtype=torch.int32, device=rows.device),
        owner=torch.empty(kinks, dtype=torch.int32, device=rows.device),
        cells=torch.empty(cells + 2, dtype=torch.int32, device=rows.device),
        frame=torch.empty(7, dtype=torch.float32, device=rows.device),
    )
    constants: dict[str, Any] = {"HARD": delta == 0, "CELLS": cells, "BLOCK": BLOCK}
    with launch_context(rows):
        intervals_kernel[(triton.cdiv(max(count, cells + 2), BLOCK),)](
            ascending,
            count,
            float(delta),
            max(2.0 * delta, 1.0),
            found.position,
            found.threshold,
            found.place,
            found.owner,
            found.cells,
            found.frame,
            **constants,
        )
    return found
