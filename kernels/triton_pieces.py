"""The pieces of the logits that one launch visits, whatever the number of levels and segments (Triton).

    P  positives of this process      S  segments, the rankings of one call      M  logits of all levels together

A launch takes the pointers and sizes of up to MOST_PIECES pieces (`segments.py`). A program's tile belongs to one part
of one piece, and so to one ranking. Triton compiles anew for integers that are 1 or not divisible by 16; sizes change
from batch to batch, so all are passed 16-fold.
"""

from itertools import groupby
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .targets import Ranking
from .triton_step import blocks_of, ignore_argument

MOST_PIECES = 16
FOLD = tl.constexpr(16)

# How parts begin (CUT): each piece is one part of the one ranking; at multiples of 16 logits; anywhere.
WHOLE, ALIGNED, ANYWHERE = 0, 1, 2


class Pieces(NamedTuple):
    """The pieces of one launch; they ignore logits in the same way."""

    logits: tuple[Tensor, ...]
    ignores: tuple[Tensor, ...]
    ranges: tuple[tuple[int, int, int], ...]  # level, begin and end in it
    sizes: tuple[int, ...]  # logits of a part, 16-fold
    parts: tuple[int, ...]  # 16-fold
    firsts: tuple[int, ...]  # segment of the first part, 16-fold
    begins: tuple[int, ...]  # position of the first logit in the concatenation of the levels, 16-fold
    kind: int  # IGNORE, see `triton_step.py`
    cut: int  # CUT

    def tiles(self, block: int) -> int:
        """How many tiles of `block` logits they make; a tile has logits of one part only."""
        shapes = zip(self.sizes, self.parts, strict=True)
        return sum(blocks_of(size // 16, block) * (parts // 16) for size, parts in shapes)

    @property
    def constants(self) -> dict[str, Any]:
        """The constants of a kernel over these pieces."""
        return {"PIECES": len(self.logits), "IGNORE": self.kind, "CUT": self.cut}

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments of a kernel over these pieces: logits, ignores, sizes, parts, firsts."""
        return self.logits, self.ignores, self.sizes, self.parts, self.firsts

    def slices(self, levels: list[Tensor]) -> tuple[Tensor, ...]:
        """The same ranges of other `levels`, such as those of the gradient."""
        return tuple(
            levels[level] if begin == 0 and end == levels[level].numel() else levels[level][begin:end]
            for level, begin, end in self.ranges
        )


NO_PIECES = Pieces((), (), (), (), (), (), (), 0, WHOLE)


def pieces_of(ranking: Ranking) -> list[Pieces]:
    """All pieces of the ranking, in as few launches as possible."""
    offsets = [0]
    for level in ranking.levels:
        offsets.append(offsets[-1] + level.numel())
    entries = []
    for piece in ranking.segments.pieces:
        level, ignore = ranking.levels[piece.level], ranking.ignores[piece.level]
        whole = piece.begin == 0 and piece.end == level.numel()
        logits = level if whole else level[piece.begin : piece.end]
        ignore = ignore if whole or ignore is None else ignore[piece.begin : piece.end]
        pointer, kind = ignore_argument(logits, ignore)
        entries.append((kind, pointer.dtype, piece, logits, pointer, offsets[piece.level] + piece.begin))
    found = []
    for _, group in groupby(sorted(entries, key=lambda entry: (entry[0], str(entry[1]))), lambda entry: entry[:2]):
        members = list(group)
        found += [_launch(members[k : k + MOST_PIECES], ranking) for k in range(0, len(members), MOST_PIECES)]
    return found


def _launch(entries: list[tuple[Any, ...]], ranking: Ranking) -> Pieces:
    kinds, _, pieces, logits, pointers, begins = zip(*entries, strict=True)
    cut = WHOLE
    if ranking.segments.shape:
        aligned = all(piece.parts == 1 or piece.size % 16 == 0 for piece in pieces)
        cut = ALIGNED if aligned else ANYWHERE
    return Pieces(
        logits,
        pointers,
        tuple((piece.level, piece.begin, piece.end) for piece in pieces),
        tuple(16 * piece.size for piece in pieces),
        tuple(16 * piece.parts for piece in pieces),
        tuple(16 * piece.first for piece in pieces),
        tuple(16 * begin for begin in begins),
        kinds[0],
        cut,
    )


@triton.jit
def find_part(
    tile,
    levels,
    ignores,
    outs,
    sizes,
    parts,
    firsts,
    PIECES: tl.constexpr,
    CUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The part of a tile: pointers to its logits, ignores and results, its size, first and last + 1 tile, segment."""
    logits_ptr, ignore_ptr, out_ptr = levels[0], ignores[0], outs[0]
    size = (sizes[0] // FOLD).to(tl.int64)
    tiles = ((size + (BLOCK - 1)) // BLOCK).to(tl.int32)  # of one part
    segment = (firsts[0] // FOLD).to(tl.int32)
    origin = tl.zeros((), tl.int32)  # the first tile of the piece
    following = tiles * (parts[0] // FOLD).to(tl.int32)
    for piece in tl.static_range(1, PIECES):  # type: ignore
        piece_size = (sizes[piece] // FOLD).to(tl.int64)
        piece_tiles = ((piece_size + (BLOCK - 1)) // BLOCK).to(tl.int32)
        here = tile >= following
        logits_ptr = tl.where(here, levels[piece], logits_ptr)
        ignore_ptr = tl.where(here, ignores[piece], ignore_ptr)
        out_ptr = tl.where(here, outs[piece], out_ptr)
        size = tl.where(here, piece_size, size)
        tiles = tl.where(here, piece_tiles, tiles)
        segment = tl.where(here, (firsts[piece] // FOLD).to(tl.int32), segment)
        origin = tl.where(here, following, origin)
        following += piece_tiles * (parts[piece] // FOLD).to(tl.int32)
    if CUT != 0:
        part = (tile - origin) // tiles
        begin = part.to(tl.int64) * size
        if CUT == 1:
            begin = tl.multiple_of(begin, 16)
        logits_ptr += begin
        ignore_ptr += begin
        out_ptr += begin
        origin += part * tiles
        segment += part
    return logits_ptr, ignore_ptr, out_ptr, size, origin, origin + tiles, segment


@triton.jit
def gather_positives(
    index,  # (BLOCK,) int64, positions in the concatenation of the levels; a negative one is no positive
    levels,
    ignores,
    sizes,
    parts,
    firsts,
    begins,
    PIECES: tl.constexpr,
    IGNORE: tl.constexpr,
    CUT: tl.constexpr,
):
    """(logits, segments, ignored, found): of the positives that lie in these pieces, the others are not found."""
    logits = tl.full(index.shape, float("nan"), tl.float32)
    segments = tl.zeros(index.shape, tl.int32)
    ignored, found = index < index, index < index  # false
    for piece in tl.static_range(PIECES):  # type: ignore
        size = (sizes[piece] // FOLD).to(tl.int64)
        local = index - (begins[piece] // FOLD).to(tl.int64)
        here = (local >= 0) & (local < size * (parts[piece] // FOLD))
        logits = tl.where(here, tl.load(levels[piece] + local, mask=here, other=0.0).to(tl.float32), logits)
        if CUT != 0:
            # positions below 2^53 are exact in float64, whose division takes fewer registers than that of int64
            part = (local.to(tl.float64) / size.to(tl.float64)).to(tl.int32)
            segments = tl.where(here, part + (firsts[piece] // FOLD).to(tl.int32), segments)
        if IGNORE == 1:
            ignored = ignored | (here & (tl.load(ignores[piece] + local, mask=here, other=0) != 0))
        if IGNORE == 2:
            ignored = ignored | (here & (tl.load(ignores[piece] + local, mask=here, other=0).to(tl.float32) < 0))
        found = found | here
    return logits, segments, ignored, found
