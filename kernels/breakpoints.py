"""Count and scatter in linear time (Triton): every logit is looked at once, against the intervals between the kinks of H.

    R  rows: the positives that are asked about      P  positives of the examples      n  logits of one level
    K  kinks, 2 R (R for a hard step)                s  logits      d  delta      w  what rows spread over what outranks them

Count tallies per interval how many logits fall in it and their offsets from its lower kink; scatter looks the interval's
value and slope up (README.md derives both, `portable.py` is the same in torch operators). Most tiles need no search:
near initialisation all logits lie in one interval, and for a trained detector nearly all lie below the first kink. So a
program carries the bounds of one interval along and compares a tile with them and with the first kink; only what is in
neither is searched for, and where that is all in one interval again, the program carries this one from then on.

Tallies are int64, counts as they are and offsets in whole units of 2^-30 to 2^-29 of the band: integer sums are the same
in any order, so atomics, any number of programs and any split into levels give the same bits; float atomics would not.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .intervals import INTERPRETED, build_intervals, load_frame, locate, squash
from .scans import WIDEST, masses_of, profile_of, units_per_logit
from .targets import Examples, Masses
from .tiles import finite, ignore_argument, launch_context

# 8 logits a thread with 4 warps: two 16-byte loads, and room in the registers for several programs on a multiprocessor.
# The interpreter pays per operation and per program, whatever the tile.
BLOCK = 4096 if INTERPRETED else 1024
# Programs walk over the tiles with this stride: sixteen on each of 128 multiprocessors, with a dozen tiles each of 20 M
# logits, so that what a program does once is paid for.
PROGRAMS = 2 if INTERPRETED else 2048
# Atomics to one address wait for each other. Programs add to one of several tables instead, all together at most so many
# intervals of 16 bytes (1 MiB), or else LEAST_TABLES tables.
TALLIED_INTERVALS = 1 << 16
LEAST_TABLES, MOST_TABLES = 2, 64


@triton.jit
def load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE: tl.constexpr, BLOCK: tl.constexpr):
    """(logits, counted): a tile in float32, NaN where nothing counts, and the bool mask of those that do.

    Unlike `tiles.load_logits`, a whole tile is loaded without a mask: one that ends anywhere, or that skips ignored
    logits, would keep the compiler from loading 16 bytes at a time.
    """
    lanes = tl.arange(0, BLOCK)
    if begin + BLOCK <= size:
        counted = tl.full((BLOCK,), True, tl.int1)
        logits = tl.load(logits_ptr + begin + lanes).to(tl.float32)
        if IGNORE == 1:
            counted = tl.load(ignore_ptr + begin + lanes) == 0
        if IGNORE == 2:
            counted = tl.load(ignore_ptr + begin + lanes).to(tl.float32) >= 0
    else:
        counted = lanes < size - begin
        logits = tl.load(logits_ptr + begin + lanes, mask=counted, other=0.0).to(tl.float32)
        if IGNORE == 1:
            counted = counted & (tl.load(ignore_ptr + begin + lanes, mask=counted, other=1) == 0)
        if IGNORE == 2:
            counted = counted & (tl.load(ignore_ptr + begin + lanes, mask=counted, other=-1).to(tl.float32) >= 0)
    return tl.where(counted, finite(logits), float("nan")), counted


@triton.jit
def shared_interval(logits, wanted, threshold_ptr, cells_ptr, first, last, scale, CELLS: tl.constexpr):
    """The interval that all `wanted` logits fall in, or 0 where they fall in several or there are none."""
    lowest = tl.min(tl.where(wanted, logits, float("inf")), 0)
    highest = tl.max(tl.where(wanted, logits, float("-inf")), 0)
    ends = tl.where(tl.arange(0, 2) == 0, lowest, highest)
    some = tl.zeros((2,), tl.int32) + (lowest <= highest).to(tl.int32) > 0
    intervals = locate(ends, some, threshold_ptr, cells_ptr, first, last, scale, CELLS)
    interval = tl.max(intervals, 0)
    return tl.where(interval == tl.min(intervals, 0), interval, 0)


@triton.jit
def fold(values, BLOCK: tl.constexpr):
    """(BLOCK / 4,) sums of four neighbours, which one thread holds: a quarter of the registers to add up in."""
    return tl.sum(tl.reshape(values, (BLOCK // 4, 4)), 1)


@triton.jit
def offset_units(offsets, units):
    """Offsets >= 0 in whole units, rounded to the nearest; scaling is exact. The widest fits an int32."""
    return (tl.minimum(offsets * units, WIDEST) + 0.5).to(tl.int32).to(tl.int64)


@triton.jit
def tally_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    size,  # n
    threshold_ptr,  # (K,) float32
    cells_ptr,  # (CELLS + 2,) int32
    frame_ptr,  # (7,) float32
    kinks,  # K
    tables_ptr,  # (tables, K + 1, 2) int64, added to: counts and offsets; the count of interval 0 is that of the NaN
    tables,  # a power of two
    units,  # units per logit
    HARD: tl.constexpr,
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first, last, scale, lowest, highest, minus, plus = load_frame(frame_ptr)
    table_ptr = tables_ptr + (tl.program_id(0) & (tables - 1)) * (kinks + 1) * 2
    # the interval that is carried along, at first none; `counts` and `offsets` are not in the table yet
    interval = tl.zeros((), tl.int32)
    left, right = first, first
    counts = tl.zeros((BLOCK // 4,), tl.int32)
    offsets = tl.zeros((BLOCK // 4,), tl.int64)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        logits = squash(logits, lowest, highest, minus, plus)
        carried = (logits >= left) & (logits < right)
        counts += fold(carried.to(tl.int32), BLOCK)
        if not HARD:
            offsets += fold(offset_units(tl.where(carried, logits - left, 0.0), units), BLOCK)
        missing = counted & ~carried & ~(logits < first)  # NaN are among them
        if tl.max(missing.to(tl.int32), 0) > 0:
            lost = missing & (logits != logits)
            tl.atomic_add(table_ptr, tl.sum(lost.to(tl.int64), 0), sem="relaxed")
            missing = missing & ~lost
            shared = shared_interval(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            if shared > 0:
                tl.atomic_add(table_ptr + interval * 2, tl.sum(counts, 0).to(tl.int64), sem="relaxed")
                tl.atomic_add(table_ptr + interval * 2 + 1, tl.sum(offsets, 0), sem="relaxed")
                interval = shared
                left = tl.load(threshold_ptr + interval - 1)
                right = tl.load(threshold_ptr + interval, mask=interval < kinks, other=float("inf"))
                counts = fold(missing.to(tl.int32), BLOCK)
                if not HARD:
                    offsets = fold(offset_units(tl.where(missing, logits - left, 0.0), units), BLOCK)
            else:
                found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
                slot = table_ptr + found * 2
                tl.atomic_add(slot, tl.full((BLOCK,), 1, tl.int64), mask=missing, sem="relaxed")
                if not HARD:
                    start = tl.load(threshold_ptr + found - 1, mask=missing, other=0.0)
                    offset = offset_units(tl.where(missing, logits - start, 0.0), units)
                    # above the last kink it makes no difference where
                    tl.atomic_add(slot + 1, offset, mask=missing & (found < kinks), sem="relaxed")
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
    frame_ptr,  # (7,) float32
    kinks,  # K
    profile_ptr,  # (K + 1, 4) float32: start, value there, slope, unused
    poison_ptr,  # () float, 0 or NaN, added to every logit that is not ignored
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first, last, scale, lowest, highest, minus, plus = load_frame(frame_ptr)
    poison = tl.load(poison_ptr).to(tl.float32)
    lanes = tl.arange(0, BLOCK)
    left, right = first, first
    value, slope = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        logits = squash(logits, lowest, highest, minus, plus)
        carried = (logits >= left) & (logits < right)
        total = tl.where(carried, value + slope * (logits - left), 0.0)
        missing = counted & ~carried & (logits >= first)
        if tl.max(missing.to(tl.int32), 0) > 0:
            shared = shared_interval(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            if shared > 0:
                row = profile_ptr + shared * 4
                left = tl.load(row)
                right = tl.load(threshold_ptr + shared, mask=shared < kinks, other=float("inf"))
                value, slope = tl.load(row + 1), tl.load(row + 2)
                total = tl.where(missing, value + slope * (logits - left), total)
            else:
                row = profile_ptr + locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS) * 4
                start = tl.load(row, mask=missing, other=0.0)
                rise = tl.load(row + 2, mask=missing, other=0.0) * (logits - start)
                total = tl.where(missing, tl.load(row + 1, mask=missing, other=0.0) + rise, total)
        total = tl.where(counted, total + poison, 0.0).to(out_ptr.dtype.element_ty)
        if begin + BLOCK <= size:
            tl.store(out_ptr + begin + lanes, total)
        else:
            tl.store(out_ptr + begin + lanes, total, mask=lanes < size - begin)
        begin += tl.num_programs(0).to(tl.int64) * BLOCK


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
    shape = (tables + 2, intervals.kinks + 1, 2)
    tallies = torch.zeros(shape, dtype=torch.int64, device=rows.device)

    def tally(logits: Tensor, ignore: Tensor | None, into: Tensor) -> None:
        if logits.numel() == 0:
            return
        pointer, kind = ignore_argument(logits, ignore)
        constants: dict[str, Any] = {"HARD": delta == 0, "IGNORE": kind, "CELLS": intervals.grid, "BLOCK": BLOCK}
        with launch_context(logits):
            tally_kernel[(min(triton.cdiv(logits.numel(), BLOCK), PROGRAMS),)](
                logits,
                pointer,
                logits.numel(),
                intervals.threshold,
                intervals.cells,
                intervals.frame,
                intervals.kinks,
                into,
                len(into),
                units_per_logit(delta),
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
        constants: dict[str, Any] = {"IGNORE": kind, "CELLS": intervals.grid, "BLOCK": BLOCK}
        with launch_context(level):
            scatter_kernel[(min(triton.cdiv(level.numel(), BLOCK), PROGRAMS),)](
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
