"""The count by breakpoints (Triton): per interval between kinks, how many logits it has, and their offsets.

    R  positives of all segments      S  segments, the rankings of one call      M  logits of all levels together
    K  kinks of a segment, two for each positive (one for a hard step)

`triton_breakpoints.py` says how programs share the tiles, and why sums are whole numbers. `triton_scans.py` adds the
tallies up along the kinks.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_breakpoints import BLOCK, WARPS, program_count, share_of
from .triton_kinks import (
    FEW,
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

# Early in training nearly every logit costs an atomic addition, and these are what the pass waits for. So a count
# (17 bits) and a sum of offsets (47 bits) are one int64: an offset has at most 2^30 units, and a table sees at most
# MOST_COUNTED logits before the reduction takes it apart.
MOST_COUNTED = (1 << 17) - 1
OFFSET_BITS = tl.constexpr(47)
COUNTS_MASK, OFFSETS_MASK = tl.constexpr(MOST_COUNTED), tl.constexpr((1 << 47) - 1)
# Atomics to one address wait for each other. Programs add to one of several tables instead, all together at most so
# many intervals of 8 bytes (8 MiB), or else LEAST_TABLES tables. The interpreter's programs take turns.
TALLIED_INTERVALS = 1 << 20
INTERVALS_PER_LOGIT = 4  # and at most so many: where positives are many and logits few, tables would stay empty
LEAST_TABLES, MOST_TABLES = 4, 2 if INTERPRETED else 256
# A program of the reduction adds up so many intervals, of so many tables at a time: all loads of a tile are under way
# together.
REDUCE_BLOCK, REDUCE_TABLES = (1 << 15, 2) if INTERPRETED else (16, 64)


@triton.jit
def sum_by_four(values, BLOCK: tl.constexpr):
    """(BLOCK / 4,) sums of four neighbours, which one thread holds: sums take a quarter of the registers."""
    return tl.sum(tl.reshape(values, (BLOCK // 4, 4)), 1)


@triton.jit
def packed(wanted, offsets, widest, units, HARD: tl.constexpr):
    """(BLOCK,) int64: count and offset of each wanted logit, 0 for the others."""
    found = wanted.to(tl.int64) << OFFSET_BITS
    if not HARD:
        found += offset_units(tl.where(wanted, offsets, 0.0), widest, units)
    return found


@triton.jit
def add_carried(table_ptr, interval, held):
    """Adds what a program holds for the interval that it carries along; interval 0 is none."""
    tl.atomic_add(table_ptr + interval, tl.sum(held, 0), mask=interval > 0, sem="relaxed")


@triton.jit(do_not_specialize=["from_tile", "to_tile", "tables", "widest", "units", *SIZES])
def tally_kernel(
    levels,
    ignores,
    sizes,
    parts,
    firsts,
    from_tile,  # the first
    to_tile,  # and the one after the last, of all these pieces
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    tables_ptr,  # (tables, rows) int64, added to: counts and offsets, `packed`
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
    tile, last_tile, stride = share_of(from_tile, to_tile, CUT != 0)
    own_table_ptr = tables_ptr + (tl.program_id(0) & (tables - 1)).to(tl.int64) * row_count(positives_size, segments)
    logits_ptr, ignore_ptr, _, size, begin_tile, end_tile, segment = find_part(
        tl.minimum(tile, to_tile - 1), levels, ignores, levels, sizes, parts, firsts, PIECES, CUT, BLOCK
    )
    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
    )
    # The interval that is carried along, at first none. What is `held` of it is not in the table yet.
    table_ptr = own_table_ptr + row
    interval = tl.zeros((), tl.int32)
    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    held = tl.zeros((BLOCK // 4,), tl.int64)
    while tile < last_tile:
        if tile >= end_tile:
            logits_ptr, ignore_ptr, _, size, begin_tile, end_tile, entered = find_part(
                tile, levels, ignores, levels, sizes, parts, firsts, PIECES, CUT, BLOCK
            )
            if CUT != 0:  # noqa: SIM102 - a constant: without segments there is no branch
                if entered != segment:
                    add_carried(table_ptr, interval, held)
                    segment = entered
                    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
                        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
                    )
                    table_ptr = own_table_ptr + row
                    interval = tl.zeros((), tl.int32)
                    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
                    held = tl.zeros((BLOCK // 4,), tl.int64)
        begin = (tile - begin_tile).to(tl.int64) * BLOCK
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        held += sum_by_four(packed(carried, logits - left, widest, units, HARD), BLOCK)
        missing = counted & ~carried & ~(logits < floor)
        number = tl.sum(missing.to(tl.int32), 0)
        if number != 0:
            nan = tl.sum((missing & (logits != logits)).to(tl.int32), 0)
            tl.atomic_add(table_ptr, nan.to(tl.int64) << OFFSET_BITS, mask=nan != 0, sem="relaxed")
            first, last, scale, lowest, highest, minus, plus = load_search_bounds(bounds_ptr)
            logits = replace_infinities(logits, lowest, highest, minus, plus)
            missing = missing & (logits == logits)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            if number > BLOCK // FEW:
                chosen, start, end = most_common_interval(
                    logits, found, carried, threshold_ptr, kinks_size, lowest, highest
                )
                if chosen > 0:
                    add_carried(table_ptr, interval, held)
                    interval, left, right = chosen, start, end
                    gained = found == interval
                    held = sum_by_four(packed(gained, logits - left, widest, units, HARD), BLOCK)
                    found = tl.where(gained, 0, found)
            starts = tl.load(threshold_ptr + found - 1, mask=found > 0, other=0.0)
            added = packed(found > 0, logits - starts, widest, units, HARD)
            tl.atomic_add(table_ptr + found, added, mask=found > 0, sem="relaxed")
        tile += stride
    add_carried(table_ptr, interval, held)


@triton.jit(do_not_specialize=["tables", "rows", "again"])
def reduce_kernel(
    tables_ptr,  # (tables, rows) int64, `packed`
    total_ptr,  # (rows, 2) int64, added to: counts and offsets
    tables,
    rows,
    again,  # not 0: the tables are set to 0, for what is tallied next
    BLOCK: tl.constexpr,
    TABLES: tl.constexpr,
):
    """Adds the sums of the tables to the total."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    counts, offsets = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64)
    for begin in range(0, tables, TABLES):
        table = begin + tl.arange(0, TABLES)
        entry_ptr = tables_ptr + table.to(tl.int64)[:, None] * rows + row[None, :]
        there = (table < tables)[:, None] & inside[None, :]
        held = tl.load(entry_ptr, mask=there, other=0)
        counts += tl.sum((held >> OFFSET_BITS) & COUNTS_MASK, 0)
        offsets += tl.sum(held & OFFSETS_MASK, 0)
        tl.store(entry_ptr, tl.zeros((TABLES, BLOCK), tl.int64), mask=there & (again != 0))
    total_ptr += row * 2
    tl.store(total_ptr, tl.load(total_ptr, mask=inside, other=0) + counts, mask=inside)
    tl.store(total_ptr + 1, tl.load(total_ptr + 1, mask=inside, other=0) + offsets, mask=inside)


