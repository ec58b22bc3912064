"""One level of the tree over many positives: its members split into halves, with prefix sums (Triton).

    R  positives, by segment and ascending logit      j  one of them      y  qualities      v  values
    f  place in a cell (`triton_pairs_bands.py`)      b  bit of the rank of a quality
    C  halves of a node that are summed: 2 for the sorting sums, else 1      B  blocks of the members

A level has two steps of scanning: each block's sums, then each block's prefix sums, which start from the sums of all
earlier blocks in a fixed order. Sums of f are int64, the others float64: the same bits every time.
`triton_pairs_ask.py` reads them, `triton_pairs_tree.py` says what the tree is.
"""

import triton
import triton.language as tl

from .triton_pairs_bands import load_peak
from .triton_step import INTERPRETED

# Four members a thread. Each program of a split adds up the sums of all earlier blocks, SUMS at a time.
BLOCK = 4096 if INTERPRETED else 512
SUMS = 256


@triton.jit
def load_better(member, inside, bit, rank_ptr, KIND: tl.constexpr):
    """Whether a member is in the better half of its node, int32."""
    if KIND == 2:
        return tl.zeros(member.shape, tl.int32)
    return (tl.load(rank_ptr + member, mask=inside, other=0) >> bit) & 1


@triton.jit
def load_fraction(member, inside, fraction_ptr, HARD: tl.constexpr):
    """f in units, int64."""
    if HARD:
        return tl.zeros(member.shape, tl.int64)
    return tl.load(fraction_ptr + member, mask=inside, other=0)


@triton.jit
def load_distance(member, inside, bit, quality_ptr, ascending_ptr, rank_ptr, positives_size):
    """|y - m|, float64, for a quality m between the two halves of the member's node; 0 where it is not finite."""
    rank = tl.load(rank_ptr + member, mask=inside, other=0)
    border = tl.minimum(((rank >> bit) | 1) << bit, positives_size - 1)
    quality = tl.load(quality_ptr + member, mask=inside, other=0.0).to(tl.float64)
    distance = tl.abs(quality - tl.load(ascending_ptr + border, mask=inside, other=0.0).to(tl.float64))
    return tl.where(distance < float("inf"), distance, 0.0)


@triton.jit
def half(term, better, number, KIND: tl.constexpr):
    """The term where the member is in this one of the halves that are summed, else 0."""
    if KIND == 2:
        return term
    return tl.where(better == (number if KIND == 0 else 1), term, 0)


@triton.jit
def sum_before(sums_ptr, number, SUMS: tl.constexpr):
    """The sum of the first `number` sums of blocks, in a fixed order."""
    total = tl.zeros((), sums_ptr.dtype.element_ty)
    for begin in range(0, number, SUMS):
        block = begin + tl.arange(0, SUMS)
        total += tl.sum(tl.load(sums_ptr + block, mask=block < number, other=0), 0)
    return total


@triton.jit
def store_running(running_ptr, terms, sums_ptr, place, inside, program, SUMS: tl.constexpr):
    """The sums of the terms before each place."""
    running = sum_before(sums_ptr, program, SUMS) + tl.cumsum(terms, 0)
    tl.store(running_ptr + place + 1, running, mask=inside)
    tl.store(running_ptr, tl.zeros((), running_ptr.dtype.element_ty), mask=program == 0)


