"""The segments of a call, one ranking each, for the backends that visit them one after another.

R  positives of all processes      P  those of this process      M  logits of this process      S  segments
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .places import gather_levels, level_offsets
from .targets import Ranking


class Part(NamedTuple):
    """One segment: a ranking of its own logits, and its positives among those of the call."""

    ranking: Ranking
    ranges: list[tuple[int, int]]  # where its logits are among the M
    rows: Tensor | None  # (r,) int64, its positives among the R; None: all of them
    own: Tensor | None  # (p,) int64, its positives among the P


def split_ranking(ranking: Ranking, segment: Tensor | None, own: slice, *, masked: Tensor | None = None) -> list[Part]:
    """The parts of a call; `segment` (R,) is that of each positive, S for padding, or None if there is but one part.

    `own` are this process's positives among the R; `masked` (P,) those of them that a mask covers, for the count.
    """
    if segment is None:
        whole = Ranking(ranking.levels, ranking.index, ranking.quality, ranking.ignores, ranking.segments, None, masked)
        return [Part(whole, [(0, ranking.size)], None, None)]
    offsets = level_offsets(ranking.levels)
    nothing = ranking.quality[:0]
    parts = []
    for number in range(ranking.segments.number):
        ranges = ranking.segments.ranges(number) or [(0, 0, 0)]
        levels = [ranking.levels[level][begin:end] for level, begin, end in ranges]
        ignores = [
            None if ignore is None else ignore[begin:end]
            for ignore, begin, end in ((ranking.ignores[level], begin, end) for level, begin, end in ranges)
        ]
        rows, mine = ((each == number).nonzero().squeeze(1) for each in (segment, segment[own]))
        part = Ranking(
            levels,
            ranking.index[:0],
            nothing,
            ignores,
            ranking.segments,
            None,
            None if masked is None else masked[mine],
        )
        places = [(offsets[level] + begin, offsets[level] + end) for level, begin, end in ranges]
        parts.append(Part(part, places, rows, mine))
    return parts


def of(values: Tensor, rows: Tensor | None) -> Tensor:
    """The `values` (R,) of one part."""
    return values if rows is None else values[rows]


def per_segment(parts: list[Part], values: Tensor, divisors: list[int] | None = None) -> Tensor:
    """(S,) the sums of the `values` (R,) of each part, over its divisor."""
    sums = [of(values, part.rows).sum() for part in parts]
    if divisors is not None:
        sums = [total / divisor for total, divisor in zip(sums, divisors, strict=True)]
    return sums[0].reshape(1) if len(sums) == 1 else torch.stack(sums)


def fill(parts: list[Part], values: Tensor, like: Tensor, *, mean: bool = False) -> Tensor:
    """(R,), or one number for all: at each positive the value of its segment, of `values` (S,) or (); 0 for padding.

    With `mean` the value is divided by the number of positives of the segment.
    """
    values = values.reshape(-1)
    if parts[0].rows is None:
        return values[0] / max(len(like), 1) if mean else values[0]
    filled = torch.zeros_like(like)
    for part, value in zip(parts, values, strict=True):
        assert part.rows is not None
        size = max(len(part.rows), 1) if mean else 1
        filled = filled.index_put((part.rows,), (value / size).to(filled.dtype))
    return filled


def masked_positives(ranking: Ranking) -> Tensor | None:
    """(P,) bool: the positives that a mask covers; None: there is none, because dense labels tell both apart."""
    masks = [ignore for ignore in ranking.ignores if ignore is not None and ignore.dtype == torch.bool]
    if len(masks) < len(ranking.ignores):
        return ranking.masked
    return gather_levels(masks, ranking.index, ranking.valid)
