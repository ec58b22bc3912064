"""Segments: several rankings over one call's logits, and the pieces of the levels that belong to each.

    M  logits of all levels together      S  segments, each a ranking of its own

Every pass sees the logits as pieces. A piece is a range of one level, cut into equal parts, and part b belongs to
segment `first` + b. Without segments, each level is one piece of one part.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Piece(NamedTuple):
    """A range of one level, in equal parts of consecutive segments."""

    level: int
    begin: int  # position in the raveled level
    size: int  # logits of one part, > 0
    parts: int
    first: int  # segment of the first part

    @property
    def end(self) -> int:
        """The position after the last logit."""
        return self.begin + self.size * self.parts


class Segments(NamedTuple):
    """How the levels are cut; without segments `number` is 1 and the values are 0-d tensors."""

    number: int  # S
    pieces: list[Piece]  # in the order of the logits, without empty ones
    shape: tuple[int, ...]  # of a value: () or (S,)

    def numbers(self) -> list[int]:
        """All of it as whole numbers, for an operator's arguments: S, whether there are segments, five a piece."""
        return [self.number, int(bool(self.shape)), *(number for piece in self.pieces for number in piece)]

    @staticmethod
    def of(numbers: Sequence[int]) -> "Segments":
        """The inverse of `numbers`."""
        number, segmented, *rest = numbers
        pieces = [Piece(*rest[k : k + 5]) for k in range(0, len(rest), 5)]
        return Segments(number, pieces, (number,) if segmented else ())

    def ranges(self, segment: int) -> list[tuple[int, int, int]]:
        """The ranges of a segment, as (level, begin, end)."""
        found = []
        for level, begin, size, parts, first in self.pieces:
            if first <= segment < first + parts:
                start = begin + (segment - first) * size
                found.append((level, start, start + size))
        return found


def cut_levels(sizes: Sequence[int], segments: int | Sequence[int] | None) -> Segments:
    """Cuts levels of the given `sizes`; see `rank_sort` for the two forms of `segments`."""
    if segments is None:
        return Segments(1, [Piece(level, 0, size, 1, 0) for level, size in enumerate(sizes) if size], ())
    if isinstance(segments, int) and not isinstance(segments, bool):
        return _cut_equally(sizes, segments)
    if isinstance(segments, (str, Tensor)) or not isinstance(segments, Sequence):
        raise TypeError(f"segments: expected a number or a sequence of lengths, got {type(segments).__name__}")
    return _cut_by_length(sizes, list(segments))


def _cut_equally(sizes: Sequence[int], segments: int) -> Segments:
    if segments < 1:
        raise ValueError(f"segments: expected a number >= 1, got {segments}")
    for level, size in enumerate(sizes):
        if size % segments:
            raise ValueError(f"segments: {size} logits of level {level} cannot be cut into {segments} equal parts")
    pieces = [Piece(level, 0, size // segments, segments, 0) for level, size in enumerate(sizes) if size]
    return Segments(segments, pieces, (segments,))


def _cut_by_length(sizes: Sequence[int], lengths: list[int]) -> Segments:
    for segment, length in enumerate(lengths):
        if not isinstance(length, int) or isinstance(length, bool) or length < 0:
            raise ValueError(f"segments[{segment}]: expected a length >= 0, got {length!r}")
    if not lengths or sum(lengths) != sum(sizes):
        raise ValueError(f"segments: lengths of {sum(lengths)} together, but there are {sum(sizes)} logits")
    if len(sizes) == 1 and lengths[0] and all(length == lengths[0] for length in lengths):
        return Segments(len(lengths), [Piece(0, 0, lengths[0], len(lengths), 0)], (len(lengths),))
    pieces, level, begin = [], 0, 0
    for segment, length in enumerate(lengths):
        while length:
            if begin == sizes[level]:
                level, begin = level + 1, 0
                continue
            size = min(length, sizes[level] - begin)
            pieces.append(Piece(level, begin, size, 1, segment))
            begin, length = begin + size, length - size
    return Segments(len(lengths), pieces, (len(lengths),))
