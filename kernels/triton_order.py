"""The positives of a call in sorted order (Triton): one launch to gather them, and one to order them.

    P  positives of this process      R  those of all processes, with padding      S  segments, the rankings of one call
    i  a positive in the caller's order      k  in sorted order: by segment, then logit ascending, NaN last

A positive's key is its segment and its logit in one int64; keys ascend in the sorted order, and equal ones keep the
caller's order. The rank of a key is the number of keys before it. For few positives all pairs of keys are compared:
many programs work at once, and none waits for the whole order. Above, `torch.sort` orders the keys.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .group import Group
from .targets import Ranking
from .triton_pieces import NO_PIECES, Pieces, gather_positives
from .triton_step import INTERPRETED, blocks_of, launch
from .triton_tables import COUNTED, OWN, SIZES, Tables, flags_table, order_table, quality_table

# Up to so many positives, all pairs of keys are compared: 2^24 comparisons, spread over the GPU.
MOST_RANKED = 4096
# 8 x 512 keys are 32 comparisons a thread with 4 warps. Wide in the columns, because the loop over them is a chain of
# loads: 32 x 128 take an H100 two and a half times as long. The interpreter pays per operation, whatever the tile.
BLOCK_P, BLOCK_N = (256, 1024) if INTERPRETED else (8, 512)
GATHER_BLOCK = 4096 if INTERPRETED else 256
# Entries that one program sets to 0.
ZEROED = 1 << 14 if INTERPRETED else 1 << 11


@triton.jit
def key_of(logits, segments):
    """(segment, logit) as one int64 >= 0 in their order; NaN after infinity, and -0 equal to 0."""
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)
    ascending = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ascending = tl.where(logits == logits, ascending, 0x7FFFFFFF)
    return (segments.to(tl.int64) << 32) + (ascending.to(tl.int64) + 2147483648)


@triton.jit
def logit_of(key):
    """The logit of a key."""
    ascending = ((key & 0xFFFFFFFF) - 2147483648).to(tl.int32)
    bits = tl.where(ascending < 0, ascending ^ 0x7FFFFFFF, ascending)
    logits = bits.to(tl.float32, bitcast=True)
    return tl.where(ascending == 0x7FFFFFFF, float("nan"), logits)


@triton.jit(do_not_specialize=["size", "segments"])
def gather_kernel(
    size,  # P
    index_ptr,  # (P,) int64
    valid_ptr,  # (P,) uint8
    quality_ptr,  # (P,) any float
    levels,
    ignores,
    sizes,
    parts,
    firsts,
    begins,
    segments,  # S
    keys_ptr,  # (P,) int64
    flags_ptr,  # (P,) int32
    gathered_ptr,  # (P,) float32
    FIRST: tl.constexpr,  # the first launch writes what lies in no piece, too
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keys, flags and qualities of this process's positives, in the caller's order; padding has segment S."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    valid = inside
    if PADDED:
        valid = inside & (tl.load(valid_ptr + i, mask=inside, other=0) != 0)
    index = tl.load(index_ptr + i, mask=valid, other=-1)
    logits, segment, ignored, found = gather_positives(
        index, levels, ignores, sizes, parts, firsts, begins, PIECES, IGNORE, CUT
    )
    # an index that lies in no level is no padding: it stays a NaN, which poisons its ranking
    keys = key_of(logits, tl.where(valid, segment, segments))
    written = inside if FIRST else found
    tl.store(keys_ptr + i, keys, mask=written)
    tl.store(flags_ptr + i, tl.where(valid, tl.where(ignored, OWN, OWN + COUNTED), 0), mask=written)
    if FIRST:
        tl.store(gathered_ptr + i, tl.load(quality_ptr + i, mask=inside, other=0.0).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["own_begin", "own_size", "zeros", *SIZES])
def order_kernel(
    own_begin,  # position of this process's first positive
    own_size,  # P
    quality_ptr,  # (R,) float32
    keys_ptr,  # (R,) int64; sorted, if SORTED
    flags_ptr,  # (P,) int32
    sorted_ptr,  # (R,) int64, i of each k, if SORTED
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    units_ptr,  # int64, set to 0
    zeros,  # how many of it
    SORTED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ZEROED: tl.constexpr,
):
    """Writes positives, qualities, starts, order and flags, and zeroes what later kernels add to.

    Rows are the R positives, then S + 1 bounds, each before all positives of its segment: their ranks are the starts.
    """
    program = tl.program_id(0)
    entry = program.to(tl.int64) * ZEROED + tl.arange(0, ZEROED)
    tl.store(units_ptr + entry, tl.zeros((ZEROED,), tl.int64), mask=entry < zeros)
    if program * BLOCK_P < positives_size + segments + 1:
        row = program * BLOCK_P + tl.arange(0, BLOCK_P)
        is_positive = row < positives_size
        bound = (row - positives_size).to(tl.int64) << 32
        keys = tl.where(is_positive, tl.load(keys_ptr + row, mask=is_positive, other=0), bound)
        i = row
        rank = tl.zeros((BLOCK_P,), tl.int32)
        if SORTED:
            i = tl.load(sorted_ptr + row, mask=is_positive, other=0).to(tl.int32)
            # positives are in their places; bounds are searched for
            low = tl.where(is_positive, row, 0)
            high = tl.where(is_positive, row, positives_size)
            while tl.max(high - low, 0) != 0:
                middle = (low + high) >> 1
                searching = low < high
                before = tl.load(keys_ptr + middle, mask=searching, other=0) < bound
                low = tl.where(searching & before, middle + 1, low)
                high = tl.where(searching & ~before, middle, high)
            rank = low
        else:
            # equal keys keep the caller's order; a bound comes before the positives
            earlier = tl.where(is_positive, row, 0)
            for begin in range(0, positives_size, BLOCK_N):
                other = begin + tl.arange(0, BLOCK_N)
                inside = other < positives_size
                others = tl.load(keys_ptr + other, mask=inside, other=0x7FFFFFFFFFFFFFFF)
                before = others[None, :] < keys[:, None]
                before = before | ((others[None, :] == keys[:, None]) & (other[None, :] < earlier[:, None]))
                rank += tl.sum(before.to(tl.int32), 1)
        local = i - own_begin
        own = is_positive & (local >= 0) & (local < own_size)
        quality = tl.load(quality_ptr + i, mask=is_positive, other=0.0)
        tl.store(singles_ptr + rank, logit_of(keys), mask=is_positive)
        tl.store(quality_table(singles_ptr, positives_size) + rank, quality, mask=is_positive)
        tl.store(order_table(ints_ptr, segments) + rank, i, mask=is_positive)
        flags = tl.load(flags_ptr + local, mask=own, other=0)
        tl.store(flags_table(ints_ptr, positives_size, segments) + rank, flags, mask=is_positive)
        segment = row - positives_size
        tl.store(ints_ptr + segment, rank, mask=(segment >= 0) & (segment <= segments))


def sort_positives(
    ranking: Ranking, launches: list[Pieces], group: Group, tables: Tables, units: Tensor, zeros: int
) -> None:
    """Writes the order into `tables`, and 0 into the first `zeros` of `units`."""
    keys, flags, quality = _gather(ranking, launches, tables.segments)
    order = keys = group.gather(keys)
    quality = group.gather(quality)
    is_sorted = tables.positives > MOST_RANKED
    if is_sorted:
        keys, order = keys.sort(stable=True)
    rows = tables.positives + tables.segments + 1
    launch(
        order_kernel,
        (max(blocks_of(rows, BLOCK_P), blocks_of(zeros, ZEROED)),),
        group.own.start,
        len(ranking.index),
        quality,
        keys,
        flags,
        order,
        tables.singles,
        tables.ints,
        *tables.sizes,
        units,
        zeros,
        SORTED=is_sorted,
        BLOCK_P=BLOCK_P,
        BLOCK_N=BLOCK_N,
        ZEROED=ZEROED,
    )


def _gather(ranking: Ranking, launches: list[Pieces], segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, flags and qualities (P,) of this process's positives, in the caller's order."""
    size, device = len(ranking.index), ranking.index.device
    keys = torch.empty(size, dtype=torch.int64, device=device)
    flags = torch.empty(size, dtype=torch.int32, device=device)
    quality = torch.empty(size, dtype=torch.float32, device=device)
    valid = ranking.index if ranking.valid is None else ranking.valid.view(torch.uint8)
    for number, pieces in enumerate(launches or [NO_PIECES] if size else []):
        launch(
            gather_kernel,
            (blocks_of(size, GATHER_BLOCK),),
            size,
            ranking.index,
            valid,
            ranking.quality,
            *pieces.arguments,
            pieces.begins,
            segments,
            keys,
            flags,
            quality,
            **pieces.constants,
            FIRST=number == 0,
            PADDED=ranking.valid is not None,
            BLOCK=GATHER_BLOCK,
        )
    return keys, flags, quality
