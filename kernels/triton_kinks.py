"""The kinks of H around the positives, and which interval between two of them a logit falls in (Triton).

    R  rows: the positives that are asked about, ascending      K  kinks: 2 R, or R for a hard step
    s_i  a row's logit      d  delta      b_0 <= ... <= b_{K-1}  kinks: s_i - d and s_i + d, in float64
    t_k  threshold: the least float32 that is not below b_k, so that s >= b_k is s >= t_k for every float32 s
    G  cells of a uniform grid over the kinks

Interval k holds the logits with k kinks at or below them, interval 0 those that no row sees. `merging.py` builds the
intervals; here is what the kernels that pass over all logits share: they load a tile, carry one interval along, and
search for the others. `kinks.py` is the same in torch operators.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .triton_step import LARGEST, step

INTERPRETED = not isinstance(step, triton.runtime.JITFunction)


@dataclass(frozen=True)
class Intervals:
    """The sorted kinks of R > 0 rows, and what finds a logit's interval among them; all on the rows' device."""

    delta: float
    order: Tensor  # (R,) int64, the caller's place of each row
    rows: Tensor  # (R,) float32 ascending, NaN last
    position: Tensor  # (K,) float64, b_k
    threshold: Tensor  # (K,) float32, t_k
    place: Tensor  # (2, R) int32, where each row's lower and upper kink are; the same for a hard step
    owner: Tensor  # (K,) int32, i where the kink is the lower one of row i, -1 - i where it is the upper one
    cells: Tensor  # (G + 2,) int32, kinks in the cells before this one
    frame: Tensor  # (8,) float32, see `load_frame`

    @property
    def kinks(self) -> int:
        """K"""
        return len(self.position)

    @property
    def grid(self) -> int:
        """G"""
        return len(self.cells) - 2


@triton.jit
def load_tile(logits_ptr, ignore_ptr, begin, size, IGNORE: tl.constexpr, BLOCK: tl.constexpr):
    """(logits, counted): a tile in float32, and the bool mask of those that count; the others are anything.

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
    return logits, counted


@triton.jit
def load_frame(frame_ptr):
    """(floor, first, last, scale, lowest, highest, minus, plus), scalars.

    No row sees a logit below `floor`. The first and the last threshold, cells per logit, and where `squash` moves
    logits: finite ones into [lowest, highest], infinite ones to `minus` and `plus`.
    """
    floor, first, last = tl.load(frame_ptr), tl.load(frame_ptr + 1), tl.load(frame_ptr + 2)
    scale, lowest, highest = tl.load(frame_ptr + 3), tl.load(frame_ptr + 4), tl.load(frame_ptr + 5)
    return floor, first, last, scale, lowest, highest, tl.load(frame_ptr + 6), tl.load(frame_ptr + 7)


@triton.jit
def squash(logits, lowest, highest, minus, plus):
    """Logits that differ by finite numbers and have the same H against every row; a NaN stays one.

    The twin of `relations.squash_infinities`, without a look at the values from the host: always on, which is as exact,
    since a logit 2 d or more from all finite rows has the H of one at that distance.
    """
    logits = tl.where(logits > highest, tl.where(logits >= LARGEST, plus, highest), logits)
    return tl.where(logits < lowest, tl.where(logits <= -LARGEST, minus, lowest), logits)


@triton.jit
def cell_of(logits, first, last, scale, CELLS: tl.constexpr):
    """The cell, 0 to CELLS, of logits at or above `first`: monotone, for a subtraction and a multiplication are.

    Building and reading the grid share this function, and there is no multiply-add in it to be fused in one place only:
    a kink of an earlier cell is below the logit, one of a later cell above it.
    """
    cell = ((tl.minimum(logits, last) - first) * scale).to(tl.int32)
    return tl.minimum(tl.maximum(cell, 0), CELLS)


@triton.jit
def locate(logits, wanted, threshold_ptr, cells_ptr, first, last, scale, CELLS: tl.constexpr):
    """The interval of each `wanted` logit (at or above `first`), int32: the number of kinks at or below it.

    The grid narrows the search to one cell, and bisection ends it. The loop runs until the last logit of the tile is
    done: once or not at all where kinks are spread evenly, log2 K times where they crowd in one cell.
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
def popular(logits, found, carried, threshold_ptr, kinks, lowest, highest):
    """(interval, left, right): one that holds more logits of this tile than the carried one, or 0 and no bounds.

    It is that of the mean logit `found`. Whichever is carried, the results are the same; but where one interval is
    crowded, as between the lower and the upper kinks early in training, it should be that one: else all programs wait
    for the same few addresses.

    A carried interval is compared with logits as they come, not squashed. So it has to be one where that makes no
    difference: where no infinity lies, and next to or among the finite logits' kinks.
    """
    missing = found > 0
    mean = tl.sum(tl.where(missing, logits, 0.0), 0) / tl.maximum(tl.sum(missing.to(tl.float32), 0), 1.0)
    interval = tl.max(tl.where(missing & (logits <= mean), found, 0), 0)
    interval = tl.where(interval != 0, interval, tl.max(found, 0))  # the mean was rounded to below them all
    left = tl.load(threshold_ptr + interval - 1, mask=interval != 0, other=float("nan"))
    right = tl.load(threshold_ptr + interval, mask=interval < kinks, other=float("inf"))
    suitable = (left > -LARGEST) & (left <= highest) & (right > lowest)
    gained = tl.maximum(tl.sum((missing & (found == interval)).to(tl.int32) - carried.to(tl.int32), 0), 0)
    return tl.where(suitable & (gained != 0), interval, 0), left, tl.minimum(right, LARGEST)
