"""The passes over the logits (`passes.LogitPasses`) in linear time (Triton): a logit is compared with few kinks.

    R  positives of all segments      S  segments, the rankings of one call      M  logits of all levels together
    K  kinks of a segment, two for each positive (one for a hard step)      s  logits      w  weights of the scatter

Count tallies per interval the number of its logits and their offsets from its lower kink; scatter looks up the
interval's value and slope. README.md derives both, `torch_breakpoints.py` is the same in torch operators.

Most tiles need no search: near initialisation all logits lie in one interval, and for a trained detector nearly all lie
below the first kink. So a program carries the bounds of one interval along and compares a tile with them and with the
first kink. Only the other logits are searched for. Where another interval holds more of a tile, it is carried from then
on.

Tallies are int64, counts as they are and offsets in whole units of 2^-30 to 2^-29 of the band. Integer sums are the
same in any order, so atomics, any number of programs and any split into levels give the same bits. Float atomics would
not.

One launch visits all levels and segments. A program walks over its tiles, and where a tile begins another part
(`triton_pieces.py`) it turns to that part's ranking.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_kinks import FEW, enter_ranking, load_search_bounds, load_tile, locate, most_common_interval
from .triton_pieces import Pieces, find_part
from .triton_step import INTERPRETED, launch, replace_infinities
from .triton_tables import SIZES, Tables, poison_table

# A program is one warp, which waits for no other when it tests a whole tile, and holds 8 logits a thread (of 32): two
# 16-byte loads of float32, and few enough registers for two dozen programs on a multiprocessor. The interpreter pays
# per operation and per program, whatever the tile.
BLOCK = 4096 if INTERPRETED else 256
WARPS = 1
# They walk over the tiles in turn. On an H100, 64 are up to a tenth faster than 32 or 16; 8 are slower.
PROGRAMS_PER_MULTIPROCESSOR = 64


@triton.jit
def share_of(begin, end, SEGMENTED: tl.constexpr):
    """(first, last + 1, step) of a program's tiles, of those from `begin` to `end`.

    One ranking: every n-th tile, so that all programs have as many tiles that take long. Several: neighbouring tiles,
    which seldom change from one ranking to another.
    """
    first, last, stride = begin + tl.program_id(0), end, tl.num_programs(0)
    if SEGMENTED:
        share = tl.cdiv(end - begin, stride)
        first = begin + tl.program_id(0) * share
        last = tl.minimum(first + share, end)
        stride = tl.full((), 1, tl.int32)
    return first, last, stride


@triton.jit(do_not_specialize=["tiles", *SIZES])
def scatter_kernel(
    levels,
    ignores,
    outs,  # of the gradient, every entry written
    sizes,
    parts,
    firsts,
    tiles,  # of all these pieces
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    profile_ptr,  # (rows, 4) float32: start, value there, slope, unused
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
    HARD: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tile, last_tile, stride = share_of(0, tiles, CUT != 0)
    poison_ptr = poison_table(singles_ptr, positives_size, segments)
    lanes = tl.arange(0, BLOCK)
    logits_ptr, ignore_ptr, out_ptr, size, begin_tile, end_tile, segment = find_part(
        tl.minimum(tile, tiles - 1), levels, ignores, outs, sizes, parts, firsts, PIECES, CUT, BLOCK
    )
    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
    )
    rows_ptr = profile_ptr + row * 4
    poison = tl.load(poison_ptr + segment)
    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    value, slope = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    while tile < last_tile:
        if tile >= end_tile:
            logits_ptr, ignore_ptr, out_ptr, size, begin_tile, end_tile, entered = find_part(
                tile, levels, ignores, outs, sizes, parts, firsts, PIECES, CUT, BLOCK
            )
            if CUT != 0:  # noqa: SIM102 - a constant: without segments there is no branch
                if entered != segment:
                    segment = entered
                    threshold_ptr, cells_ptr, bounds_ptr, row, kinks_size, floor = enter_ranking(
                        singles_ptr, ints_ptr, segment, positives_size, segments, HARD, CELLS
                    )
                    rows_ptr = profile_ptr + row * 4
                    poison = tl.load(poison_ptr + segment)
                    left, right = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
                    value, slope = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
        begin = (tile - begin_tile).to(tl.int64) * BLOCK
        logits, counted = load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE, BLOCK)
        carried = counted & (logits >= left) & (logits < right)
        # one rounding, here and below: the same bits whichever interval is carried
        total = tl.where(carried, tl.fma(tl.where(carried, logits - left, 0.0), slope, value), 0.0)
        missing = counted & ~carried & (logits >= floor)
        number = tl.sum(missing.to(tl.int32), 0)
        if number != 0:
            first, last, scale, lowest, highest, minus, plus = load_search_bounds(bounds_ptr)
            logits = replace_infinities(logits, lowest, highest, minus, plus)
            found = locate(logits, missing, threshold_ptr, cells_ptr, first, last, scale, CELLS)
            entry_ptr = rows_ptr + found * 4
            missing = found > 0  # a finite logit that only seemed to reach an infinite positive is in interval 0
            starts = tl.load(entry_ptr, mask=missing, other=0.0)
            values = tl.load(entry_ptr + 1, mask=missing, other=0.0)
            slopes = tl.load(entry_ptr + 2, mask=missing, other=0.0)
            total = tl.where(missing, tl.fma(logits - starts, slopes, values), total)
            if number > BLOCK // FEW:
                chosen, start, end = most_common_interval(
                    logits, found, carried, threshold_ptr, kinks_size, lowest, highest
                )
                if chosen > 0:
                    left, right = start, end
                    value, slope = tl.load(rows_ptr + chosen * 4 + 1), tl.load(rows_ptr + chosen * 4 + 2)
        total = tl.where(counted, total + poison, 0.0).to(out_ptr.dtype.element_ty)
        if begin + BLOCK <= size:
            tl.store(out_ptr + begin + lanes, total)
        else:
            tl.store(out_ptr + begin + lanes, total, mask=lanes < size - begin)
        tile += stride


def program_count(tiles: int, device: torch.device) -> int:
    """How many programs share the tiles; no result depends on it."""
    multiprocessors = 64  # an XPU's, about
    if device.type == "cuda":
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    programs = 2 if INTERPRETED else PROGRAMS_PER_MULTIPROCESSOR * multiprocessors
    return min(tiles, programs)


def scatter(tables: Tables, launches: list[Pieces], profile: Tensor, gradients: list[Tensor], delta: float) -> None:
    """Writes the gradient of every logit as if it were a negative, and 0 for an ignored one."""
    for pieces in launches:
        tiles = pieces.tiles(BLOCK)
        launch(
            scatter_kernel,
            (program_count(tiles, profile.device),),
            pieces.logits,
            pieces.ignores,
            pieces.slices(gradients),
            pieces.sizes,
            pieces.parts,
            pieces.firsts,
            tiles,
            tables.singles,
            tables.ints,
            *tables.sizes,
            profile,
            **pieces.constants,
            HARD=delta == 0,
            CELLS=tables.cells,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
