"""The kinks of H around the positives, and the interval between two kinks of each logit (Triton).

    R  positives of the ranking, ascending      K  kinks: 2 R, or R for a hard step      G  cells of the grid
    s_i  logit of positive i      d  delta      b_0 <= ... <= b_{K-1}  kinks: s_i - d and s_i + d, in float64
    t_k  threshold: the least float32 that is not below b_k; s >= b_k is s >= t_k for every float32 s

Interval k holds the logits with k kinks at or below them; interval 0 holds the logits too low for every positive.
`triton_kinks_merge.py` builds the kinks. This file has what the kernels over all logits share: they load a tile, carry
one interval along, and search for the others. `torch_kinks.py` is the same in torch operators.
"""

import triton
import triton.language as tl

from .triton_step import LARGEST
from .triton_tables import bounds_table, cells_table, first_row, threshold_table

# An interval wider than this many units lies in no band, and the offset of a logit in it makes no difference. (Or it
# lies in the band of a positive for which delta is too small, see `triton_kinks_merge.load_kinks`.)
WIDEST = tl.constexpr(1073741824.0)
# If at most one of so many logits of a tile was searched for, the carried interval is not questioned: that would take
# longer than to search again.
FEW = tl.constexpr(16)


@triton.jit
def load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE: tl.constexpr, BLOCK: tl.constexpr):
    """(logits, counted): a tile in float32, and the bool mask of those that count; the others have any value.

    Unlike `triton_step.load_logits`, a whole tile is loaded without a mask: a mask would keep the compiler from loading
    16 bytes at a time.
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
    return logits, counted


@triton.jit
def enter_ranking(singles_ptr, ints_ptr, segment, positives_size, segments, HARD: tl.constexpr, CELLS: tl.constexpr):
    """(threshold_ptr, cells_ptr, bounds_ptr, row, K, floor) of one segment.

    `row` is the row of its interval 0 in tables of all intervals. A logit below `floor` is too low for every positive.
    """
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    threshold_ptr = threshold_table(singles_ptr, positives_size) + start * (1 if HARD else 2)
    cells_ptr = cells_table(ints_ptr, positives_size, segments) + segment * (CELLS + 2)
    bounds_ptr = bounds_table(singles_ptr, positives_size) + segment * 8
    kinks_size = (stop - start) * (1 if HARD else 2)
    return threshold_ptr, cells_ptr, bounds_ptr, first_row(start, segment, HARD), kinks_size, tl.load(bounds_ptr)


@triton.jit
def load_search_bounds(bounds_ptr):
    """(first, last, scale, lowest, highest, minus, plus), scalars; loaded for each search, to hold fewer registers.

    `first` and `last` are thresholds, `scale` is in cells per logit. `replace_infinities` moves finite logits into
    [lowest, highest] and infinite ones to `minus` and `plus`.
    """
    first, last, scale = tl.load(bounds_ptr + 1), tl.load(bounds_ptr + 2), tl.load(bounds_ptr + 3)
    lowest, highest = tl.load(bounds_ptr + 4), tl.load(bounds_ptr + 5)
    return first, last, scale, lowest, highest, tl.load(bounds_ptr + 6), tl.load(bounds_ptr + 7)


@triton.jit
def offset_units(offsets, widest, units):
    """Offsets >= 0 in whole units, rounded to the nearest; scaling is exact. `widest` is 2^30 units, so an int32."""
    return (tl.minimum(offsets, widest) * units + 0.5).to(tl.int32).to(tl.int64)


@triton.jit
def cell_of(logits, first, last, scale, CELLS: tl.constexpr):
    """The cell, 0 to CELLS, of logits at or above `first`: monotone, because subtraction and multiplication are.

    Building and reading the grid share this function. It has no multiply-add, which could be fused in one place only.
    So a kink of an earlier cell is below the logit, and one of a later cell above it.
    """
    cell = ((tl.minimum(logits, last) - first) * scale).to(tl.int32)
    return tl.minimum(tl.maximum(cell, 0), CELLS)


@triton.jit
def locate(logits, wanted, threshold_ptr, cells_ptr, first, last, scale, CELLS: tl.constexpr):
    """The interval of each `wanted` logit (at or above `first`), int32: the number of kinks at or below it.

    The grid narrows the search to one cell, and bisection ends it. The loop runs until the last logit of the tile is
    done: at most once where kinks are spread evenly, log2 K times where they crowd in one cell.
    """
    cell = cell_of(tl.where(wanted, logits, first), first, last, scale, CELLS)
    low = tl.load(cells_ptr + cell, mask=wanted, other=0)
    high = tl.load(cells_ptr + cell + 1, mask=wanted, other=0)
    while tl.max(high - low, 0) != 0:
        middle = (low + high) >> 1
        searching = low < high
        reached = logits >= tl.load(threshold_ptr + middle, mask=searching, other=0.0)
        low = tl.where(searching & reached, middle + 1, low)
        high = tl.where(searching & ~reached, middle, high)
    return low


@triton.jit
def most_common_interval(logits, found, carried, threshold_ptr, kinks_size, lowest, highest):
    """(interval, left, right): an interval with more logits of this tile than the carried one; 0 if there is none.

    The candidate is the interval of the mean of the logits that had to be searched for. The results do not depend on
    the carried interval, but the time does: early in training most logits lie in one interval, between the lower and
    the upper kinks. If it were not carried, all programs would wait for the same few addresses.

    A carried interval is compared with logits before `replace_infinities`. So it must be one where this makes no
    difference: without an infinity in it, and next to or among the kinks of finite positives.
    """
    missing = found > 0
    mean = tl.sum(tl.where(missing, logits, 0.0), 0) / tl.maximum(tl.sum(missing.to(tl.float32), 0), 1.0)
    interval = tl.max(tl.where(missing & (logits <= mean), found, 0), 0)
    interval = tl.where(interval != 0, interval, tl.max(found, 0))  # the mean was rounded below all of them
    left = tl.load(threshold_ptr + interval - 1, mask=interval != 0, other=float("nan"))
    right = tl.load(threshold_ptr + interval, mask=interval < kinks_size, other=float("inf"))
    suitable = (left > -LARGEST) & (left <= highest) & (right > lowest)
    gained = tl.maximum(tl.sum((missing & (found == interval)).to(tl.int32) - carried.to(tl.int32), 0), 0)
    return tl.where(suitable & (gained != 0), interval, 0), left, tl.minimum(right, LARGEST)
