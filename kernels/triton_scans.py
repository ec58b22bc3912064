"""Sums along the kinks (Triton): from tallied intervals to masses, and from weights to the profile of the scatter.

    R  positives of the ranking      K  kinks b_k, thresholds t_k (`triton_kinks.py`)      w  weights of the scatter
    n_k, o_k  number of logits in interval k, and the sum of their offsets s - t_{k-1}
    D_k  number of tallied logits below b_k      T  number of all tallied logits

Lengths along the kinks are whole units, 2^29 to 2^30 of them in the width 2 d of a band, and sums of them are int64:
the same in any order, and what is subtracted from itself is 0 to the last bit. Differences of running sums are right
even where the sums themselves wrap around 2^64, as long as one band's own integral does not: for 2^33 logits.

Each scan is one program that carries its sums from block to block. Its order is fixed, so its float64 sums have the
same bits every time, which those of torch.cumsum on a GPU do not.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_kinks import Kinks
from .triton_step import INTERPRETED, launch_context

# A scan is one program, so its time is that of its longest chain: few blocks, as wide as the registers allow. The
# integrals, five sums at once, have 4 kinks a thread, the profile 8.
SCAN_BLOCK = 4096 if INTERPRETED else 1024
INTEGRATE_WARPS, PROFILE_WARPS = 8, 4
# Positives for a program of the masses, which are independent of each other.
BLOCK = 4096 if INTERPRETED else 128
# An interval wider than this many units lies in no band, and the offset of a logit in it makes no difference. (Or it
# lies in the band of a positive for which delta is too small, see `triton_kinks_merge.load_kinks`.)
WIDEST = tl.constexpr(1073741824.0)
# Positions of kinks are added up in finer units and rounded once, so rounding errors do not add up.
FINEST_BITS = 15


@triton.jit
def integrate_kernel(
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    kinks_size,  # K
    all_ptr,  # (K + 1, 2) int64, n and o of the logits
    masked_ptr,  # (K + 1, 2) int64, n and o of those positives that are among the logits
    own_ptr,  # (K + 1, 2) int64, n and o of the positives
    along_ptr,  # (3, K + 1) int64: B_k, and J_k of negatives and of positives; in the last column: unused, T, T
    units,  # units per logit, a power of two
    finer,  # 2^FINE
    FINE: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Running sums along the kinks.

    The integral of C(t), the number of logits at or above t, from b_0 to b_k is T B_k - J_k with

        B_k = b_k - b_0,     J_k = sum over j < k of D_{j+1} (b_{j+1} - b_j) - (sum of s - b_j over s in [b_j, b_{j+1}))

    in units; offsets come counted from t_j, and n (t_j - b_j) is put back here. For a hard step, J_k is D_k.
    """
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
            place = (fine_after - fine) >> FINE
            width = (fine_after >> FINE) - place
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
        tl.store(along_ptr + (kinks_size + 1) + k, area, mask=inside)
        tl.store(along_ptr + 2 * (kinks_size + 1) + k, own_area, mask=inside)
        negatives += tl.sum(number, 0)
        positives += tl.sum(own_number, 0)
        begin += BLOCK
    tl.store(along_ptr + 2 * kinks_size + 1, negatives)
    tl.store(along_ptr + 3 * kinks_size + 2, positives)


