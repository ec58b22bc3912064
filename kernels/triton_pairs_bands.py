"""Where the bands of the positives begin and end among the positives, for the tree (Triton).

    R  positives, by segment and ascending logit, NaN last      i, j  two of them      s  logits      d  delta
    y  qualities      v  values      E  ends of a band: 4, or 2 for a hard step
    u  s / 2 d: a whole number, its cell, and a fraction f in whole units of 2^-BITS

A band is one cell wide, so it lies in two neighbouring cells. `torch_pairs_tree.py` does the same in torch operators.
"""

import triton
import triton.language as tl

from .triton_step import INTERPRETED, LARGEST

# What is summed.
SORTING = tl.constexpr(0)  # H and distances in quality, over all j
DEMOTION = tl.constexpr(1)  # values of the better j, over H from above
WEIGHING = tl.constexpr(2)  # values of all j
# Chains of dependent loads, spread over the GPU; the interpreter pays per operation instead.
BLOCK = 4096 if INTERPRETED else 128
# Which j is the first one.
IN_BAND = tl.constexpr(0)  # above the lower end of the band of i
IN_UPPER_CELL = tl.constexpr(1)
ABOVE_BAND = tl.constexpr(2)
AT_OR_ABOVE = tl.constexpr(3)  # s_j >= s_i
ABOVE = tl.constexpr(4)  # s_j > s_i


@triton.jit
def clamp(logits):
    """Infinities as large finite numbers, and so NaN."""
    return tl.where(logits < LARGEST, tl.where(logits > -LARGEST, logits, -LARGEST), LARGEST)


@triton.jit
def find_cell(logits, inverse_width, BITS: tl.constexpr):
    """(cell, fraction): float64 whole numbers, and int64 in [0, 2^BITS)."""
    position = clamp(logits).to(tl.float64) * inverse_width
    cell = tl.floor(position)
    units: tl.constexpr = 1 << BITS  # type: ignore
    fraction = ((position - cell) * units).to(tl.int64)
    # a fused multiply-subtract can leave [0, 1) by a rounding error
    return cell, tl.minimum(tl.maximum(fraction, 0), units - 1)


@triton.jit
def first_of(RULE: tl.constexpr, logits, low, high, positives_ptr, inverse_width, BITS: tl.constexpr):
    """The first j in [low, high) that `RULE` asks for, int32; `high` where there is none. By bisection."""
    own = clamp(logits)
    cell, fraction = find_cell(logits, inverse_width, BITS)
    HALF: tl.constexpr = (1 << BITS) >> 1  # type: ignore
    moved = (fraction >= HALF).to(tl.float64)
    end = fraction ^ HALF  # the fraction of both ends of the band
    while tl.max(high - low, 0) != 0:
        middle = (low + high) >> 1
        searching = low < high
        other = tl.load(positives_ptr + middle, mask=searching, other=0.0)
        if RULE < 3:
            other_cell, other_fraction = find_cell(other, inverse_width, BITS)
            # counted from the band's upper cell; for logits so large that float64 has no cells, ties have 0
            distance = other_cell - cell - moved
            if RULE == 0:
                reached = (distance > -1) | ((distance == -1) & (other_fraction > end))
            elif RULE == 1:
                reached = distance >= 0
            else:
                reached = (distance > 0) | ((distance == 0) & (other_fraction >= end))
        else:
            reached = (clamp(other) >= own) if RULE == 3 else (clamp(other) > own)
        high = tl.where(searching & reached, middle, high)
        low = tl.where(searching & ~reached, middle + 1, low)
    return low


@triton.jit
def bands_kernel(
    positives_ptr,  # (R,) float32
    quality_ptr,  # (R,) float32, y, where KIND is not WEIGHING
    ascending_ptr,  # (R,) float32, all y ascending, NaN last
    values_ptr,  # (R,) float32, v, where KIND is not SORTING
    begin_ptr,  # (R,) int32, the segment of a positive: its first place
    end_ptr,  # (R,) int32, the place after its last one
    positives_size,  # R
    inverse_width: tl.float64,  # type: ignore  # 1 / 2 d; without a type it would be passed in float32
    members_ptr,  # (R,) int32, 0 to R - 1
    rank_ptr,  # (R,) int32, how many qualities are below y_i
    fraction_ptr,  # (R,) int64, f, for a smooth step
    ends_ptr,  # (E, R) int32 places: of the far end, where the sum ends (for DEMOTION: begins), and of the first j in
    # the upper cell of the band, in the band, and above it; for a hard step the far end and the first j at or above i
    peak_ptr,  # (R,) int32, at the first place of a segment its largest |v|, float32 as an integer; zeroed before
    KIND: tl.constexpr,
    HARD: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < positives_size
    logits = tl.load(positives_ptr + index, mask=inside, other=0.0)
    begin = tl.load(begin_ptr + index, mask=inside, other=0)
    end = tl.load(end_ptr + index, mask=inside, other=0)
    tl.store(members_ptr + index, index, mask=inside)
    tl.store(ends_ptr + index, begin if KIND == 1 else end, mask=inside)
    if HARD:
        RULE: tl.constexpr = 4 if KIND == 1 else 3  # type: ignore
        middle = first_of(RULE, logits, begin, end, positives_ptr, inverse_width, BITS)
        tl.store(ends_ptr + positives_size + index, middle, mask=inside)
    else:
        middle = first_of(IN_UPPER_CELL, logits, begin, end, positives_ptr, inverse_width, BITS)
        tl.store(ends_ptr + positives_size + index, middle, mask=inside)
        lower = first_of(IN_BAND, logits, begin, middle, positives_ptr, inverse_width, BITS)
        tl.store(ends_ptr + 2 * positives_size + index, lower, mask=inside)
        upper = first_of(ABOVE_BAND, logits, middle, end, positives_ptr, inverse_width, BITS)
        tl.store(ends_ptr + 3 * positives_size + index, upper, mask=inside)
        _, fraction = find_cell(logits, inverse_width, BITS)
        tl.store(fraction_ptr + index, fraction, mask=inside)
    if KIND != 2:
        quality = tl.load(quality_ptr + index, mask=inside, other=0.0)
        low = tl.zeros((BLOCK,), tl.int32)
        high = tl.where(inside, positives_size, 0)
        while tl.max(high - low, 0) != 0:
            place = (low + high) >> 1
            searching = low < high
            worse = tl.load(ascending_ptr + place, mask=searching, other=0.0) < quality
            low = tl.where(searching & worse, place + 1, low)
            high = tl.where(searching & ~worse, place, high)
        tl.store(rank_ptr + index, low, mask=inside)
    if KIND != 0:
        counted = inside & (begin < end)
        # non-negative floats are in the order of their bits, with infinity and NaN last
        size = tl.abs(tl.load(values_ptr + index, mask=counted, other=0.0)).to(tl.int32, bitcast=True)
        first = tl.min(tl.where(counted, begin, 2147483647), 0)
        here = counted & (begin == first)
        largest = tl.max(tl.where(here, size, 0), 0)
        tl.atomic_max(peak_ptr + first, largest, mask=first != 2147483647)
        tl.atomic_max(peak_ptr + begin, size, mask=counted & (begin != first))


@triton.jit
def load_peak(peak_ptr, begin, counted):
    """The largest |v| of the segment, float64; 0 for what is not counted."""
    bits = tl.load(peak_ptr + begin, mask=counted, other=0)
    return bits.to(tl.float32, bitcast=True).to(tl.float64)
