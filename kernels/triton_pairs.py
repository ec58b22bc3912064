"""The passes over pairs of positives on Triton, tile by tile.

    R  positives of all segments      S  segments      s  logits      y  qualities
    k  a positive in sorted order      i  in the caller's order

A pair has both its positives in one segment. Every program loops over the positives of its segment in sorted order, so
float32 sums have the same bits every time, alone or among other segments: O(R^2) time. Above MANY positives a segment,
`triton_pairs_tree.py` has the same sums in O(R log R). `torch_pairs.py` is the same in torch operators.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_pairs_tree import sorting_sums_sorted, weigh_sorted
from .triton_step import INTERPRETED, blocks_of, clamp_infinities, inverse_width, launch, step
from .triton_tables import (
    SIZES,
    Tables,
    order_table,
    quality_table,
)

# A program owns rows of BLOCK_P positives: 4 x 512 pairs are 16 pairs a thread with 4 warps. The loop over the columns
# is a chain of loads and sums: with 16 x 128 an H100 takes two to three times as long.
BLOCK_P, BLOCK_N = (64, 256) if INTERPRETED else (4, 512)
# Above so many positives a segment the tree should be faster. Computed, not measured: at the 0.9 ms that 20,000 take an
# H100, forward and backward together, they are 2.3 ms here, and so are some 80 launches and sorts of the tree.
MANY = 32768


@triton.jit
def load_row(pointer, k, inside):
    return clamp_infinities(tl.load(pointer + k, mask=inside, other=0.0))


@triton.jit(do_not_specialize=["inverse_width", *SIZES])
def sorting_sums_kernel(
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    sums_ptr,  # (4, R) float32, the order of `passes.SortingSums`
    inverse_width,
    CALLER: tl.constexpr,  # results in the caller's order
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    segment = tl.program_id(1)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    positives_ptr = singles_ptr + start
    quality_ptr = quality_table(singles_ptr, positives_size) + start
    first_row = tl.program_id(0) * BLOCK_P
    while first_row < size:
        rows = first_row + tl.arange(0, BLOCK_P)
        inside_rows = rows < size
        positives = load_row(positives_ptr, rows, inside_rows)
        quality = tl.load(quality_ptr + rows, mask=inside_rows, other=0.0)
        better = tl.zeros((BLOCK_P,), tl.float32)
        missorted = tl.zeros((BLOCK_P,), tl.float32)
        deficit = tl.zeros((BLOCK_P,), tl.float32)
        surplus = tl.zeros((BLOCK_P,), tl.float32)
        for begin in range(0, size, BLOCK_N):
            columns = begin + tl.arange(0, BLOCK_N)
            inside = columns < size
            others = tl.where(inside, load_row(positives_ptr, columns, inside), float("nan"))
            others_quality = tl.load(quality_ptr + columns, mask=inside, other=0.0)
            steps = step(others[None, :] - positives[:, None], inverse_width, HARD)
            gain = others_quality[None, :] - quality[:, None]
            better += tl.sum(tl.where(gain >= 0, steps, 0.0), 1)
            missorted += tl.sum(tl.where(gain < 0, steps, 0.0), 1)
            deficit += tl.sum(tl.where(gain < 0, -gain, 0.0) * steps, 1)
            surplus += tl.sum(tl.where(gain > 0, gain, 0.0) * steps, 1)
        at = start + rows
        if CALLER:
            at = tl.load(order_table(ints_ptr, segments) + at, mask=inside_rows, other=0)
        tl.store(sums_ptr + at, better, mask=inside_rows)
        tl.store(sums_ptr + positives_size + at, missorted, mask=inside_rows)
        tl.store(sums_ptr + 2 * positives_size + at, deficit, mask=inside_rows)
        tl.store(sums_ptr + 3 * positives_size + at, surplus, mask=inside_rows)
        first_row += tl.num_programs(0) * BLOCK_P


@triton.jit(do_not_specialize=["inverse_width", *SIZES])
def weigh_kernel(
    values_ptr,  # (R,) any float, in the caller's order
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    out_ptr,  # (R,) float32
    inverse_width,
    CALLER: tl.constexpr,  # results in the caller's order
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Per positive the sum of H(s_j - s_i) values_j over the positives j, with the self pair."""
    segment = tl.program_id(1)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    order_ptr = order_table(ints_ptr, segments) + start
    first_row = tl.program_id(0) * BLOCK_P
    while first_row < size:
        rows = first_row + tl.arange(0, BLOCK_P)
        inside_rows = rows < size
        positives = load_row(singles_ptr + start, rows, inside_rows)
        total = tl.zeros((BLOCK_P,), tl.float32)
        for begin in range(0, size, BLOCK_N):
            columns = begin + tl.arange(0, BLOCK_N)
            inside = columns < size
            others = load_row(singles_ptr + start, columns, inside)
            i = tl.load(order_ptr + columns, mask=inside, other=0)
            values = tl.load(values_ptr + i, mask=inside, other=0.0).to(tl.float32)
            steps = step(others[None, :] - positives[:, None], inverse_width, HARD)
            total += tl.sum(steps * values[None, :], 1)
        at = start + rows
        if CALLER:
            at = tl.load(order_ptr + rows, mask=inside_rows, other=0)
        tl.store(out_ptr + at, total, mask=inside_rows)
        first_row += tl.num_programs(0) * BLOCK_P


def has_many(tables: Tables) -> bool:
    """Whether pairs are too many to be visited, as far as the host knows: it does not know the segments' sizes."""
    return blocks_of(tables.positives, tables.segments) > MANY


def sorting_sums(tables: Tables, sums: Tensor, delta: float, *, caller: bool = False) -> None:
    """Writes the sorting sums (4, R), sorted or in the caller's order."""
    if has_many(tables):
        _, begin, end = tables.ranges()
        found = sorting_sums_sorted(tables.sorted_logits, tables.sorted_quality, begin, end, delta)
        _write(tables, found, sums.view(4, -1), caller=caller)
        return
    launch(
        sorting_sums_kernel,
        (blocks_of(tables.longest, BLOCK_P), tables.segments),
        tables.singles,
        tables.ints,
        *tables.sizes,
        sums,
        inverse_width(delta),
        CALLER=caller,
        HARD=delta == 0,
        BLOCK_P=BLOCK_P,
        BLOCK_N=BLOCK_N,
    )


def weigh(tables: Tables, values: Tensor, weighed: Tensor, delta: float, *, caller: bool = False) -> None:
    """Writes the weighed sums (R,) of `values` (R,), which are in the caller's order; sorted or in that order."""
    if has_many(tables):
        _, begin, end = tables.ranges()
        found = weigh_sorted(values[tables.order.long()].float(), tables.sorted_logits, begin, end, delta)
        _write(tables, found, weighed, caller=caller)
        return
    launch(
        weigh_kernel,
        (blocks_of(tables.longest, BLOCK_P), tables.segments),
        values,
        tables.singles,
        tables.ints,
        *tables.sizes,
        weighed,
        inverse_width(delta),
        CALLER=caller,
        HARD=delta == 0,
        BLOCK_P=BLOCK_P,
        BLOCK_N=BLOCK_N,
    )


def _write(tables: Tables, found: Tensor, out: Tensor, *, caller: bool) -> None:
    """Writes sorted sums (R,) or (4, R), but for the padding of the caller's order."""
    if caller:
        segment, _, _ = tables.ranges()
        order = tables.order.long()
        out.index_copy_(-1, order, torch.where(segment < tables.segments, found, out.index_select(-1, order)))
    else:
        out.copy_(found)
