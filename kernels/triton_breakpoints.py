"""The passes over the logits (`passes.LogitPasses`) in linear time (Triton): a logit is compared with few kinks.

    R  positives of the ranking      P  those of this process      n  logits of one level
    K  kinks, 2 R (R for a hard step)      s  logits      d  delta      w  weights of the scatter

Count tallies per interval the number of its logits and their offsets from its lower kink; scatter looks up the
interval's value and slope. README.md derives both, `torch_breakpoints.py` is the same in torch operators.

Most tiles need no search: near initialisation all logits lie in one interval, and for a trained detector nearly all lie
below the first kink. So a program carries the bounds of one interval along and compares a tile with them and with the
first kink. Only the other logits are searched for. Where another interval holds more of a tile, it is carried from then
on.

Tallies are int64, counts as they are and offsets in whole units of 2^-30 to 2^-29 of the band. Integer sums are the
same in any order, so atomics, any number of programs and any split into levels give the same bits. Float atomics would
not.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .passes import Masses
from .targets import Ranking
from .torch_chunks import masses_of_nothing
from .triton_kinks import Kinks, load_search_bounds, load_tile, locate, most_common_interval
from .triton_kinks_merge import build_kinks
from .triton_scans import WIDEST, build_profile, integrate_masses, units_per_logit
from .triton_step import INTERPRETED, ignore_argument, launch_context, replace_infinities

# A program is one warp, which waits for no other when it tests a whole tile, and holds 8 logits a thread (of 32): two
# 16-byte loads of float32, and few enough registers for two dozen programs on a multiprocessor. The interpreter pays
# per operation and per program, whatever the tile.
BLOCK = 4096 if INTERPRETED else 256
WARPS = 1
# All programs run at once; they walk over the tiles in turn: 27 tiles each of 20 M logits on a GPU of 132
# multiprocessors, enough to hide a program's start and end.
PROGRAMS_PER_MULTIPROCESSOR = 16
# Atomics to one address wait for each other. Programs add to one of several tables instead, all together at most so
# many intervals of 16 bytes (4 MiB), or else LEAST_TABLES tables. The interpreter's programs take turns.
TALLIED_INTERVALS = 1 << 18
LEAST_TABLES, MOST_TABLES = 2, 2 if INTERPRETED else 256


@triton.jit
def sum_by_four(values, BLOCK: tl.constexpr):
    """(BLOCK / 4,) sums of four neighbours, which one thread holds: sums take a quarter of the registers."""
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
    bounds_ptr,  # (8,) float32
    kinks_size,  # K
    tables_ptr,  # (tables, K + 1, 2) int64, added to: counts and offsets; interval 0 counts the NaN
    tables,  # a power of two
    widest,  # 2^30 units, in logits
    units,  # units per logit
    HARD: tl.constexpr,
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    floor, first, last, scale, lowest, highest, minus, plus = load_search_bounds(bounds_ptr)
    table_ptr = tables_ptr + (tl.program_id(0) & (tables - 1)) * (kinks_size + 1) * 2
    # The interval that is carried along, at first none. Its `counts` and `offsets` are not in the table yet.
    interval = tl.zeros((), tl.int32)
    left, right = first, first
    counts = tl.zeros((BLOCK // 4,), tl.int32)
    offsets = tl.zeros((BLOCK // 4,), tl.int64)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        counts += sum_by_four(carried.to(tl.int32), BLOCK)
        if not HARD:
            offsets += sum_by_four(offset_units(tl.where(carried, logits - left, 0.0), widest, units), BLOCK)
        missing = counted & ~carried & ~(logits < floor)
        if tl.max(missing.to(tl.int32), 0) != 0:
            nan = tl.sum((missing & (logits != logits)).to(tl.int32), 0)
            tl.atomic_add(table_ptr, nan.to(tl.int64), mask=nan != 0, sem="relaxed")
            logits = replace_infinities(logits, lowest, highest, minus, plus)
            missing = missing & (logits == logits)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            chosen, start, end = most_common_interval(
                logits, found, carried, threshold_ptr, kinks_size, lowest, highest
            )
            if chosen > 0:
                tl.atomic_add(table_ptr + interval * 2, tl.sum(counts, 0).to(tl.int64), sem="relaxed")
                tl.atomic_add(table_ptr + interval * 2 + 1, tl.sum(offsets, 0), sem="relaxed")
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
    bounds_ptr,  # (8,) float32
    kinks_size,  # K
    profile_ptr,  # (K + 1, 4) float32: start, value there, slope, unused
    poison_ptr,  # () float, 0 or NaN, added to every logit that is not ignored
    IGNORE: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    floor, first, last, scale, lowest, highest, minus, plus = load_search_bounds(bounds_ptr)
    poison = tl.load(poison_ptr).to(tl.float32)
    lanes = tl.arange(0, BLOCK)
    left, right = first, first
    value, slope = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    while begin < size:
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        # one rounding, here and below: the same bits whichever interval is carried
        total = tl.where(carried, tl.fma(tl.where(carried, logits - left, 0.0), slope, value), 0.0)
        missing = counted & ~carried & (logits >= floor)
        if tl.max(missing.to(tl.int32), 0) != 0:
            logits = replace_infinities(logits, lowest, highest, minus, plus)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            entry_ptr = profile_ptr + found * 4
            missing = found > 0  # a finite logit that only seemed to reach an infinite positive is in interval 0
            starts = tl.load(entry_ptr, mask=missing, other=0.0)
            values = tl.load(entry_ptr + 1, mask=missing, other=0.0)
            slopes = tl.load(entry_ptr + 2, mask=missing, other=0.0)
            total = tl.where(missing, tl.fma(logits - starts, slopes, values), total)
            chosen, start, end = most_common_interval(
                logits, found, carried, threshold_ptr, kinks_size, lowest, highest
            )
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


def count(positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
    if len(positives) == 0:
        return masses_of_nothing(positives, ranking)
    kinks = build_kinks(positives, delta)
    wanted = max(TALLIED_INTERVALS // (kinks.size + 1), LEAST_TABLES)
    tables = min(1 << (wanted.bit_length() - 1), MOST_TABLES)
    # the tally of all positives, that of the positives under no mask, and the tables of the logits
    tallies = torch.zeros((tables + 2, kinks.size + 1, 2), dtype=torch.int64, device=positives.device)
    for level, ignore in ranking.levels_with_ignores():
        _tally(kinks, level, ignore, tallies[2:])
    own = own.contiguous()
    _tally(kinks, own, None, tallies[:1])
    masked = tallies[0]
    if ranking.masked is not None:  # subtract only what was added: a positive under a mask is not among the logits
        _tally(kinks, own, ranking.masked, tallies[1:2])
        masked = tallies[1]
    false_positives, true_positives = integrate_masses(kinks, tallies[2:].sum(0), masked, tallies[0])
    return Masses(false_positives, true_positives, 0 * false_positives.sum())


def _tally(
    kinks: Kinks,
    logits: Tensor,  # (n,)
    ignore: Tensor | None,  # (n,)
    tables: Tensor,  # (tables, K + 1, 2) int64, added to
) -> None:
    if logits.numel() == 0:
        return
    pointer, kind = ignore_argument(logits, ignore)
    units = units_per_logit(kinks.delta)
    constants: dict[str, Any] = {
        "HARD": kinks.delta == 0,
        "IGNORE": kind,
        "CELLS": kinks.grid,
        "BLOCK": BLOCK,
        "num_warps": WARPS,
    }
    with launch_context(logits):
        tally_kernel[(program_count(logits),)](
            logits,
            pointer,
            logits.numel(),
            kinks.threshold,
            kinks.cells,
            kinks.bounds,
            kinks.size,
            tables,
            len(tables),
            WIDEST.value / units,
            units,
            **constants,
        )


def scatter(
    weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: object | None = None
) -> Tensor:
    del reuse
    if len(positives) == 0:  # the kernels need something to load: a positive that no logit reaches
        positives, weights = positives.new_full((1,), torch.inf), weights.new_zeros(1)
    kinks = build_kinks(positives, delta)
    profile = build_profile(kinks, weights.contiguous())
    flat, parts = ranking.new_gradient()
    for (level, ignore), part in zip(ranking.levels_with_ignores(), parts, strict=True):
        if level.numel() == 0:
            continue
        pointer, kind = ignore_argument(level, ignore)
        constants: dict[str, Any] = {"IGNORE": kind, "CELLS": kinks.grid, "BLOCK": BLOCK, "num_warps": WARPS}
        with launch_context(level):
            scatter_kernel[(program_count(level),)](
                level,
                pointer,
                part,
                level.numel(),
                kinks.threshold,
                kinks.cells,
                kinks.bounds,
                kinks.size,
                profile,
                poison,
                **constants,
            )
    return flat
