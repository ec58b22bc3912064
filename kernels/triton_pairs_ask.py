"""One level of the tree over many positives: what each positive finds in the other half of its node (Triton).

    R  positives, by segment and ascending logit      i, j  two of them      y  qualities      v  values
    H  the step      f  place in a cell      E  ends of a band (`triton_pairs_bands.py`)
    b  bit of the rank of a quality      C  halves of a node that are summed, B  blocks (`triton_pairs_levels.py`)

The sum of H over members in the upper cell of the band is that of f_j + 1 - f, in its lower cell that of f_j - f, where
f is that of the ends of the band; above the band H is 1. So three differences of prefix sums are enough:

    sum H v = (sum f v in the band) - f (sum v in the band) + (sum v from the upper cell on)
"""

import triton
import triton.language as tl

from .triton_pairs_bands import load_peak
from .triton_pairs_levels import load_better, load_distance, sum_block


@triton.jit
def move_end(ends_ptr, index, inside, better, worse_ptr, all_worse, KIND: tl.constexpr):
    """(end, other): a place in this level, and how many members of the other halves are before it.

    What is stored is the place in the next level, in the positive's own half.
    """
    end = tl.load(ends_ptr + index, mask=inside, other=0)
    if KIND == 2:
        return end, end
    worse = tl.load(worse_ptr + end, mask=inside, other=0)
    tl.store(ends_ptr + index, tl.where(better == 1, all_worse + end - worse, worse), mask=inside)
    return end, tl.where(better == 1, worse, end - worse)


@triton.jit
def difference(running_ptr, upper, lower, inside):
    return tl.load(running_ptr + upper, mask=inside, other=0) - tl.load(running_ptr + lower, mask=inside, other=0)


@triton.jit
def ask_block(
    index,
    bit,
    first,
    quality_ptr,
    ascending_ptr,
    rank_ptr,
    fraction_ptr,
    begin_ptr,
    end_ptr,
    peak_ptr,
    positives_size,
    ends_ptr,
    worse_ptr,
    whole_ptr,
    real_ptr,
    masses_ptr,
    totals_ptr,
    out_ptr,
    KIND: tl.constexpr,
    HARD: tl.constexpr,
    BITS: tl.constexpr,
):
    """Per positive the sums over the other half of its node, added to those of earlier levels."""
    inside = index < positives_size
    row = positives_size + 1
    better = load_better(index, inside, bit, rank_ptr, KIND)
    all_worse = tl.load(worse_ptr + positives_size) if KIND != 2 else 0
    far, far_other = move_end(ends_ptr, index, inside, better, worse_ptr, all_worse, KIND)
    middle, middle_other = move_end(ends_ptr + positives_size, index, inside, better, worse_ptr, all_worse, KIND)
    others = tl.where(better == 1, 0, 1) if KIND == 0 else tl.zeros(index.shape, tl.int32)  # the number of the half
    others_ptr = real_ptr + 2 * others * row
    reach = difference(others_ptr, far, middle, inside)
    mass = (far_other - middle_other).to(tl.int64)
    own_mass = (far - middle).to(tl.int64) - mass
    if not HARD:
        HALF: tl.constexpr = 1 << BITS - 1  # type: ignore
        lower, lower_other = move_end(ends_ptr + 2 * positives_size, index, inside, better, worse_ptr, all_worse, KIND)
        upper, upper_other = move_end(ends_ptr + 3 * positives_size, index, inside, better, worse_ptr, all_worse, KIND)
        end = tl.load(fraction_ptr + index, mask=inside, other=0) ^ HALF  # f of both ends of the band
        ramp = difference(others_ptr + row, upper, lower, inside)
        ramp -= end.to(tl.float64) * difference(others_ptr, upper, lower, inside)
        reach += ramp * 2.0**-BITS
        if KIND == 0:
            number = (upper_other - lower_other).to(tl.int64)
            mass = (mass << BITS) + difference(whole_ptr + others * row, upper, lower, inside) - end * number
            mass = tl.maximum(mass, 0)
            if first:
                number = (upper - lower).to(tl.int64) - number
                own_mass = (own_mass << BITS) + difference(whole_ptr + (1 - others) * row, upper, lower, inside)
                own_mass = tl.maximum(own_mass - end * number, 0)
        if KIND == 1:
            middle_other = upper_other
    if KIND == 0:
        distance = load_distance(index, inside, bit, quality_ptr, ascending_ptr, rank_ptr, positives_size)
        # what rounding leaves must not show where there is nothing to sum
        reach = tl.where(mass > 0, tl.maximum(reach, 0.0) + distance * (mass.to(tl.float64) * 2.0**-BITS), 0.0)
        earlier = inside & (first == 0)
        total = tl.load(masses_ptr + index, mask=earlier, other=0) + tl.where(first != 0, mass + own_mass, 0)
        missorted = tl.load(masses_ptr + positives_size + index, mask=earlier, other=0)
        missorted += tl.where(better == 1, mass, 0)
        deficit = tl.load(totals_ptr + index, mask=earlier, other=0.0) + tl.where(better == 1, reach, 0.0)
        surplus = tl.load(totals_ptr + positives_size + index, mask=earlier, other=0.0)
        surplus += tl.where(better == 1, 0.0, reach)
        if bit == 0:
            right, wrong = (total - missorted).to(tl.float64), missorted.to(tl.float64)
            tl.store(out_ptr + index, (right * 2.0**-BITS).to(tl.float32), mask=inside)
            tl.store(out_ptr + positives_size + index, (wrong * 2.0**-BITS).to(tl.float32), mask=inside)
            tl.store(out_ptr + 2 * positives_size + index, deficit.to(tl.float32), mask=inside)
            tl.store(out_ptr + 3 * positives_size + index, surplus.to(tl.float32), mask=inside)
        else:
            tl.store(masses_ptr + index, total, mask=inside)
            tl.store(masses_ptr + positives_size + index, missorted, mask=inside)
            tl.store(totals_ptr + index, deficit, mask=inside)
            tl.store(totals_ptr + positives_size + index, surplus, mask=inside)
    else:
        if KIND == 1:
            # H falls from the far end, the first place of the segment
            reach = tl.where((better == 0) & (middle_other > far_other), -reach, 0.0)
            reach += tl.load(totals_ptr + index, mask=inside & (first == 0), other=0.0)
        if bit == 0:
            begin = tl.load(begin_ptr + index, mask=inside, other=0)
            counted = inside & (begin < tl.load(end_ptr + index, mask=inside, other=0))
            peak = load_peak(peak_ptr, begin, counted)
            finite = peak < float("inf")
            reach = tl.where(finite, reach * tl.where(finite, peak, 0.0), float("nan"))
            tl.store(out_ptr + index, tl.where(counted, reach, 0.0).to(tl.float32), mask=inside)
        else:
            tl.store(totals_ptr + index, reach, mask=inside)


