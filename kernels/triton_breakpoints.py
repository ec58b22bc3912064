"""Count and scatter in linear time (Triton): a logit is compared with the kinks of H, and not with every positive.

    R  rows: the positives that are asked about      P  positives of the examples      n  logits of one level
    K  kinks, 2 R (R for a hard step)      s  logits      d  delta      w  what a row spreads over what outranks it

Count tallies per interval how many logits fall in it and their offsets from its lower kink; scatter looks up the
interval's value and slope (README.md derives both, `portable.py` is the same in torch operators). Most tiles need no
search: near initialisation all logits lie in one interval, and for a trained detector nearly all lie below the first
kink. So a program carries the bounds of one interval along and compares a tile with them and with the first kink; only
what is in neither is searched for, and where another interval holds more of a tile, it is carried from then on.

Tallies are int64, counts as they are and offsets in whole units of 2^-30 to 2^-29 of the band: integer sums are the
same in any order, so atomics, any number of programs and any split into levels give the same bits; float atomics would
not.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .targets import Examples, Masses
from .triton_kinks import INTERPRETED, load_frame, load_tile, locate, popular, squash
from .triton_kinks_merge import build_intervals
from .triton_scans import WIDEST, masses_of, profile_of, units_per_logit
from .triton_step import ignore_argument, launch_context

# A program is one warp, so that no look at a whole tile waits for other warps, and holds 8 logits a thread (of 32): two
# 16-byte loads of float32, and few enough registers for two dozen programs on a multiprocessor. The interpreter pays
# per operation and per program, whatever the tile.
BLOCK = 4096 if INTERPRETED else 256
WARPS = 1
# All programs run at once and walk over the tiles with their number as the stride: 27 tiles each of 20 M logits on a
# GPU of 132 multiprocessors, so that what a program does once is paid for.
PROGRAMS_PER_MULTIPROCESSOR = 16
# Atomics to one address wait for each other. Programs add to one of several tables instead, all together at most so
# many intervals of 16 bytes (4 MiB), or else LEAST_TABLES tables. The interpreter's programs take turns.
TALLIED_INTERVALS = 1 << 18
LEAST_TABLES, MOST_TABLES = 2, 2 if INTERPRETED else 256


@triton.jit
def fold(values, BLOCK: tl.constexpr):
    """(BLOCK / 4,) sums of four neighbours, which one thread holds: a quarter of the registers to add up in."""
    return tl.sum(tl.reshape(values, (BLOCK // 4, 4)), 1)


@triton.jit
def offset_units(offsets, widest, units):
    """Offsets >= 0 in whole units, rounded to the nearest; scaling is exact. `widest` is 2^30 units, so an int32."""
    return (tl.minimum(offsets, widest) * units + 0.5).to(tl.int32).to(tl.int64)


@triton.jit
def tally_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    size,  # n
    threshold_ptr,  # (K,) float32
    cells_ptr,  # (CELLS + 2,) int32
    frame_ptr,  # (8,) float32
    kinks,  # K
    tables_ptr,  # (tables, K + 1, 2) int64, added to: counts and offsets; the count of interval 0 is that of the NaN
    tables,  # a power of two
    widest,  # 2^30 units, in logits
    units,  # units per logit
    HARD: tl.constexpr,
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    floor, first, last, scale, lowest, highest, minus, plus = load_frame(frame_ptr)
    table_ptr = tables_ptr + (tl.program_id(0) & (tables - 1)) * (kinks + 1) * 2
    # the interval that is carried along, at first none; `counts` and `offsets` are not in the table yet
    interval = tl.zeros((), tl.int32)
    left, right = first, first
    counts = tl.zeros((BLOCK // 4,), tl.int32)
    offsets = tl.zeros((BLOCK // 4,), tl.int64)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        counts += fold(carried.to(tl.int32), BLOCK)
        if not HARD:
            offsets += fold(offset_units(tl.where(carried, logits - left, 0.0), widest, units), BLOCK)
        missing = counted & ~carried & ~(logits < floor)
        if tl.max(missing.to(tl.int32), 0) != 0:
            nan = tl.sum((missing & (logits != logits)).to(tl.int32), 0)
            tl.atomic_add(table_ptr, nan.to(tl.int64), mask=nan != 0, sem="relaxed")
            logits = squash(logits, lowest, highest, minus, plus)
            missing = missing & (logits == logits)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            chosen, start, end = popular(logits, found, carried, threshold_ptr, kinks, lowest, highest)
            if chosen > 0:
                tl.atomic_add(table_ptr + interval * 2, tl.sum(counts, 0).to(tl.int64), sem="relaxed")
                tl.atomic_add(table_ptr + interval * 2 + 1, tl.sum(offsets, 0), sem="relaxed")
                interval, left, right = chosen, start, end
                gained = found == interval
                counts = fold(gained.to(tl.int32), BLOCK)
                if not HARD:
                    offsets = fold(offset_units(tl.where(gained, logits - left, 0.0), widest, units), BLOCK)
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
        begin += tl.num_programs(0).to(tl.int64) * BLOCK
    tl.atomic_add(table_ptr + interval * 2, tl.sum(counts, 0).to(tl.int64), sem="relaxed")
    tl.atomic_add(table_ptr + interval * 2 + 1, tl.sum(offsets, 0), sem="relaxed")


@triton.jit
def scatter_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    out_ptr,  # (n,) float, every entry written
    size,  # n
    threshold_ptr,  # (K,) float32
    cells_ptr,  # (CELLS + 2,) int32
    frame_ptr,  # (8,) float32
    kinks,  # K
    profile_ptr,  # (K + 1, 4) float32: start, value there, slope, unused
    poison_ptr,  # () float, 0 or NaN, added to every logit that is not ignored
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    floor, first, last, scale, lowest, highest, minus, plus = load_frame(frame_ptr)
    poison = tl.load(poison_ptr).to(tl.float32)
    lanes = tl.arange(0, BLOCK)
    left, right = first, first
    value, slope = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        # one rounding, here as below: the same bits whichever interval is carried
        total = tl.where(carried, tl.fma(tl.where(carried, logits - left, 0.0), slope, value), 0.0)
        missing = counted & ~carried & (logits >= floor)
        if tl.max(missing.to(tl.int32), 0) != 0:
            logits = squash(logits, lowest, highest, minus, plus)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            rows_ptr = profile_ptr + found * 4
            missing = found > 0  # a finite logit that only seemed to reach an infinite row is in interval 0
            starts = tl.load(rows_ptr, mask=missing, other=0.0)
            values = tl.load(rows_ptr + 1, mask=missing, other=0.0)
            slopes = tl.load(rows_ptr + 2, mask=missing, other=0.0)
            total = tl.where(missing, tl.fma(logits - starts, slopes, values), total)
            chosen, start, end = popular(logits, found, carried, threshold_ptr, kinks, lowest, highest)
            if chosen > 0:
                left, right = start, end
                value, slope = tl.load(profile_ptr + chosen * 4 + 1), tl.load(profile_ptr + chosen * 4 + 2)
        total = tl.where(counted, total + poison, 0.0).to(out_ptr.dtype.element_ty)
        if begin + BLOCK <= size:
            tl.store(out_ptr + begin + lanes, total)
        else:
            tl.store(out_ptr + begin + lanes, total, mask=lanes < size - begin)
        begin += tl.num_programs(0).to(tl.int64) * BLOCK


def program_count(logits: Tensor) -> int:
    """How many programs share the tiles of `logits`; no result depends on it."""
    multiprocessors = 64  # an XPU's, about
    if logits.device.type == "cuda":
        multiprocessors = torch.cuda.get_device_properties(logits.device).multi_processor_count
    programs = 2 if INTERPRETED else PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
    return min(triton.cdiv(logits.numel(), BLOCK), programs)


def count(
    rows: Tensor,  # (R,) float32
    own: Tensor,  # (P,) float32
    examples: Examples,
    delta: float,
) -> Masses:
    """Per row the sum of H over the negatives and over the positives `own` of the examples; see `backends.Backend`."""
    if len(rows) == 0:
        return Masses(rows.new_zeros(0, dtype=torch.float64), rows.new_zeros(0, dtype=torch.float64))
    intervals = build_intervals(rows, delta)
    wanted = max(TALLIED_INTERVALS // (intervals.kinks + 1), LEAST_TABLES)
    tables = min(1 << (wanted.bit_length() - 1), MOST_TABLES)
    units = units_per_logit(delta)
    shape = (tables + 2, intervals.kinks + 1, 2)
    tallies = torch.zeros(shape, dtype=torch.int64, device=rows.device)

    def tally(logits: Tensor, ignore: Tensor | None, into: Tensor) -> None:
        if logits.numel() == 0:
            return
        pointer, kind = ignore_argument(logits, ignore)
        constants: dict[str, Any] = {
            "HARD": delta == 0,
            "IGNORE": kind,
            "CELLS": intervals.grid,
            "BLOCK": BLOCK,
            "num_warps": WARPS,
        }
        with launch_context(logits):
            tally_kernel[(program_count(logits),)](
                logits,
                pointer,
                logits.numel(),
                intervals.threshold,
                intervals.cells,
                intervals.frame,
                intervals.kinks,
                into,
                len(into),
                WIDEST.value / units,
                units,
                **constants,
            )

    for level, ignore in examples.pairs():
        tally(level, ignore, tallies[2:])
    # what is taken out has to be what came in: a positive that a mask covers is not among the logits
    positives, covered = tallies[:1], tallies[:1]
    own = own.contiguous()
    tally(own, None, positives)
    if examples.masked is not None:
        covered = tallies[1:2]
        tally(own, examples.masked, covered)
    return masses_of(intervals, tallies[2:].sum(0), covered[0], positives[0])


def scatter_to_logits(
    weights: Tensor,  # (R,) float64
    rows: Tensor,  # (R,) float32
    examples: Examples,
    delta: float,
    out: Tensor,  # (M,) the logits' dtype
    poison: Tensor,  # () 0 or NaN
) -> None:
    """Writes the sum of w_i H(s_j - s_i) over the rows i, plus `poison`; see `portable.scatter_to_logits`."""
    if len(rows) == 0:  # one row that nobody is above, so that the kernels have something to load
        rows, weights = rows.new_full((1,), torch.inf), weights.new_zeros(1)
    intervals = build_intervals(rows, delta)
    profile = profile_of(intervals, weights.contiguous())
    parts = out.split([level.numel() for level in examples.levels])
    for level, ignore, part in zip(examples.levels, examples.ignores, parts, strict=True):
        if level.numel() == 0:
            continue
        pointer, kind = ignore_argument(level, ignore)
        constants: dict[str, Any] = {"IGNORE": kind, "CELLS": intervals.grid, "BLOCK": BLOCK, "num_warps": WARPS}
        with launch_context(level):
            scatter_kernel[(program_count(level),)](
                level,
                pointer,
                part,
                level.numel(),
                intervals.threshold,
                intervals.cells,
                intervals.frame,
                intervals.kinks,
                profile,
                poison,
                **constants,
            )
