"""Sums along the kinks (Triton): from tallied intervals to masses, and from weights to the profile of the scatter.

    R  positives of all segments      S  segments      w  weights of the scatter
    K  kinks b_k of a segment, thresholds t_k (`triton_kinks.py`)
    n_k, o_k  number of logits in interval k, and the sum of their offsets s - t_{k-1}
    D_k  number of tallied logits below b_k      T  number of all tallied logits

Lengths along the kinks are whole units, 2^29 to 2^30 of them in the width 2 d of a band, and sums of them are int64:
the same in any order, and what is subtracted from itself is 0 to the last bit. Differences of running sums are right
even where the sums themselves wrap around 2^64, as long as one band's own integral does not: for 2^33 logits.

Each scan is one program a segment that carries its sums from block to block. Its order is fixed, so its float64 sums
have the same bits every time, which those of torch.cumsum on a GPU do not.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from .triton_kinks import WIDEST
from .triton_step import INTERPRETED, launch
from .triton_tables import (
    NEGATIVE_WEIGHT,
    SIZES,
    Tables,
    first_row,
    owner_table,
    place_table,
    row_count,
    threshold_table,
    update_table,
    upstream_scale,
    with_stride,
)

# A scan is one program, so its time is that of its longest chain: few blocks. The integrals, five sums at once, have 4
# kinks a thread: with 2, an H100 takes a tenth less, but AMD's compiler spills. The profile has 2.
SCAN_BLOCK = 4096 if INTERPRETED else 1024
INTEGRATE_WARPS, PROFILE_WARPS = 8, 16
# Positions of kinks are added up in finer units and rounded once, so rounding errors do not add up.
FINEST_BITS = tl.constexpr(15)


@triton.jit(do_not_specialize=["tables", "units", *SIZES])
def integrate_kernel(
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    tallies_ptr,  # (3, rows, 2) int64, n and o: of the positives, of those among the logits, of the logits
    along_ptr,  # (3, rows) int64: B_k, and J_k of negatives and of positives; in a segment's last row: unused, T, T
    units,  # units per logit, a power of two
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Running sums along the kinks.

    The integral of C(t), the number of logits at or above t, from b_0 to b_k is T B_k - J_k with

        B_k = b_k - b_0,     J_k = sum over j < k of D_{j+1} (b_{j+1} - b_j) - (sum of s - b_j over s in [b_j, b_{j+1}))

    in units; offsets come counted from t_j, and n (t_j - b_j) is put back here. For a hard step, J_k is D_k.
    """
    segment = tl.program_id(0)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    kinks_size = (stop - start) * (1 if HARD else 2)
    rows = row_count(positives_size, segments)
    row = first_row(start, segment, HARD)
    kink = start * (1 if HARD else 2)
    position_ptr = doubles_ptr + kink
    threshold_ptr = threshold_table(singles_ptr, positives_size) + kink
    own_ptr = tallies_ptr + row * 2
    masked_ptr = own_ptr + rows * 2
    all_ptr = masked_ptr + rows * 2
    along_ptr += row
    # the finest units with which the positions of so many kinks cannot overflow
    fine_bits = tl.full((), FINEST_BITS, tl.int64)
    while (kinks_size.to(tl.int64) >> (32 - fine_bits)) != 0:
        fine_bits -= 1
    finer = (tl.full((), 1, tl.int64) << fine_bits).to(tl.float64)
    lanes = tl.arange(0, BLOCK)
    fine_before = tl.zeros((), tl.int64)
    negatives, positives = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    negative_area, positive_area = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    begin = tl.zeros((), tl.int32)
    while begin < kinks_size:
        k = begin + lanes
        inside = k < kinks_size
        interval = (k + 1) * 2
        masked_number = tl.load(masked_ptr + interval, mask=inside, other=0)
        number = tl.load(all_ptr + interval, mask=inside, other=0) - masked_number
        own_number = tl.load(own_ptr + interval, mask=inside, other=0)
        below = negatives + tl.cumsum(number, 0)
        own_below = positives + tl.cumsum(own_number, 0)
        if HARD:
            area, own_area = below - number, own_below - own_number
        else:
            masked_offset = tl.load(masked_ptr + interval + 1, mask=inside, other=0)
            offset = tl.load(all_ptr + interval + 1, mask=inside, other=0) - masked_offset
            own_offset = tl.load(own_ptr + interval + 1, mask=inside, other=0)
            position = tl.load(position_ptr + k, mask=inside, other=0.0)
            following = tl.load(position_ptr + k + 1, mask=k + 1 < kinks_size, other=0.0)
            gap = tl.where(k + 1 < kinks_size, following - position, 0.0)
            # a gap that is too wide shrinks, and all offsets in it with it
            scale = units * (WIDEST / tl.maximum(gap * units, WIDEST))
            fine = (gap * scale * finer + 0.5).to(tl.int64)
            fine_after = fine_before + tl.cumsum(fine, 0)
            place = (fine_after - fine) >> fine_bits
            width = (fine_after >> fine_bits) - place
            threshold = tl.load(threshold_ptr + k, mask=inside, other=0.0).to(tl.float64)
            residue = (tl.minimum((threshold - position) * scale, WIDEST) + 0.5).to(tl.int64)
            added = below * width - offset - number * residue
            own_added = own_below * width - own_offset - own_number * residue
            area = negative_area + tl.cumsum(added, 0) - added
            own_area = positive_area + tl.cumsum(own_added, 0) - own_added
            tl.store(along_ptr + k, place, mask=inside)
            fine_before += tl.sum(fine, 0)
            negative_area += tl.sum(added, 0)
            positive_area += tl.sum(own_added, 0)
        tl.store(along_ptr + rows + k, area, mask=inside)
        tl.store(along_ptr + 2 * rows + k, own_area, mask=inside)
        negatives += tl.sum(number, 0)
        positives += tl.sum(own_number, 0)
        begin += BLOCK
    tl.store(along_ptr + rows + kinks_size, negatives)
    tl.store(along_ptr + 2 * rows + kinks_size, positives)


