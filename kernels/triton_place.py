"""The gradients of the positives on Triton: promoted by their own errors, pushed down by better ones below them.

    R  positives of all segments      P  those of this process      S  segments      s  logits      y  qualities
    k  a positive in sorted order      i  in the caller's order

The scatter has written a gradient for every logit as if it were a negative; this pass writes over those of the
positives. It finds each positive's place by its index among the levels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_pairs import BLOCK_N, BLOCK_P, has_many, load_row
from .triton_pairs_tree import sorting_demotion_sorted
from .triton_pieces import FOLD, Pieces
from .triton_step import blocks_of, inverse_width, launch, step
from .triton_tables import (
    CHARGE,
    POSITIVE_WEIGHT,
    PROMOTION,
    SECOND_PROMOTION,
    SIZES,
    Tables,
    order_table,
    poison_table,
    quality_table,
    update_table,
    upstream_scale,
    with_stride,
)

# How positives push others down (DEMOTION): not at all, by pairs, or as given.
NOT, BY_PAIRS, GIVEN = 0, 1, 2


@triton.jit(
    do_not_specialize=["inverse_width", "own_begin", "own_size", "stride", "second_stride", "processes", *SIZES]
)
def place_kernel(
    index_ptr,  # (P,) int64
    own_begin,  # position of this process's first positive
    own_size,  # P
    outs,  # of the gradient
    sizes,
    parts,
    begins,
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    upstream_ptr,  # of the first part of the loss, one number for each segment
    stride,
    second_ptr,  # of the second
    second_stride,
    demotion_ptr,  # (R,) float32, sorted, if GIVEN
    error_ptr,  # (P,) gradient of the localisation errors, if CHARGED
    processes,
    inverse_width,
    PIECES: tl.constexpr,
    DEMOTION: tl.constexpr,
    FIRST: tl.constexpr,  # the first part has an upstream gradient
    SECOND: tl.constexpr,  # the second part has one: a sorting part
    CHARGED: tl.constexpr,  # the second part has one: a localisation part
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The gradient at the positives: promoted by their own errors, demoted by better positives that rank below them."""
    segment = tl.program_id(1)
    padding = segment == segments
    start = tl.load(ints_ptr + segment)
    stop = tl.load(ints_ptr + segment + 1, mask=~padding, other=positives_size)
    size = stop - start
    positives_ptr = singles_ptr + start
    quality_ptr = quality_table(singles_ptr, positives_size) + start
    own_segment = tl.minimum(segment, segments - 1)
    poison = tl.load(poison_table(singles_ptr, positives_size, segments) + own_segment).to(tl.float64)
    scale, second_scale = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    if FIRST:
        scale = upstream_scale(upstream_ptr, own_segment, stride, processes, size)
    if SECOND:
        second_scale = upstream_scale(second_ptr, own_segment, second_stride, processes, size)
    first_row = tl.program_id(0) * BLOCK_P
    while first_row < size:
        rows = first_row + tl.arange(0, BLOCK_P)
        inside_rows = rows < size
        at = start + rows
        i = tl.load(order_table(ints_ptr, segments) + at, mask=inside_rows, other=-1) - own_begin
        own = inside_rows & (i >= 0) & (i < own_size)
        total = tl.zeros((BLOCK_P,), tl.float64) + poison
        if FIRST:
            promotion = tl.load(update_table(doubles_ptr, positives_size, PROMOTION) + at, mask=own, other=0.0)
            total -= promotion * scale
        if SECOND:
            promotion = tl.load(update_table(doubles_ptr, positives_size, SECOND_PROMOTION) + at, mask=own, other=0.0)
            total -= promotion * second_scale
        if DEMOTION == 1:
            spread_scale = second_scale if SECOND else scale
            positives = load_row(positives_ptr, rows, inside_rows)
            quality = tl.load(quality_ptr + rows, mask=inside_rows, other=0.0)
            demotion = tl.zeros((BLOCK_P,), tl.float32)
            for begin in range(0, size, BLOCK_N):
                columns = begin + tl.arange(0, BLOCK_N)
                inside = columns < size
                others = load_row(positives_ptr, columns, inside)
                others_quality = tl.load(quality_ptr + columns, mask=inside, other=0.0)
                weights_ptr = update_table(doubles_ptr, positives_size, POSITIVE_WEIGHT) + start
                spread = (tl.load(weights_ptr + columns, mask=inside, other=0.0) * spread_scale).to(tl.float32)
                steps = step(positives[:, None] - others[None, :], inverse_width, HARD)
                wrongly = quality[:, None] < others_quality[None, :]
                demotion += tl.sum(tl.where(wrongly, steps * spread[None, :], 0.0), 1)
            total += demotion.to(tl.float64)
        if DEMOTION == 2:
            total += tl.load(demotion_ptr + at, mask=own, other=0.0).to(tl.float64)
        single = total.to(tl.float32)  # not every target converts float64 to 16 bits
        index = tl.load(index_ptr + i, mask=own & ~padding, other=-1)
        for piece in tl.static_range(PIECES):  # type: ignore
            local = index - (begins[piece] // FOLD).to(tl.int64)
            length = (sizes[piece] // FOLD).to(tl.int64) * (parts[piece] // FOLD)
            here = (local >= 0) & (local < length)
            tl.store(outs[piece] + local, single.to(outs[piece].dtype.element_ty), mask=here)
        if CHARGED:
            charge = tl.load(update_table(doubles_ptr, positives_size, CHARGE) + at, mask=own & ~padding, other=0.0)
            upstream = tl.load(second_ptr + own_segment.to(tl.int64) * second_stride).to(tl.float64)
            gradient = tl.where(padding, 0.0, charge * upstream * processes.to(tl.float64))
            if error_ptr.dtype.element_ty == tl.float64:
                tl.store(error_ptr + i, gradient, mask=own)
            else:
                tl.store(error_ptr + i, gradient.to(tl.float32).to(error_ptr.dtype.element_ty), mask=own)
        first_row += tl.num_programs(0) * BLOCK_P


def place(
    tables: Tables,
    launches: list[Pieces],
    gradients: list[Tensor],
    index: Tensor,
    own_begin: int,
    processes: int,
    upstream: tuple[Tensor | None, Tensor | None],
    error_gradient: Tensor | None,
    delta: float,
    *,
    sorts: bool,
    demotes: bool,
) -> None:
    """Writes the gradients at this process's positives `index` (P,), and those of their localisation errors (P,).

    `sorts`: the second part is a sorting part with an upstream gradient. `demotes`: positives push positives down.
    """
    unused = tables.singles
    demotion = None
    if demotes and has_many(tables):
        demotion = _demotion_of_many(tables, upstream[1] if sorts else upstream[0], processes, delta)
    for number, pieces in enumerate(launches if len(index) else []):
        charged = error_gradient is not None and number == 0
        launch(
            place_kernel,
            (blocks_of(tables.longest, BLOCK_P), tables.segments + charged),
            index,
            own_begin,
            len(index),
            pieces.slices(gradients),
            pieces.sizes,
            pieces.parts,
            pieces.begins,
            tables.singles,
            tables.doubles,
            tables.ints,
            *tables.sizes,
            *with_stride(upstream[0], unused),
            *with_stride(upstream[1], unused),
            unused if demotion is None else demotion,
            unused if error_gradient is None else error_gradient,
            processes,
            inverse_width(delta),
            PIECES=len(pieces.logits),
            DEMOTION=NOT if not demotes else BY_PAIRS if demotion is None else GIVEN,
            FIRST=upstream[0] is not None,
            SECOND=sorts,
            CHARGED=charged,
            HARD=delta == 0,
            BLOCK_P=BLOCK_P,
            BLOCK_N=BLOCK_N,
        )


def _demotion_of_many(tables: Tables, upstream: Tensor | None, processes: int, delta: float) -> Tensor:
    """(R,) float32, sorted: how far better positives push down, where pairs are too many to be visited."""
    assert upstream is not None
    segment, begin, end = tables.ranges()
    given = torch.cat([upstream.double().expand(tables.segments), upstream.new_zeros(1, dtype=torch.float64)])
    scale = given[segment] * processes / (end - begin).clamp(min=1)
    size = tables.positives
    weights = tables.doubles[(2 + POSITIVE_WEIGHT.value) * size : (3 + POSITIVE_WEIGHT.value) * size]
    spread = (weights * scale).float()
    return sorting_demotion_sorted(spread, tables.sorted_logits, tables.sorted_quality, begin, end, delta)
