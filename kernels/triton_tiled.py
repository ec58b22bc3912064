"""The passes over the logits on tiles of the matrix H, which is never stored (Triton).

    R  positives of all segments, the rows      S  segments, the rankings of one call      M  all logits, the columns
    s  logits      d  delta      w  weights of the scatter

Count: a program owns a block of rows. Masses are added in whole units of 2^-30, finer than a float32 H near 1: integer
sums are the same in any order, so the columns can be split over programs, and the share of the positives can be taken
out to the last bit. Scatter: a program owns a block of columns and writes each once.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_masses import H_UNITS
from .triton_pieces import Pieces, find_part
from .triton_step import INTERPRETED, blocks_of, clamp_infinities, inverse_width, launch, load_logits, step
from .triton_tables import (
    COUNTED,
    NEGATIVE_WEIGHT,
    OWN,
    SIZES,
    Tables,
    flags_table,
    poison_table,
    update_table,
    upstream_scale,
    with_stride,
)

BLOCK_P = 16
# Count: 16 x 64 pairs are 8 pairs a thread with 4 warps: more would spill registers. One H fits an int32 (at most 2^30
# units), a sum an int64.
COUNT_BLOCK_N, COUNT_WARPS = 64, 4
# Columns of one program: long enough to hide the loads of its rows, short enough to fill a GPU when R is small. The
# interpreter pays per operation, whatever the tile.
TILES_PER_PROGRAM = 8 if INTERPRETED else 64
# Scatter: 16 x 256 pairs are 32 registers a thread with 4 warps; wide in the columns, which are read and written once.
SCATTER_BLOCK_N = 256


@triton.jit
def units_of(steps):
    """H in whole units."""
    return (steps * H_UNITS).to(tl.int32).to(tl.int64)


@triton.jit(do_not_specialize=["delta", "inverse_width", *SIZES])
def count_kernel(
    levels,
    ignores,
    sizes,
    parts,
    firsts,
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    units_ptr,  # (3 R + S,) int64, added to: masses over all logits; of no use here, twice; NaN of each segment
    delta,
    inverse_width,
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILES: tl.constexpr,
):
    share = tl.program_id(0)
    logits_ptr, ignore_ptr, _, size, first_share, _, segment = find_part(
        share, levels, ignores, levels, sizes, parts, firsts, PIECES, CUT, BLOCK_N * TILES
    )
    begin = (share - first_share).to(tl.int64) * (BLOCK_N * TILES)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    row = tl.program_id(1) * BLOCK_P
    nans = tl.zeros((BLOCK_N,), tl.int32)
    # without a positive, too, a NaN is to be found
    while (row < stop - start) | (row == 0):
        rows = start + row + tl.arange(0, BLOCK_P)
        inside = rows < stop
        positives = clamp_infinities(tl.load(singles_ptr + rows, mask=inside, other=float("inf")))
        reach = tl.min(positives, 0) - delta
        mass = tl.zeros((BLOCK_P,), tl.int64)
        for tile in range(TILES):
            offsets = begin + tile * BLOCK_N + tl.arange(0, BLOCK_N)
            logits, _counted = load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE)
            nans = nans | (logits != logits).to(tl.int32)
            highest = tl.max(tl.where(logits == logits, logits, float("-inf")), 0)
            if highest >= reach:
                mass += tl.sum(units_of(step(logits[None, :] - positives[:, None], inverse_width, HARD)), 1)
        tl.atomic_add(units_ptr + rows, mask=inside, val=mass, sem="relaxed")
        row += tl.num_programs(1) * BLOCK_P
    nan_ptr = units_ptr + 3 * positives_size + segment
    found_nan = tl.max(nans.to(tl.int64), 0)
    tl.atomic_max(nan_ptr, found_nan, mask=found_nan > 0, sem="relaxed")  # type: ignore


@triton.jit(do_not_specialize=["inverse_width", *SIZES])
def count_positives_kernel(
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    units_ptr,  # (3 R + S,) int64: the second R are written, masses over this process's positives; the third R, over
    # those of them that the logits count
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    segment = tl.program_id(1)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    flags_ptr = flags_table(ints_ptr, positives_size, segments)
    row = tl.program_id(0) * BLOCK_P
    while row < stop - start:
        rows = start + row + tl.arange(0, BLOCK_P)
        inside_rows = rows < stop
        positives = clamp_infinities(tl.load(singles_ptr + rows, mask=inside_rows, other=0.0))
        among, counted = tl.zeros((BLOCK_P,), tl.int64), tl.zeros((BLOCK_P,), tl.int64)
        for begin in range(0, stop - start, BLOCK_N):
            columns = start + begin + tl.arange(0, BLOCK_N)
            inside = columns < stop
            others = clamp_infinities(tl.load(singles_ptr + columns, mask=inside, other=0.0))
            flags = tl.load(flags_ptr + columns, mask=inside, other=0)
            units = units_of(step(others[None, :] - positives[:, None], inverse_width, HARD))
            among += tl.sum(tl.where(((flags & OWN) != 0)[None, :], units, 0), 1)
            counted += tl.sum(tl.where(((flags & COUNTED) != 0)[None, :], units, 0), 1)
        tl.store(units_ptr + positives_size + rows, among, mask=inside_rows)
        tl.store(units_ptr + 2 * positives_size + rows, counted, mask=inside_rows)
        row += tl.num_programs(0) * BLOCK_P


@triton.jit(do_not_specialize=["stride", "processes", "delta", "inverse_width", *SIZES])
def scatter_kernel(
    levels,
    ignores,
    outs,  # of the gradient, every entry written
    sizes,
    parts,
    firsts,
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    upstream_ptr,  # the gradient of the part of the loss that spreads over negatives, one number for each segment
    stride,
    processes,
    delta,
    inverse_width,
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tile = tl.program_id(0)
    logits_ptr, ignore_ptr, out_ptr, size, first_tile, _, segment = find_part(
        tile, levels, ignores, outs, sizes, parts, firsts, PIECES, CUT, BLOCK_N
    )
    offsets = (tile - first_tile).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    logits, counted = load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    scale = upstream_scale(upstream_ptr, segment, stride, processes, stop - start)
    weights_ptr = update_table(doubles_ptr, positives_size, NEGATIVE_WEIGHT)
    highest = tl.max(tl.where(logits == logits, logits, float("-inf")), 0)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for begin in range(start, stop, BLOCK_P):
        # ascending: once the block's first positive is out of reach, so are the others
        if highest >= clamp_infinities(tl.load(singles_ptr + begin)) - delta:
            rows = begin + tl.arange(0, BLOCK_P)
            inside = rows < stop
            positives = clamp_infinities(tl.load(singles_ptr + rows, mask=inside, other=0.0))
            weights = (tl.load(weights_ptr + rows, mask=inside, other=0.0) * scale).to(tl.float32)
            steps = step(logits[None, :] - positives[:, None], inverse_width, HARD)
            total += tl.sum(steps * weights[:, None], 0)
    total = tl.where(counted, total + tl.load(poison_table(singles_ptr, positives_size, segments) + segment), 0.0)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=offsets < size)


def count(tables: Tables, launches: list[Pieces], units: Tensor, delta: float) -> None:
    """Adds the masses to `units`, (3 R + S,) and 0 before."""
    constants = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": COUNT_BLOCK_N}
    if tables.positives:
        launch(
            count_positives_kernel,
            (blocks_of(tables.longest, BLOCK_P), tables.segments),
            tables.singles,
            tables.ints,
            *tables.sizes,
            units,
            inverse_width(delta),
            **constants,
        )
    for pieces in launches:
        launch(
            count_kernel,
            (pieces.tiles(COUNT_BLOCK_N * TILES_PER_PROGRAM), blocks_of(tables.longest, BLOCK_P)),
            *pieces.arguments,
            tables.singles,
            tables.ints,
            *tables.sizes,
            units,
            delta,
            inverse_width(delta),
            **pieces.constants,
            **constants,
            TILES=TILES_PER_PROGRAM,
            num_warps=COUNT_WARPS,
        )


def scatter(
    tables: Tables,
    launches: list[Pieces],
    upstream: Tensor,
    processes: int,
    gradients: list[Tensor],
    delta: float,
) -> None:
    """Writes the gradient of every logit as if it were a negative, and 0 for an ignored one."""
    for pieces in launches:
        launch(
            scatter_kernel,
            (pieces.tiles(SCATTER_BLOCK_N),),
            pieces.logits,
            pieces.ignores,
            pieces.slices(gradients),
            pieces.sizes,
            pieces.parts,
            pieces.firsts,
            tables.singles,
            tables.doubles,
            tables.ints,
            *tables.sizes,
            *with_stride(upstream, upstream),
            processes,
            delta,
            inverse_width(delta),
            **pieces.constants,
            HARD=delta == 0,
            BLOCK_P=BLOCK_P,
            BLOCK_N=SCATTER_BLOCK_N,
        )