@triton.jit(do_not_specialize=["units", "stride", "processes", *SIZES])
def profile_kernel(
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    upstream_ptr,  # the gradient of the part of the loss that spreads over negatives, one number for each segment
    stride,
    processes,
    profile_ptr,  # (rows, 4) float32: start, value there, slope, unused; by interval
    units,  # units per logit
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """F(s) = sum of w_i H(s - s_i), which is linear in every interval: float64 sums, rounded to float32 at the end.

    The slope changes by +w_i / 2d where a band begins and by -w_i / 2d where it ends.
    """
    segment = tl.program_id(0)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    kinks_size = size * (1 if HARD else 2)
    kink = start * (1 if HARD else 2)
    position_ptr = doubles_ptr + kink
    threshold_ptr = threshold_table(singles_ptr, positives_size) + kink
    owner_ptr = owner_table(ints_ptr, positives_size, segments) + kink
    place_ptr = place_table(ints_ptr, positives_size, segments) + start
    weights_ptr = update_table(doubles_ptr, positives_size, NEGATIVE_WEIGHT) + start
    profile_ptr += first_row(start, segment, HARD) * 4
    scale = upstream_scale(upstream_ptr, segment, stride, processes, size)
    lanes = tl.arange(0, BLOCK)
    slope_before, value_before = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    bands_before, begin = tl.zeros((), tl.int32), tl.zeros((), tl.int32)
    while begin < kinks_size:
        k = begin + lanes
        inside = k < kinks_size
        owner = tl.load(owner_ptr + k, mask=inside, other=0)
        index = tl.where(owner < 0, -1 - owner, owner)
        weight = tl.load(weights_ptr + index, mask=inside, other=0.0) * scale
        threshold = tl.load(threshold_ptr + k, mask=inside, other=0.0)
        if HARD:
            value = value_before + tl.cumsum(weight, 0)
            slope = tl.zeros((BLOCK,), tl.float64)
            value_before += tl.sum(weight, 0)
        else:
            lower = tl.load(place_ptr + index, mask=inside, other=0)
            upper = tl.load(place_ptr + positives_size + index, mask=inside, other=0)
            # the width with its rounding: over it F must rise by exactly w_i
            band = tl.load(position_ptr + upper, mask=inside, other=1.0)
            band -= tl.load(position_ptr + lower, mask=inside, other=0.0)
            # a positive for which delta is too small: its slope would be lost among others, so F jumps there
            steep = band * units > 2 * WIDEST
            jump = tl.where(steep, weight / 2, 0.0)
            change = tl.where(steep, 0.0, tl.where(owner < 0, -weight, weight) / band)
            # outside all bands the slope is exactly 0: a gap can be so wide that a rounding error would show
            opened = tl.where(inside & ~steep, tl.where(owner < 0, -1, 1), 0)
            bands = bands_before + tl.cumsum(opened, 0)
            slope = tl.where(bands == 0, 0.0, slope_before + tl.cumsum(change, 0))
            position = tl.load(position_ptr + k, mask=inside, other=0.0)
            following = tl.load(position_ptr + k + 1, mask=k + 1 < kinks_size, other=0.0)
            rise = jump + slope * tl.where(k + 1 < kinks_size, following - position, 0.0)
            value = value_before + tl.cumsum(rise, 0) - rise
            value += jump + slope * (threshold.to(tl.float64) - position)
            bands_before += tl.sum(opened, 0)
            slope_before += tl.sum(change, 0)
            value_before += tl.sum(rise, 0)
        row = profile_ptr + (k + 1) * 4
        tl.store(row, threshold, mask=inside)
        tl.store(row + 1, value.to(tl.float32), mask=inside)
        tl.store(row + 2, slope.to(tl.float32), mask=inside)
        begin += BLOCK


def units_per_logit(delta: float) -> float:
    """The power of two that makes 2^29 to 2^30 units of 2 delta (scaling by it is exact); 1 for a hard step."""
    exponent = 30 - math.frexp(2 * delta)[1]
    return math.ldexp(1.0, min(max(exponent, -100), 100)) if delta > 0 else 1.0  # in float32's range


def integrate(tables: Tables, tallies: Tensor, along: Tensor, delta: float, units: float) -> None:
    """Writes the running sums of `tallies` into `along`."""
    launch(
        integrate_kernel,
        (tables.segments,),
        tables.singles,
        tables.doubles,
        tables.ints,
        *tables.sizes,
        tallies,
        along,
        units,
        HARD=delta == 0,
        BLOCK=SCAN_BLOCK,
        num_warps=INTEGRATE_WARPS,
    )


def build_profile(tables: Tables, upstream: Tensor, processes: int, profile: Tensor, delta: float) -> None:
    """Writes F in every interval into `profile`: its start, the value there, the slope; interval 0 is unused."""
    launch(
        profile_kernel,
        (tables.segments,),
        tables.singles,
        tables.doubles,
        tables.ints,
        *tables.sizes,
        *with_stride(upstream, upstream),
        processes,
        profile,
        units_per_logit(delta),
        HARD=delta == 0,
        BLOCK=SCAN_BLOCK,
        num_warps=PROFILE_WARPS,
    )
