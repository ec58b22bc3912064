"""The kinks of H around the positives, and the kink next to each logit: torch operators, any device.

    R  positives of the ranking     K  kinks: 2 R, or R for a hard step     D  distinct kinks     n  logits of one chunk
    s_i  logit of positive i      d  delta, in logits      b_0 <= ... <= b_{K-1}  kinks      G  cells of the grid

As a function of s_j, the slope of H(s_j - s_i) changes at s_i - d and at s_i + d only. So the interval of a logit and
its offset in it are enough for its share in every count, and for its gradient. README.md derives both passes; this file
finds the interval. `triton_kinks.py` is the same for Triton.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .places import rare_places
from .torch_chunks import ROWS, Scratch

# A binary search costs tens of nanoseconds a logit on a CPU, a table look-up less than one. With 64 cells for a kink
# few cells have more than one; 2^16 cells of 8 bytes stay in the second-level cache.
CELLS_PER_KINK = 64
LEAST_CELLS, MOST_CELLS = 1 << 8, 1 << 16
# Outside these the float32 arithmetic of the grid would under- or overflow.
LEAST_SPAN, MOST_SPAN = 1e-30, 1e30
# The half-width of a band is at least so much of its logit. No other float32 number is as near, so H stays as it is,
# and float64 holds the kinks. Float64 logits that are nearer to each other tie.
LEAST_HALF_WIDTH = 2.0**-26


@dataclass(frozen=True)
class Grid:
    """Cells of equal width over the kinks; each knows the last kink that is not in a later cell."""

    scale: float  # cells per logit
    upto: Tensor  # (G + 2,) int32, the number of distinct kinks up to that one; never 0
    threshold: Tensor  # (G + 2,) that kink; NaN in a crowded cell, which has more than one


@dataclass(frozen=True)
class Kinks:
    """Sorted kinks with, on a CPU, a grid over them that replaces most of the binary search.

    Logits are compared with distinct kinks: the logits of a half-precision head share few values, and so do kinks.
    """

    position: Tensor  # (K,) float64: a logit plus or minus delta
    lower: Tensor  # (R,) int64, where `position` has s_i - d (s_i itself for a hard step)
    upper: Tensor  # (R,) int64, where it has s_i + d (s_i itself for a hard step)
    width: Tensor  # (K,) float64, from this kink to the next one, in bands: 0 where no band covers the interval
    band: Tensor | float  # the width of the band that each kink belongs to, in logits: (K,) float64, or one for all
    threshold: Tensor  # (D,) dtype of the search: the least values of that dtype that are not below a kink
    below: Tensor  # (D + 1,) int64, kinks at or below the logits of each interval between distinct kinks
    floor: float  # just below all kinks: lower logits are moved here
    top: float  # the last kink: higher logits are moved here
    grid: Grid | None  # None: always search

    def locate(self, logits: Tensor, scratch: Scratch) -> None:
        """Finds a kink next to each of the logits (n,): no other one lies between the two.

        Writes into `scratch.logits` the logits, those beyond the kinks moved next to them (same interval, finite
        offset); into `.upto` the number of distinct kinks up to the found one; into `.offset` the logit minus it.
        """
        scratch.resize(len(logits))
        torch.clamp(logits, self.floor, self.top, out=scratch.logits[: len(logits)])
        scratch.logits[len(logits) :] = self.floor
        if self.grid is None:
            scratch.upto.copy_(self.search(scratch.logits).clamp_(min=1))
            torch.sub(scratch.logits, self.threshold[scratch.upto - 1], out=scratch.offset)
            return
        # The same monotone float arithmetic built the grid, so the kinks of earlier cells are not above the logit, and
        # those of later cells not below it: only the kink of the logit's own cell has to be compared.
        torch.sub(scratch.logits, self.floor, out=scratch.offset).mul_(self.grid.scale)
        scratch.index.copy_(scratch.upto.copy_(scratch.offset))
        look_up(self.grid.upto, scratch.index, scratch.upto)
        look_up(self.grid.threshold, scratch.index, scratch.offset)
        torch.sub(scratch.logits, scratch.offset, out=scratch.offset)
        if self._is_crowded:
            places = rare_places(scratch.offset, lambda offset: offset < torch.inf)
            logits = scratch.logits[places]
            upto = self.search(logits).clamp_(min=1)
            scratch.upto[places] = upto
            scratch.offset[places] = logits - self.threshold[upto - 1]

    def search(self, logits: Tensor) -> Tensor:
        """For each of the logits (n,) the number of distinct kinks at or below it, (n,) int32."""
        return torch.bucketize(logits, self.threshold, right=True, out_int32=True)

    @cached_property
    def _is_crowded(self) -> bool:
        """Whether a cell of the grid is."""
        return self.grid is not None and bool(self.grid.threshold.isnan().any())


def is_below(scratch: Scratch) -> Tensor:
    """-1 for each located logit that is below its kink, else 0, (n,) int32; overwrites `logits`."""
    # the sign bit: a comparison would take five times as long
    integer = torch.int64 if scratch.offset.dtype == torch.float64 else torch.int32
    sign = torch.iinfo(integer).bits - 1
    return torch.bitwise_right_shift(scratch.offset.view(integer), sign, out=scratch.logits.view(integer))


def look_up(table: Tensor, index: Tensor, out: Tensor) -> None:
    """Writes `table[index]` for an index (n,); n is a multiple of ROWS."""
    # on a CPU index_select takes one thread, gather one for each row
    torch.gather(table.expand(ROWS, -1), 1, index.view(ROWS, -1), out=out.view(ROWS, -1))


def build_kinks(positives: Tensor, delta: float, largest: float) -> Kinks:
    """The kinks of finite `positives` (R,), R > 0, float32 or float64, of magnitude `largest`; with a grid on a CPU."""
    exact = positives.double()
    narrow = 0 < delta < largest * LEAST_HALF_WIDTH
    if delta > 0:
        half = delta
        if narrow:
            half = (exact.abs() * LEAST_HALF_WIDTH).clamp_(min=delta)
            half = exact + half - exact  # as rounded above the logit, so that the logit stays in the middle
        position, order = torch.cat([exact - half, exact + half]).sort()
    else:
        position, order = exact.sort()
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    lower, upper = (place[: len(exact)], place[len(exact) :]) if delta > 0 else (place, place)
    width, band = position.diff(append=position[-1:]), 2 * delta
    if narrow:  # each band as wide as it has become by rounding
        band = (position[upper] - position[lower])[order % len(exact)]
    if delta > 0:
        covered = torch.where(order < len(exact), 1, -1).cumsum(0) > 0
        width = torch.where(covered, width.div_(band), 0.0)

    # s_j >= b for a float32 s_j and a float64 b exactly where s_j >= b rounded up to float32
    threshold = position.to(positives.dtype)
    above = torch.nextafter(threshold, torch.full_like(threshold, torch.inf))
    threshold = torch.where(threshold.double() < position, above, threshold)
    threshold = threshold.masked_fill_(threshold == 0, -0.0)  # both zeros minus this one are 0.0, without a sign
    threshold, equal = threshold.unique_consecutive(return_counts=True)
    below = torch.cat([equal.new_zeros(1), equal.cumsum(0)])
    floor = float(torch.nextafter(threshold[0], threshold.new_tensor(-torch.inf)))
    top = float(threshold[-1])
    grid = None
    # A grid may find the kink above a logit. From there F is a difference of numbers that are too large for float32,
    # where the distance to that kink, up to one step between logits, is more than a band.
    coarse = 0 < delta < largest * torch.finfo(positives.dtype).eps
    if positives.device.type == "cpu" and LEAST_SPAN < top - floor < MOST_SPAN and not coarse:
        grid = _build_grid(threshold, floor, top - floor)
    return Kinks(position, lower, upper, width, band, threshold, below, floor, top, grid)


def _build_grid(threshold: Tensor, floor: float, span: float) -> Grid:
    cells = min(max(1 << (CELLS_PER_KINK * len(threshold) - 1).bit_length(), LEAST_CELLS), MOST_CELLS)
    scale = cells / span
    cell = ((threshold - floor) * scale).to(torch.int32)
    begin, end = cell.new_tensor([[0], [cells + 2]])
    upto = torch.repeat_interleave(torch.cat([begin, cell, end]).diff(), output_size=cells + 2).clamp_(min=1)
    last = threshold.index_select(0, upto - 1)
    last[cell[1:][cell[1:] == cell[:-1]]] = torch.nan
    return Grid(scale, upto, last)
