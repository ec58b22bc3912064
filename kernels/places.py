"""Positions in tensors: the few among many, and values at an index into the concatenation of levels.

P  positives      n  values of one level
index  position in the concatenation of the raveled levels
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BLOCK = 64  # values tested together: a reduction reads them ten times as fast as a comparison and `nonzero`


def rare_places(values: Tensor, is_low: Callable[[Tensor], Tensor]) -> Tensor:
    """The positions (k,) int64 of the `values` (n,) that are not low, ascending; a NaN is never low.

    `is_low` compares with a bound, so where the largest value of a block is low, the whole block is. On a CPU such
    blocks are skipped, unless they are few; on other devices this does not pay. A compiled graph fuses the comparison,
    and may not know the number of blocks.
    """
    if torch.compiler.is_compiling() or values.device.type != "cpu" or len(values) < BLOCK:
        return torch.logical_not(is_low(values)).nonzero().squeeze(1)
    whole = len(values) // BLOCK * BLOCK
    blocks = values[:whole].view(-1, BLOCK)
    kept = torch.logical_not(is_low(blocks.amax(1))).nonzero().squeeze(1)
    if 2 * len(kept) > len(blocks):
        return torch.logical_not(is_low(values)).nonzero().squeeze(1)
    block, column = torch.logical_not(is_low(blocks[kept])).nonzero(as_tuple=True)
    rest = torch.logical_not(is_low(values[whole:])).nonzero().squeeze(1)
    return torch.cat([kept[block] * BLOCK + column, rest + whole])


def level_offsets(levels: Sequence[Tensor]) -> list[int]:
    """The index of each level's first value."""
    offsets = [0]
    for level in levels[:-1]:
        offsets.append(offsets[-1] + level.numel())
    return offsets


def gather_levels(levels: Sequence[Tensor], index: Tensor, valid: Tensor | None = None) -> Tensor:
    """The values at `index` (P,) of the concatenation of the raveled `levels`, without building it or a host sync.

    For `SparseTargets.index` these are the values of the positives, for instance their scores, to weight box losses.
    Where `valid` (P,) bool is False, the index may be anything, and the value is any.
    """
    levels = [level.reshape(-1) for level in levels]
    if valid is not None:
        index = index.masked_fill(~valid, 0)
        if not any(level.numel() for level in levels):
            return levels[0].new_zeros(index.shape)
    flat, values = index.reshape(-1), None
    if len(levels) == 1:
        return levels[0].gather(0, flat).view(index.shape)
    for level, offset in zip(levels, level_offsets(levels), strict=True):
        if level.numel():
            # one gather a level: its backward pass is one addition to places, where that of an index would sort them
            own = level.gather(0, (flat - offset).clamp(0, level.numel() - 1))
            values = own if values is None else torch.where(flat >= offset, own, values)
    return (levels[0].new_zeros(flat.shape) if values is None else values).view(index.shape)


def is_ignored(ignore: Tensor) -> Tensor:
    """The bool mask behind one of `Ranking.ignores`, or behind a slice of it."""
    return ignore if ignore.dtype == torch.bool else ignore < 0
