"""From positives to their sorted kinks (Triton): one sort of the positives, and one kernel.

    R  positives of the ranking, ascending      K  kinks: 2 R, or R for a hard step      G  cells of the grid
    s_i  logit of positive i      d  delta      b_0 <= ... <= b_{K-1}  kinks: s_i - d and s_i + d, in float64
    t_k  threshold: the least float32 that is not below b_k

Only the R positives are sorted, in float32. Then the lower kinks are ascending, and so are the upper ones. A kink's
position in the merged list is its own index plus the number of smaller kinks in the other list. Nothing makes the host
wait: sizes are R and K, never values.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_kinks import Kinks, cell_of
from .triton_step import INTERPRETED, LARGEST, launch_context

# With eight cells for a kink most cells have none, and one look-up ends most searches. 2^15 cells of 4 bytes stay in
# the first-level cache of a big GPU, beside the thresholds of a few thousand positives.
CELLS_PER_KINK = 8
LEAST_CELLS, MOST_CELLS = 1 << 8, 1 << 15
# Kinks closer together than this share one cell: their float32 scale would overflow.
LEAST_SPAN = tl.constexpr(1e-30)
# Numbers near 1 that differ by less may be the same float64.
FLOAT64_STEP = tl.constexpr(2.0**-52)
# One or two elements a thread and one warp a program: each element is a chain of dependent loads, so they are spread
# over the GPU and wait for no other warp. The interpreter pays per operation instead, whatever the tile.
BLOCK = 4096 if INTERPRETED else 64
WARPS = 1

# The rule by which a kink, or a positive, comes before a bound.
BELOW = tl.constexpr(0)
AT_OR_BELOW = tl.constexpr(1)
IN_EARLIER_CELLS = tl.constexpr(2)


@triton.jit
def round_up(position):
    """The least float32 that is not below a float64 of moderate size."""
    nearest = position.to(tl.float32)
    bits = nearest.to(tl.int32, bitcast=True)
    above = tl.where(nearest > 0, bits + 1, tl.where(nearest < 0, bits - 1, 1)).to(tl.float32, bitcast=True)
    return tl.where(nearest.to(tl.float64) < position, above, nearest)


@triton.jit
def load_kinks(positives_ptr, places, inside, delta, minus, plus, SIDE: tl.constexpr):
    """s_i + SIDE delta in float64; a NaN becomes an infinity, so the caller must find it in another way.

    Where a positive is so large that float64 would lose delta, its kinks are the nearest numbers that differ from it.
    """
    logits = tl.load(positives_ptr + places, mask=inside, other=0.0)
    logits = tl.where(logits < LARGEST, tl.where(logits <= -LARGEST, minus, logits), plus).to(tl.float64)
    return logits + SIDE * tl.maximum(tl.abs(logits) * FLOAT64_STEP, delta)


@triton.jit
def kinks_before(
    bound,  # (BLOCK,) float64, or int32 IN_EARLIER_CELLS
    positives_ptr,
    positives_size,
    delta,
    minus,
    plus,
    first,
    last,
    scale,
    SIDE: tl.constexpr,
    RULE: tl.constexpr,
    CELLS: tl.constexpr,
):
    """How many of the kinks s_i + SIDE delta, ascending, come before each bound, by bisection."""
    low = tl.zeros(bound.shape, tl.int32)
    high = low + positives_size
    while tl.max(high - low, 0) != 0:
        middle = (low + high) >> 1
        searching = low < high
        kinks = load_kinks(positives_ptr, middle, searching, delta, minus, plus, SIDE)
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
def positives_before(bound, positives_ptr, positives_size, RULE: tl.constexpr):
    """How many positives come before `bound`, a scalar, by bisection; NaN are last."""
    low = tl.zeros((), tl.int32)
    high = low + positives_size
    # the usual answers, none at minus infinity and all below infinity, need no search
    if RULE == 1:
        high = tl.where(tl.load(positives_ptr) <= bound, high, low)
    else:
        low = tl.where(tl.load(positives_ptr + positives_size - 1) < bound, high, low)
    while low < high:
        middle = (low + high) >> 1
        positive = tl.load(positives_ptr + middle)
        before = (positive < bound) | ((positive == bound) & (RULE == 1))
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def kinks_kernel(
    positives_ptr,  # (R,) float32, ascending, NaN last
    positives_size,  # R
    delta: tl.float64,  # type: ignore  # 0 for a hard step; without a type it would be passed in float32
    room,  # max(2 delta, 1)
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    place_ptr,  # (2, R) int32
    owner_ptr,  # (K,) int32
    cells_ptr,  # (CELLS + 2,) int32
    bounds_ptr,  # (8,) float32
    HARD: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program writes the kinks of a block of positives and a block of the grid; each computes all search bounds."""
    smallest = positives_before(-LARGEST, positives_ptr, positives_size, AT_OR_BELOW)
    largest = positives_before(LARGEST, positives_ptr, positives_size, BELOW) - 1
    some = smallest <= largest
    low = tl.load(positives_ptr + smallest, mask=some, other=0.0)
    high = tl.load(positives_ptr + largest, mask=some, other=0.0)
    # relative as well as absolute: the room must survive the rounding of large logits
    room = (tl.abs(low) + tl.abs(high)) * 1e-3 + room
    lowest, highest, minus, plus = low - room, high + room, low - 3 * room, high + 3 * room
    LOWER: tl.constexpr = 0 if HARD else -1  # type: ignore
    UPPER: tl.constexpr = 0 if HARD else 1  # type: ignore
    first = round_up(load_kinks(positives_ptr, 0, True, delta, minus, plus, LOWER))
    last = round_up(load_kinks(positives_ptr, positives_size - 1, True, delta, minus, plus, UPPER))
    span = last - first
    scale = tl.where(span > LEAST_SPAN, CELLS / tl.where(span > LEAST_SPAN, span, 1.0), 0.0)

    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < positives_size
    lower = load_kinks(positives_ptr, index, inside, delta, minus, plus, LOWER)
    upper = load_kinks(positives_ptr, index, inside, delta, minus, plus, UPPER)
    lower_place, upper_place = index, index
    cells = kinks_before(
        index, positives_ptr, positives_size, delta, minus, plus, first, last, scale, LOWER, IN_EARLIER_CELLS, CELLS
    )
    if not HARD:
        # where kinks are equal, the lower ones come first
        lower_place += kinks_before(
            lower, positives_ptr, positives_size, delta, minus, plus, first, last, scale, UPPER, BELOW, CELLS
        )
        upper_place += kinks_before(
            upper, positives_ptr, positives_size, delta, minus, plus, first, last, scale, LOWER, AT_OR_BELOW, CELLS
        )
        cells += kinks_before(
            index, positives_ptr, positives_size, delta, minus, plus, first, last, scale, UPPER, IN_EARLIER_CELLS, CELLS
        )
        tl.store(position_ptr + upper_place, upper, mask=inside)
        tl.store(threshold_ptr + upper_place, round_up(upper), mask=inside)
        tl.store(owner_ptr + upper_place, -1 - index, mask=inside)
    tl.store(position_ptr + lower_place, lower, mask=inside)
    tl.store(threshold_ptr + lower_place, round_up(lower), mask=inside)
    tl.store(owner_ptr + lower_place, index, mask=inside)
    tl.store(place_ptr + index, lower_place, mask=inside)
    tl.store(place_ptr + positives_size + index, upper_place, mask=inside)
    tl.store(cells_ptr + index, cells, mask=index < CELLS + 2)
    if tl.program_id(0) == 0:
        # for a positive at minus infinity no logit is too low
        tl.store(bounds_ptr, tl.where(smallest > 0, float("-inf"), first))
        tl.store(bounds_ptr + 1, first)
        tl.store(bounds_ptr + 2, last)
        tl.store(bounds_ptr + 3, scale)
        tl.store(bounds_ptr + 4, lowest)
        tl.store(bounds_ptr + 5, highest)
        tl.store(bounds_ptr + 6, minus)
        tl.store(bounds_ptr + 7, plus)