@triton.jit(do_not_specialize=["bit"])
def split_kernel(
    members_ptr,  # (R,) int32, the members of this level
    next_ptr,  # (R,) int32, those of the next
    quality_ptr,  # (R,) float32
    ascending_ptr,  # (R,) float32
    values_ptr,  # (R,) float64, where KIND is not SORTING
    rank_ptr,  # (R,) int32
    fraction_ptr,  # (R,) int64
    positives_size,  # R
    bit,  # b
    blocks,  # B
    whole_sums_ptr,  # (1 + C, B) int64, of each block: members in the worse half, and f in each half
    real_sums_ptr,  # (C, 2, B) float64, of each block: v and f v in each half
    worse_ptr,  # (R + 1,) int32, members in the worse half before each place
    whole_ptr,  # (C, R + 1) int64, f before each place, by half
    real_ptr,  # (C, 2, R + 1) float64, v and f v before each place, by half
    KIND: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
    SUMS: tl.constexpr,
):
    """Programs along axis 1: one sum for each half, and one that splits the members, unless KIND is WEIGHING."""
    program, task = tl.program_id(0), tl.program_id(1)
    place = program * BLOCK + tl.arange(0, BLOCK)
    inside = place < positives_size
    member = tl.load(members_ptr + place, mask=inside, other=0)
    better = load_better(member, inside, bit, rank_ptr, KIND)
    if KIND != 2 and task == tl.num_programs(1) - 1:
        worse = tl.where(inside, 1 - better, 0)
        all_worse = sum_before(whole_sums_ptr, blocks, SUMS).to(tl.int32)
        before = sum_before(whole_sums_ptr, program, SUMS).to(tl.int32) + tl.cumsum(worse, 0)
        tl.store(worse_ptr + place + 1, before, mask=inside)
        tl.store(worse_ptr, 0, mask=program == 0)
        before -= worse
        # all worse halves, in the order of their nodes, and then all better ones
        tl.store(next_ptr + tl.where(better == 0, before, all_worse + place - before), member, mask=inside)
    else:
        if KIND == 0:
            value = load_distance(member, inside, bit, quality_ptr, ascending_ptr, rank_ptr, positives_size)
        else:
            value = tl.load(values_ptr + member, mask=inside, other=0.0)
        value = half(value, better, task, KIND)
        row = positives_size + 1
        sums, running = real_sums_ptr + 2 * task * blocks, real_ptr + 2 * task * row
        store_running(running, value, sums, place, inside, program, SUMS)
        if not HARD:
            fraction = load_fraction(member, inside, fraction_ptr, HARD)
            product = value * fraction.to(tl.float64)
            store_running(running + row, product, sums + blocks, place, inside, program, SUMS)
            if KIND == 0:
                fraction = half(fraction, better, task, KIND)
                sums, running = whole_sums_ptr + (1 + task) * blocks, whole_ptr + task * row
                store_running(running, fraction, sums, place, inside, program, SUMS)


@triton.jit
def sum_block(
    block,
    bit,
    first,
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
    KIND: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sums of one block of members at one bit; at the first level also the values, divided by their peak."""
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < positives_size
    member = tl.load(members_ptr + place, mask=inside, other=0)
    better = load_better(member, inside, bit, rank_ptr, KIND)
    fraction = load_fraction(member, inside, fraction_ptr, HARD)
    if KIND == 0:
        value = load_distance(member, inside, bit, quality_ptr, ascending_ptr, rank_ptr, positives_size)
    elif first:  # a member's number is its place
        begin = tl.load(begin_ptr + place, mask=inside, other=0)
        counted = inside & (begin < tl.load(end_ptr + place, mask=inside, other=0))
        peak = load_peak(peak_ptr, begin, counted)
        value = tl.load(raw_ptr + place, mask=counted, other=0.0).to(tl.float64)
        # where a value is infinite or NaN, the peak makes all results of its segment NaN
        scaled = (peak > 0) & (peak < float("inf"))
        value = tl.where(scaled, value / tl.where(scaled, peak, 1.0), 0.0)
        tl.store(values_ptr + place, value, mask=inside)
    else:
        value = tl.load(values_ptr + member, mask=inside, other=0.0)
    tl.store(whole_sums_ptr + block, tl.sum(tl.where(inside, 1 - better, 0), 0).to(tl.int64))
    for number in range(2 if KIND == 0 else 1):
        term = half(value, better, number, KIND)
        sums = real_sums_ptr + 2 * number * blocks + block
        tl.store(sums, tl.sum(term, 0))
        tl.store(sums + blocks, tl.sum(term * fraction.to(tl.float64), 0))
        if KIND == 0:
            tl.store(whole_sums_ptr + (1 + number) * blocks + block, tl.sum(half(fraction, better, number, KIND), 0))
