"""Sums along the kinks (Triton): from tallied intervals to masses, from weights to the profile that scatter looks up.

    R  rows: the positives that are asked about      K  kinks b_k, thresholds t_k (`intervals.py`)
    n_k, o_k  logits in interval k, and the sum of their offsets s - t_{k-1}
    D_k  logits tallied below b_k      T  logits tallied in all      w  what each row spreads over what outranks it

Lengths along the kinks are whole units, 2^29 to 2^30 of them in the width 2 d of a band, and sums of them are int64:
the same in any order, and what is subtracted from itself is 0 to the last bit. Differences of running sums are right
even where the sums themselves wrap around 2^64, as long as one band's own integral does not: for 2^33 logits.

Each scan is one program that carries its sums from block to block: its order is fixed, so float64 sums of it are
bitwise reproducible, which those of torch.cumsum on a GPU are not.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .targets import Masses
from .triton_kinks import INTERPRETED, Intervals
from .triton_step import launch_context

# A scan is one program, so its time is that of its longest chain: few, wide blocks, as wide as registers allow. The
# integrals, five sums at once, have 4 kinks a thread, the profile 8.
SCAN_BLOCK = 4096 if INTERPRETED else 1024
INTEGRATE_WARPS, PROFILE_WARPS = 8, 4
# Kinks and rows that nothing depends on in turn.
BLOCK = 4096 if INTERPRETED else 128
# An interval wider than this many units lies in no band, so where in it a logit is makes no difference (or in that of a
# row for which delta is too small, see `merging.load_kinks`).
WIDEST = tl.constexpr(1073741824.0)
# Positions of kinks add up in finer units and are rounded once, so that no error adds up with them.
FINEST_BITS = 15


@triton.jit
def integrate_kernel(
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    kinks,  # K
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
    while begin < kinks:
        k = begin + lanes
        inside = k < kinks
        interval = (k + 1) * 2
        masked_count = tl.load(masked_ptr + interval, mask=inside, other=0)
        count = tl.load(all_ptr + interval, mask=inside, other=0) - masked_count
        own_count = tl.load(own_ptr + interval, mask=inside, other=0)
        below = negatives + tl.cumsum(count, 0)
        own_below = positives + tl.cumsum(own_count, 0)
        if HARD:
            area, own_area = below - count, own_below - own_count
        else:
            masked_offset = tl.load(masked_ptr + interval + 1, mask=inside, other=0)
            offset = tl.load(all_ptr + interval + 1, mask=inside, other=0) - masked_offset
            own_offset = tl.load(own_ptr + interval + 1, mask=inside, other=0)
            position = tl.load(position_ptr + k, mask=inside, other=0.0)
            following = tl.load(position_ptr + k + 1, mask=k + 1 < kinks, other=0.0)
            gap = tl.where(k + 1 < kinks, following - position, 0.0)
            # a gap that is too wide shrinks, and what is in it with it
            scale = units * (WIDEST / tl.maximum(gap * units, WIDEST))
            fine = (gap * scale * finer + 0.5).to(tl.int64)
            fine_after = fine_before + tl.cumsum(fine, 0)
            place = (fine_after - fine) >> FINE
            width = (fine_after >> FINE) - place
            threshold = tl.load(threshold_ptr + k, mask=inside, other=0.0).to(tl.float64)
            residue = (tl.minimum((threshold - position) * scale, WIDEST) + 0.5).to(tl.int64)
            added = below * width - offset - count * residue
            own_added = own_below * width - own_offset - own_count * residue
            area = negative_area + tl.cumsum(added, 0) - added
            own_area = positive_area + tl.cumsum(own_added, 0) - own_added
            tl.store(along_ptr + k, place, mask=inside)
            fine_before += tl.sum(fine, 0)
            negative_area += tl.sum(added, 0)
            positive_area += tl.sum(own_added, 0)
        tl.store(along_ptr + (kinks + 1) + k, area, mask=inside)
        tl.store(along_ptr + 2 * (kinks + 1) + k, own_area, mask=inside)
        negatives += tl.sum(count, 0)
        positives += tl.sum(own_count, 0)
        begin += BLOCK
    tl.store(along_ptr + 2 * kinks + 1, negatives)
    tl.store(along_ptr + 3 * kinks + 2, positives)


@triton.jit
def masses_kernel(
    rows_ptr,  # (R,) float32, ascending, NaN last
    order_ptr,  # (R,) int64, the caller's place of each row
    place_ptr,  # (2, R) int32
    count,  # R
    along_ptr,  # (3, K + 1) int64
    kinks,  # K
    all_ptr,  # (K + 1, 2) int64, whose first count is that of the NaN
    own_ptr,  # (K + 1, 2) int64, the same
    masses_ptr,  # (2, R) float64
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Per row the mass of negatives (program 0 of the second axis) or of positives: the integral of C over its band,
    over the band as wide as it came out."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    kind = tl.program_id(1)
    sums_ptr = along_ptr + (kind + 1) * (kinks + 1)
    largest = tl.load(rows_ptr + count - 1)
    lost = (tl.load(all_ptr) > 0) | (tl.load(own_ptr) > 0) | (largest != largest)
    lower = tl.load(place_ptr + index, mask=inside, other=0)
    upper = tl.load(place_ptr + count + index, mask=inside, other=0)
    place = tl.load(order_ptr + index, mask=inside, other=0)
    total = tl.load(sums_ptr + kinks)
    mass = tl.load(sums_ptr + lower, mask=inside, other=0)
    if HARD:
        mass = (total - mass).to(tl.float64)
    else:
        band = tl.load(along_ptr + upper, mask=inside, other=1) - tl.load(along_ptr + lower, mask=inside, other=0)
        area = total * band - (tl.load(sums_ptr + upper, mask=inside, other=0) - mass)
        mass = area.to(tl.float64) / tl.maximum(band, 1).to(tl.float64)
    mass = tl.where(lost, float("nan"), mass)
    tl.store(masses_ptr + kind * count + place, mass, mask=inside)


@triton.jit
def profile_kernel(
    position_ptr,  # (K,) float64
    threshold_ptr,  # (K,) float32
    place_ptr,  # (2, R) int32
    owner_ptr,  # (K,) int32
    kinks,  # K
    order_ptr,  # (R,) int64
    count,  # R
    weights_ptr,  # (R,) float64, in the caller's order
    profile_ptr,  # (K + 1, 4) float32: start, value there, slope, unused; by interval
    units,  # units per logit
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """F(s) = sum of w_i H(s - s_i), which is linear in every interval: float64 sums, rounded to float32 at the end.

    A slope is a sum of +w_i / 2d where a band begins and -w_i / 2d where it ends.
    """
    lanes = tl.arange(0, BLOCK)
    slope_before, value_before = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    bands_before, begin = tl.zeros((), tl.int32), tl.zeros((), tl.int32)
    while begin < kinks:
        k = begin + lanes
        inside = k < kinks
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
            upper = tl.load(place_ptr + count + index, mask=inside, other=0)
            # the band as wide as it came out, so that F rises by exactly w_i over it
            band = tl.load(position_ptr + upper, mask=inside, other=1.0)
            band -= tl.load(position_ptr + lower, mask=inside, other=0.0)
            # that of a row for which delta is too small: its slope would be lost among others, so F jumps there
            steep = band * units > 2 * WIDEST
            jump = tl.where(steep, weight / 2, 0.0)
            bend = tl.where(steep, 0.0, tl.where(owner < 0, -weight, weight) / band)
            # outside of all bands the slope is 0, and not what rounding leaves of it: a gap can be very wide
            opened = tl.where(inside & ~steep, tl.where(owner < 0, -1, 1), 0)
            bands = bands_before + tl.cumsum(opened, 0)
            slope = tl.where(bands == 0, 0.0, slope_before + tl.cumsum(bend, 0))
            position = tl.load(position_ptr + k, mask=inside, other=0.0)
            following = tl.load(position_ptr + k + 1, mask=k + 1 < kinks, other=0.0)
            rise = jump + slope * tl.where(k + 1 < kinks, following - position, 0.0)
            value = value_before + tl.cumsum(rise, 0) - rise
            value += jump + slope * (threshold.to(tl.float64) - position)
            bands_before += tl.sum(opened, 0)
            slope_before += tl.sum(bend, 0)
            value_before += tl.sum(rise, 0)
        row = profile_ptr + (k + 1) * 4
        tl.store(row, threshold, mask=inside)
        tl.store(row + 1, value.to(tl.float32), mask=inside)
        tl.store(row + 2, slope.to(tl.float32), mask=inside)
        begin += BLOCK


def units_per_logit(delta: float) -> float:
    """A power of two, so that scaling by it is exact, that makes 2^29 to 2^30 units of 2 delta; 1 for a hard step."""
    exponent = 30 - math.frexp(2 * delta)[1]
    return math.ldexp(1.0, min(max(exponent, -100), 100)) if delta > 0 else 1.0  # in float32's range


def masses_of(intervals: Intervals, logits: Tensor, masked: Tensor, own: Tensor) -> Masses:
    """What outranks each row, from tallies (K + 1, 2) int64 of all `logits`, of the positives among them that are to be
    taken out (`masked`), and of all positives (`own`)."""
    count, kinks = len(intervals.rows), intervals.kinks
    along = torch.empty((3, kinks + 1), dtype=torch.int64, device=own.device)
    masses = torch.empty((2, count), dtype=torch.float64, device=own.device)
    fine = max(min(FINEST_BITS, 62 - 30 - kinks.bit_length()), 0)
    units = units_per_logit(intervals.delta)
    hard = intervals.delta == 0
    scan: dict[str, Any] = {"FINE": fine, "HARD": hard, "BLOCK": SCAN_BLOCK, "num_warps": INTEGRATE_WARPS}
    gather: dict[str, Any] = {"HARD": hard, "BLOCK": BLOCK}
    with launch_context(own):
        integrate_kernel[(1,)](
            intervals.position,
            intervals.threshold,
            kinks,
            logits,
            masked,
            own,
            along,
            units,
            math.ldexp(1.0, fine),
            **scan,
        )
        masses_kernel[(triton.cdiv(count, BLOCK), 2)](
            intervals.rows,
            intervals.order,
            intervals.place,
            count,
            along,
            kinks,
            logits,
            own,
            masses,
            **gather,
        )
    return Masses(*masses)


def profile_of(intervals: Intervals, weights: Tensor) -> Tensor:
    """F in every interval, (K + 1, 4) float32: where it starts, the value there, the slope, unused; row 0 is unused."""
    profile = torch.empty((intervals.kinks + 1, 4), dtype=torch.float32, device=weights.device)
    scan: dict[str, Any] = {"HARD": intervals.delta == 0, "BLOCK": SCAN_BLOCK, "num_warps": PROFILE_WARPS}
    with launch_context(weights):
        profile_kernel[(1,)](
            intervals.position,
            intervals.threshold,
            intervals.place,
            intervals.owner,
            intervals.kinks,
            intervals.order,
            len(intervals.rows),
            weights,
            profile,
            units_per_logit(intervals.delta),
            **scan,
        )
    return profile