@triton.jit(do_not_specialize=["bit", "first", "asking"])
def ask_kernel(
    members_ptr,  # (R,) int32, the members of the next level
    quality_ptr,  # (R,) float32
    ascending_ptr,  # (R,) float32
    raw_ptr,  # (R,) float32, v, where KIND is not SORTING
    values_ptr,  # (R,) float64, the same divided by the largest of the segment
    rank_ptr,  # (R,) int32
    fraction_ptr,  # (R,) int64
    begin_ptr,  # (R,) int32
    end_ptr,  # (R,) int32
    peak_ptr,  # (R,) int32
    positives_size,  # R
    bit,  # b of this level; the next one has b - 1
    first,  # 1 where this is the first level, else 0
    asking,  # blocks of positives that ask: 0 before the first level, else B
    blocks,  # B
    whole_sums_ptr,  # (1 + C, B) int64
    real_sums_ptr,  # (C, 2, B) float64
    ends_ptr,  # (E, R) int32, places in this level, then in the next
    worse_ptr,  # (R + 1,) int32
    whole_ptr,  # (C, R + 1) int64
    real_ptr,  # (C, 2, R + 1) float64
    masses_ptr,  # (2, R) int64, so far: mass of all j, missorted mass
    totals_ptr,  # (2, R) float64, so far: deficit, surplus; or the demotion
    out_ptr,  # (4, R) float32, the order of SortingSums; or (R,)
    KIND: tl.constexpr,
    HARD: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The first `asking` programs ask; the others sum blocks of the next level."""
    program = tl.program_id(0)
    if program < asking:
        ask_block(
            program * BLOCK + tl.arange(0, BLOCK),
            bit,
            first,
            quality_ptr,
            ascending_ptr,
            rank_ptr,
            fraction_ptr,
            begin_ptr,
            end_ptr,
            peak_ptr,
            positives_size,
            ends_ptr,
            worse_ptr,
            whole_ptr,
            real_ptr,
            masses_ptr,
            totals_ptr,
            out_ptr,
            KIND,
            HARD,
            BITS,
        )
    else:
        sum_block(
            program - asking,
            bit - 1,
            asking == 0,
            members_ptr,
            quality_ptr,
            ascending_ptr,
            raw_ptr,
            values_ptr,
            rank_ptr,
            fraction_ptr,
            begin_ptr,
            end_ptr,
            peak_ptr,
            positives_size,
            blocks,
            whole_sums_ptr,
            real_sums_ptr,
            KIND,
            HARD,
            BLOCK,
        )