def table_count(rows: int, logits: int) -> int:
    """How many tables the programs add to: of no more intervals than a few logits each would fill."""
    wanted = max(min(TALLIED_INTERVALS, INTERVALS_PER_LOGIT * logits) // rows, LEAST_TABLES)
    return min(1 << (wanted.bit_length() - 1), MOST_TABLES)


class Round(NamedTuple):
    """A launch of the tally."""

    pieces: Pieces
    begin: int  # of its tiles
    end: int
    programs: int
    reduced: bool  # after it the tables may be full, or it is the last


def rounds_of(launches: list[Pieces], number: int, device: torch.device) -> list[Round]:
    """The launches of the tally. As few as they can be: no table may see more than MOST_COUNTED logits in between."""
    found: list[Round] = []
    held = 0  # of the fullest table, at most
    for pieces in launches:
        tiles = pieces.tiles(BLOCK)
        programs = min(program_count(tiles, device), number * (MOST_COUNTED // BLOCK))
        begin = 0
        while begin < tiles:
            seen = blocks_of(programs, number) * BLOCK  # of a table, for each tile of a program
            if found and held + seen * blocks_of(tiles - begin, programs) > MOST_COUNTED:
                found[-1] = found[-1]._replace(reduced=True)
                held = 0
            end = min(tiles, begin + programs * (MOST_COUNTED // seen))
            held += seen * blocks_of(end - begin, programs)
            found.append(Round(pieces, begin, end, programs, False))
            begin = end
    if found:
        found[-1] = found[-1]._replace(reduced=True)
    return found


def tally(
    tables: Tables, launches: list[Pieces], total: Tensor, packed: Tensor, number: int, delta: float, units: float
) -> None:
    """Tallies the logits in the tables `packed` (number, rows), and adds their sum to `total` (rows, 2)."""
    rounds = rounds_of(launches, number, total.device)
    rows = 2 * tables.positives + tables.segments
    for place, (pieces, begin, end, programs, reduced) in enumerate(rounds):
        launch(
            tally_kernel,
            (programs,),
            *pieces.arguments,
            begin,
            end,
            tables.singles,
            tables.ints,
            *tables.sizes,
            packed,
            number,
            WIDEST.value / units,
            units,
            **pieces.constants,
            HARD=delta == 0,
            CELLS=tables.cells,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
        if reduced:
            launch(
                reduce_kernel,
                (blocks_of(rows, REDUCE_BLOCK),),
                packed,
                total,
                number,
                rows,
                int(place + 1 < len(rounds)),
                BLOCK=REDUCE_BLOCK,
                TABLES=REDUCE_TABLES,
            )