def build_kinks(positives: Tensor, delta: float) -> Kinks:
    """The kinks of `positives` (R,) float32, R > 0, in any order; infinities and NaN are legal."""
    ascending, order = positives.sort()
    size = len(positives)
    kinks = size if delta == 0 else 2 * size
    cells = min(max(1 << (CELLS_PER_KINK * kinks - 1).bit_length(), LEAST_CELLS), MOST_CELLS)
    found = Kinks(
        delta,
        order,
        ascending,
        position=torch.empty(kinks, dtype=torch.float64, device=positives.device),
        threshold=torch.empty(kinks, dtype=torch.float32, device=positives.device),
        place=torch.empty((2, size), dtype=torch.int32, device=positives.device),
        owner=torch.empty(kinks, dtype=torch.int32, device=positives.device),
        cells=torch.empty(cells + 2, dtype=torch.int32, device=positives.device),
        bounds=torch.empty(8, dtype=torch.float32, device=positives.device),
    )
    constants: dict[str, Any] = {"HARD": delta == 0, "CELLS": cells, "BLOCK": BLOCK, "num_warps": WARPS}
    with launch_context(positives):
        kinks_kernel[(triton.cdiv(max(size, cells + 2), BLOCK),)](
            ascending,
            size,
            float(delta),
            max(2.0 * delta, 1.0),
            found.position,
            found.threshold,
            found.place,
            found.owner,
            found.cells,
            found.bounds,
            **constants,
        )
    return found
