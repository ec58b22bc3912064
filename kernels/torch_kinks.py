"""The kinks of H around the positives, and the interval between two kinks of each logit: torch operators, any device.

    R  positives of the ranking      K  kinks: 2 R, or R for a hard step      n  logits of one chunk
    s_i  logit of positive i      d  delta, in logits      b_0 <= ... <= b_{K-1}  kinks      G  cells of the grid

As a function of s_j, the slope of H(s_j - s_i) changes at s_i - d and at s_i + d only. So the interval of a logit and
its offset in it are enough for its share in every count, and for its gradient. README.md derives both passes; this file
finds the interval. `triton_kinks.py` is the same for Triton.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# A binary search costs tens of nanoseconds a logit on a CPU, a table look-up about one. With 64 cells for a kink few
# cells have more than one or two kinks; 2^16 cells of 4 bytes stay in the second-level cache.
CELLS_PER_KINK = 64
LEAST_CELLS, MOST_CELLS = 1 << 8, 1 << 16
# Outside these the float32 arithmetic of the grid would under- or overflow.
LEAST_SPAN, MOST_SPAN = 1e-30, 1e30
# After this many look-ups of the next kink, a binary search ends the rest: logits of crowded cells.
LOOKUPS = 3


@dataclass(frozen=True)
class Kinks:
    """Sorted kinks with, on a CPU, a uniform grid over them that replaces most of the binary search."""

    position: Tensor  # (K,) float64, exact: a float32 logit plus or minus delta
    threshold: Tensor  # (K,) dtype of the search: the least value of that dtype that is not below the kink
    lower: Tensor  # (R,) int64, where `position` has s_i - d (s_i itself for a hard step)
    upper: Tensor  # (R,) int64, where it has s_i + d (s_i itself for a hard step)
    next: Tensor  # (K + 1,) `threshold` and an infinity, which no clamped logit reaches
    cells: Tensor | None  # (G + 2,) int32, kinks in the cells before this one; None: always search
    crowd: int  # kinks in the fullest cell
    floor: float  # just below all kinks: lower logits are moved here
    scale: float  # cells per logit

    def locate(self, chunk: Tensor) -> Tensor:
        """For each of the clamped logits (n,) the number of kinks at or below it, (n,) int32."""
        if self.cells is None:
            return torch.bucketize(chunk, self.threshold, right=True, out_int32=True)
        # The same monotone float arithmetic built the grid, so a kink of an earlier cell is below the logit, and one of
        # a later cell above it. Only kinks of the logit's own cell have to be compared.
        cell = ((chunk - self.floor) * self.scale).to(torch.int32)
        below = self.cells.index_select(0, cell)
        for _ in range(min(self.crowd, LOOKUPS)):
            # the sign bit, -1 below the next kink and 0 from it on: a comparison would take five times as long
            missing = (chunk - self.next.index_select(0, below)).view(self.integer).bitwise_right_shift_(self.sign)
            below += missing.add_(1)
        if self.crowd > LOOKUPS:
            crowded = (chunk >= self.next.index_select(0, below)).nonzero().squeeze(1)
            below[crowded] = torch.bucketize(chunk[crowded], self.threshold, right=True, out_int32=True)
        return below

    @property
    def integer(self) -> torch.dtype:
        """The integer type as wide as the logits, to read their sign bit."""
        return torch.int64 if self.threshold.dtype == torch.float64 else torch.int32

    @property
    def sign(self) -> int:
        """The position of the sign bit."""
        return torch.iinfo(self.integer).bits - 1

    def clamp(self, chunk: Tensor) -> Tensor:
        """A copy of the chunk with infinite and far logits moved next to the kinks: same interval, finite offset."""
        return chunk.clamp(self.floor, float(self.threshold[-1]))


def build_kinks(positives: Tensor, delta: float) -> Kinks:
    """The kinks of finite `positives` (R,), R > 0, float32 or float64; with a grid on a CPU."""
    exact = positives.double()
    if delta > 0:
        position, order = torch.cat([exact - delta, exact + delta]).sort()
    else:
        position, order = exact.sort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    lower, upper = (place[: len(exact)], place[len(exact) :]) if delta > 0 else (place, place)

    # s_j >= b for a float32 s_j and a float64 b exactly where s_j >= b rounded up to float32
    threshold = position.to(positives.dtype)
    above = torch.nextafter(threshold, torch.full_like(threshold, torch.inf))
    threshold = torch.where(threshold.double() < position, above, threshold)
    beyond = torch.cat([threshold, threshold.new_full((1,), torch.inf)])
    floor = float(torch.nextafter(threshold[0], threshold.new_tensor(-torch.inf)))
    span = float(threshold[-1]) - floor
    if positives.device.type != "cpu" or not LEAST_SPAN < span < MOST_SPAN:
        return Kinks(position, threshold, lower, upper, beyond, None, 0, floor, 0.0)

    grid = min(max(1 << (CELLS_PER_KINK * len(position) - 1).bit_length(), LEAST_CELLS), MOST_CELLS)
    scale = grid / span
    cell = ((threshold - floor) * scale).to(torch.int32)
    occupied = torch.bincount(cell, minlength=grid + 2)
    cells = torch.zeros(len(occupied) + 1, dtype=torch.int32)
    torch.cumsum(occupied, 0, out=cells[1:])
    return Kinks(position, threshold, lower, upper, beyond, cells, int(occupied.max()), floor, scale)