@triton.jit
def masses_kernel(
    positives_ptr,  # (R,) float32, ascending, NaN last
    order_ptr,  # (R,) int64, the caller's position of each positive
    place_ptr,  # (2, R) int32
    positives_size,  # R
    along_ptr,  # (3, K + 1) int64
    kinks_size,  # K
    all_ptr,  # (K + 1, 2) int64, whose first count is that of the NaN
    own_ptr,  # (K + 1, 2) int64, the same
    masses_ptr,  # (2, R) float64
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Per positive the mass of negatives (program 0 of the second axis) or of positives.

    It is the integral of C over the band, divided by the width of the band in units, which includes its rounding.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < positives_size
    kind = tl.program_id(1)
    sums_ptr = along_ptr + (kind + 1) * (kinks_size + 1)
    largest = tl.load(positives_ptr + positives_size - 1)
    nan = (tl.load(all_ptr) > 0) | (tl.load(own_ptr) > 0) | (largest != largest)
    lower = tl.load(place_ptr + index, mask=inside, other=0)
    upper = tl.load(place_ptr + positives_size + index, mask=inside, other=0)
    place = tl.load(order_ptr + index, mask=inside, other=0)
    total = tl.load(sums_ptr + kinks_size)
    mass = tl.load(sums_ptr + lower, mask=inside, other=0)
    if HARD:
        mass = (total - mass).to(tl.float64)
    else:
        band = tl.load(along_ptr + upper, mask=inside, other=1) - tl.load(along_ptr + lower, mask=inside, other=0)
        area = total * band - (tl.load(sums_ptr + upper, mask=inside, other=0) - mass)
        mass = area.to(tl.float64) / tl.maximum(band, 1).to(tl.float64)
    mass = tl.where(nan, float("nan"), mass)
    tl.store(masses_ptr + kind * positives_size + place, mass, mask=inside)


@triton.jit
def profile_kernel(
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    place_ptr,  # (2, R) int32
    owner_ptr,  # (K,) int32
    kinks_size,  # K
    order_ptr,  # (R,) int64
    positives_size,  # R
    weights_ptr,  # (R,) float64, in the caller's order
    profile_ptr,  # (K + 1, 4) float32: start, value there, slope, unused; by interval
    units,  # units per logit
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """F(s) = sum of w_i H(s - s_i), which is linear in every interval: float64 sums, rounded to float32 at the end.

    The slope changes by +w_i / 2d where a band begins and by -w_i / 2d where it ends.
    """
    lanes = tl.arange(0, BLOCK)
    slope_before, value_before = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    bands_before, begin = tl.zeros((), tl.int32), tl.zeros((), tl.int32)
    while begin < kinks_size:
        k = begin + lanes
        inside = k < kinks_size
        owner = tl.load(owner_ptr + k, mask=inside, other=0)
        index = tl.where(owner < 0, -1 - owner, owner)
        weight = tl.load(weights_ptr + tl.load(order_ptr + index, mask=inside, other=0), mask=inside, other=0.0)
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


def integrate_masses(
    kinks: Kinks,
    logits: Tensor,  # (K + 1, 2) int64, the tally of all logits
    masked: Tensor,  # (K + 1, 2) int64, that of the positives among them, to be subtracted
    own: Tensor,  # (K + 1, 2) int64, that of all positives
) -> Tensor:
    """Per positive the masses of false and of true positives, (2, R) float64."""
    size = len(kinks.positives)
    along = torch.empty((3, kinks.size + 1), dtype=torch.int64, device=own.device)
    masses = torch.empty((2, size), dtype=torch.float64, device=own.device)
    fine = max(min(FINEST_BITS, 62 - 30 - kinks.size.bit_length()), 0)
    units = units_per_logit(kinks.delta)
    hard = kinks.delta == 0
    scan: dict[str, Any] = {"FINE": fine, "HARD": hard, "BLOCK": SCAN_BLOCK, "num_warps": INTEGRATE_WARPS}
    gather: dict[str, Any] = {"HARD": hard, "BLOCK": BLOCK}
    with launch_context(own):
        integrate_kernel[(1,)](
            kinks.position,
            kinks.threshold,
            kinks.size,
            logits,
            masked,
            own,
            along,
            units,
            math.ldexp(1.0, fine),
            **scan,
        )
        masses_kernel[(triton.cdiv(size, BLOCK), 2)](
            kinks.positives,
            kinks.order,
            kinks.place,
            size,
            along,
            kinks.size,
            logits,
            own,
            masses,
            **gather,
        )
    return masses


def build_profile(kinks: Kinks, weights: Tensor) -> Tensor:
    """F in every interval, (K + 1, 4) float32: its start, the value there, the slope, unused; interval 0 is unused."""
    profile = torch.empty((kinks.size + 1, 4), dtype=torch.float32, device=weights.device)
    scan: dict[str, Any] = {"HARD": kinks.delta == 0, "BLOCK": SCAN_BLOCK, "num_warps": PROFILE_WARPS}
    with launch_context(weights):
        profile_kernel[(1,)](
            kinks.position,
            kinks.threshold,
            kinks.place,
            kinks.owner,
            kinks.size,
            kinks.order,
            len(kinks.positives),
            weights,
            profile,
            units_per_logit(kinks.delta),
            **scan,
        )
    return profile
