"""The count by breakpoints (Triton): per interval between kinks, how many logits it has, and their offsets.

    R  positives of all segments      S  segments, the rankings of one call      M  logits of all levels together
    K  kinks of a segment, two for each positive (one for a hard step)

`triton_breakpoints.py` says how programs share the tiles, and why sums are whole numbers. `triton_scans.py` adds the
tallies up along the kinks.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_breakpoints import BLOCK, WARPS, program_count, share_of
from .triton_kinks import (
    WIDEST,
    enter_ranking,
    load_search_bounds,
    load_tile,
    locate,
    most_common_interval,
    offset_units,
)
from .triton_pieces import Pieces, find_part
from .triton_step import INTERPRETED, blocks_of, launch, replace_infinities
from .triton_tables import SIZES, Tables, row_count

# Atomics to one address wait for each other. Programs add to one of several tables instead, all together at most so
# many intervals of 16 bytes (4 MiB), or else LEAST_TABLES tables. The interpreter's programs take turns.
TALLIED_INTERVALS = 1 << 18
LEAST_TABLES, MOST_TABLES = 2, 2 if INTERPRETED else 256
# Entries of the tables that one program of the reduction adds up.
REDUCE_BLOCK = 1 << 16 if INTERPRETED else 256


@triton.jit
def sum_by_four(values, BLOCK: tl.constexpr):
    """(BLOCK / 4,) sums of four neighbours, which one thread holds: sums take a quarter of the registers."""
    return tl.sum(tl.reshape(values, (BLOCK // 4, 4)), 1)


@triton.jit
def add_carried(table_ptr, interval, counts, offsets):
    """Adds what a program holds for the interval that it carries along; interval 0 is none."""
    tl.atomic_add(table_ptr + interval * 2, tl.sum(counts, 0).to(tl.int64), mask=interval > 0, sem="relaxed")
    tl.atomic_add(table_ptr + interval * 2 + 1, tl.sum(offsets, 0), mask=interval > 0, sem="relaxed")


@triton.jit(do_not_specialize=["tiles", "tables", "widest", "units", *SIZES])
def tally_kernel(
    levels,
    ignores,
    sizes,
    parts,
    firsts,
    tiles,  # of all these pieces
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    tallies_ptr,  # (2 + tables, rows, 2) int64, after the two of the positives: counts and offsets, added to
    tables,  # a power of two
    widest,  # 2^30 units, in logits
    units,  # units per logit
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
    HARD: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts and offsets of the logits in each interval; interval 0 counts the NaN."""
    tile, last_tile, stride = share_of(tiles, CUT != 0)
    entries = 2 * row_count(positives_size, segments)
    own_table_ptr = tallies_ptr + (2 + (tl.program_id(0) & (tables - 1))).to(tl.int64) * entries
    logits_ptr, ignore_ptr, _, size, begin_tile, end_tile, segment = find_part(
        tl.minimum(tile, tiles - 1), levels, ignores, levels, sizes, parts, firsts, PIECES, CUT, BLOCK
    )
    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
    )
    # The interval that is carried along, at first none. Its `counts` and `offsets` are not in the table yet.
    table_ptr = own_table_ptr + row * 2
    interval = tl.zeros((), tl.int32)
    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    counts = tl.zeros((BLOCK // 4,), tl.int32)
    offsets = tl.zeros((BLOCK // 4,), tl.int64)
    while tile < last_tile:
        if tile >= end_tile:
            logits_ptr, ignore_ptr, _, size, begin_tile, end_tile, entered = find_part(
                tile, levels, ignores, levels, sizes, parts, firsts, PIECES, CUT, BLOCK
            )
            if CUT != 0:  # noqa: SIM102 - a constant: without segments there is no branch
                if entered != segment:
                    add_carried(table_ptr, interval, counts, offsets)
                    segment = entered
                    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
                        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
                    )
                    table_ptr = own_table_ptr + row * 2
                    interval = tl.zeros((), tl.int32)
                    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
                    counts = tl.zeros((BLOCK // 4,), tl.int32)
                    offsets = tl.zeros((BLOCK // 4,), tl.int64)
        begin = (tile - begin_tile).to(tl.int64) * BLOCK
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        counts += sum_by_four(carried.to(tl.int32), BLOCK)
        if not HARD:
            offsets += sum_by_four(offset_units(tl.where(carried, logits - left, 0.0), widest, units), BLOCK)
        missing = counted & ~carried & ~(logits < floor)
        if tl.max(missing.to(tl.int32), 0) != 0:
            nan = tl.sum((missing & (logits != logits)).to(tl.int32), 0)
            tl.atomic_add(table_ptr, nan.to(tl.int64), mask=nan != 0, sem="relaxed")
            first, last, scale, lowest, highest, minus, plus = load_search_bounds(bounds_ptr)
            logits = replace_infinities(logits, lowest, highest, minus, plus)
            missing = missing & (logits == logits)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            chosen, start, end = most_common_interval(
                logits, found, carried, threshold_ptr, kinks_size, lowest, highest
            )
            if chosen > 0:
                add_carried(table_ptr, interval, counts, offsets)
                interval, left, right = chosen, start, end
                gained = found == interval
                counts = sum_by_four(gained.to(tl.int32), BLOCK)
                if not HARD:
                    offsets = sum_by_four(offset_units(tl.where(gained, logits - left, 0.0), widest, units), BLOCK)
                found = tl.where(gained, 0, found)
            if HARD:
                added = tl.full((BLOCK,), 1, tl.int64)
                tl.atomic_add(table_ptr + found * 2, added, mask=found > 0, sem="relaxed")
            else:
                starts = tl.load(threshold_ptr + found - 1, mask=found > 0, other=0.0)
                offset = offset_units(tl.where(found > 0, logits - starts, 0.0), widest, units)
                # count and offset lie side by side
                column = tl.arange(0, 2)[None, :]
                added = tl.where(column == 0, 1, offset[:, None])
                tl.atomic_add(
                    table_ptr + (found * 2)[:, None] + column, added, mask=(found > 0)[:, None], sem="relaxed"
                )
        tile += stride
    add_carried(table_ptr, interval, counts, offsets)


@triton.jit(do_not_specialize=["tables", "entries"])
def reduce_kernel(
    tallies_ptr,  # (2 + tables, entries) int64
    tables,
    entries,
    BLOCK: tl.constexpr,
):
    """The sum of the tables of the logits, into the first of them."""
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    tables_ptr = tallies_ptr + 2 * entries.to(tl.int64)
    total = tl.load(tables_ptr + entry, mask=inside, other=0)
    for table in range(1, tables):
        total += tl.load(tables_ptr + table * entries.to(tl.int64) + entry, mask=inside, other=0)
    tl.store(tables_ptr + entry, total, mask=inside)


def table_count(rows: int) -> int:
    """How many tables the programs add to."""
    wanted = max(TALLIED_INTERVALS // rows, LEAST_TABLES)
    return min(1 << (wanted.bit_length() - 1), MOST_TABLES)


def tally(tables: Tables, launches: list[Pieces], tallies: Tensor, number: int, delta: float, units: float) -> None:
    """Tallies the logits into the last `number` of the `tallies` (2 + number, rows, 2), their sum into the first."""
    for pieces in launches:
        tiles = pieces.tiles(BLOCK)
        launch(
            tally_kernel,
            (program_count(tiles, tallies.device),),
            *pieces.arguments,
            tiles,
            tables.singles,
            tables.ints,
            *tables.sizes,
            tallies,
            number,
            WIDEST.value / units,
            units,
            **pieces.constants,
            HARD=delta == 0,
            CELLS=tables.cells,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    entries = 2 * (2 * tables.positives + tables.segments)
    launch(reduce_kernel, (blocks_of(entries, REDUCE_BLOCK),), tallies, number, entries, BLOCK=REDUCE_BLOCK)
