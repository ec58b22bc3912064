"""Finding the few among many: places in a tensor, by blocks that are looked at as a whole first.

n  values
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 256  # values looked at together: a reduction reads them ten times as fast as a comparison and `nonzero`


def rare_places(values: Tensor, is_low: Callable[[Tensor], Tensor]) -> Tensor:
    """The places (k,) int64 of the `values` (n,) that are not low, ascending; a NaN is never low.

    `is_low` compares with a bound: what it says of the largest value of a block holds for the whole block. On a CPU,
    where it pays, blocks without a place are passed over.
    """
    whole = len(values) // BLOCK * BLOCK
    if values.device.type != "cpu" or whole == 0:
        return torch.logical_not(is_low(values)).nonzero().squeeze(1)
    blocks = values[:whole].view(-1, BLOCK)
    rows = torch.logical_not(is_low(blocks.amax(1))).nonzero().squeeze(1)
    row, column = torch.logical_not(is_low(blocks[rows])).nonzero(as_tuple=True)
    rest = torch.logical_not(is_low(values[whole:])).nonzero().squeeze(1)
    return torch.cat([rows[row] * BLOCK + column, rest + whole])
