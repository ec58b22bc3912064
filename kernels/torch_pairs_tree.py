"""The passes over pairs of many positives, without visiting the pairs: a wavelet matrix, in torch operators.

    R  positives of the ranking, by ascending logit      i, j  two of them, i asks and j counts      s  logits
    y  qualities      d  delta      H  the step      v  values to be summed      b  bit of the rank of a quality
    u  position of a logit in widths 2 d of a band, in whole units; its cell is u without the fraction f

The ranks of the qualities are split bit by bit, from the top. A node holds the positives that share the bits so far, by
ascending logit. Two of different quality part at exactly one node; there each asks the other half for its sums, which
are differences of prefix sums at the ends of its band. It carries these ends from level to level, as positions.
O(R log R) time, O(R) memory; README.md has the derivation. `torch_pairs.py` visits the pairs, which is faster for few;
`triton_pairs_tree.py` is the same for Triton.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import SortingSums

# Units in a band, 2^40: logits are rounded to 1e-12 of a band. Where there are more than 2^18 positives the units are
# larger, so that u, at most 6 R bands, stays below 2^62.
UNIT_BITS = 40
# The room between two logits that share no band, in bands.
APART = 4


@dataclass(frozen=True)
class Bands:
    """Where the band of each positive lies among the positives by ascending logit."""

    order: Tensor  # (R,) int64, the caller's position of each positive
    # (E, R) int32, numbers of positives. For a smooth step: all; those below the cell in which the upper half of the
    # band's cells begins; those at or below its lower end; those below its upper end. For a hard step: all; those
    # that count nothing.
    ends: Tensor
    fraction: Tensor | None  # (R,) int64, f in units; None for a hard step
    lower: Tensor | None  # (R,) int64, the fraction of the lower end of the band, in units; None for a hard step
    bits: int  # units in a band, as a power of two; 0 for a hard step

    def mass(self, members: Tensor, ends: Tensor) -> Tensor:
        """Per positive the sum of H(s_j - s_i) over the members at its ends, (R,) int64 in units."""
        above = (ends[0] - ends[1]).long()
        if self.fraction is None:
            return above
        assert self.lower is not None
        ramp = _difference(_running(self.fraction.index_select(0, members)), ends[3], ends[2])
        return ramp.sub_(self.lower * (ends[3] - ends[2])).add_(above << self.bits).clamp_(min=0)

    def weigh(self, values: Tensor, members: Tensor, ends: Tensor, *, from_top: bool = False) -> Tensor:
        """Per positive the sum of H(s_j - s_i) v_j over the members at its ends, (R,) float64.

        `values` (R,) float64 are those of the members, in their order. With 0 in the place of "all" among the ends of
        the root, it is the sum of H(s_i - s_j) v_j instead, times -1.
        """
        running = _running(values, from_top)
        above = _difference(running, ends[0], ends[1])
        if self.fraction is None:
            return above
        assert self.lower is not None
        ramp = _difference(_running(values * self.fraction.index_select(0, members), from_top), ends[3], ends[2])
        ramp -= _difference(running, ends[3], ends[2]).mul_(self.lower)
        return above.add_(ramp, alpha=2.0**-self.bits)


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    bands = _build_bands(positives, delta)
    quality = quality[bands.order].double()
    everyone = torch.arange(len(quality), device=quality.device)
    total = bands.mass(everyone, bands.ends)
    missorted = torch.zeros_like(total)
    deficit, surplus = torch.zeros_like(quality), torch.zeros_like(quality)
    for better, border, members, ends in _split(quality, bands.ends):
        # |y_j - y_i| is the distance of j from a quality between the halves plus that of i: both are >= 0
        distance = (quality - border).abs_()
        mass = bands.mass(members, ends)
        reach = bands.weigh(distance.index_select(0, members), members, ends).clamp_(min=0)
        reach.add_(distance.mul_(mass), alpha=2.0**-bands.bits)
        missorted += mass.mul_(better)
        deficit += reach * better
        surplus += reach.mul_(~better)
    # whole units: what is subtracted from itself leaves exactly 0
    masses = torch.stack([total - missorted, missorted]).double().mul_(2.0**-bands.bits)
    sums = torch.cat([masses, torch.stack([deficit, surplus])]).to(positives.dtype)
    return SortingSums(*torch.empty_like(sums).index_copy_(1, bands.order, sums))


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    bands = _build_bands(positives, delta, below=True)
    spread, quality = spread[bands.order].double(), quality[bands.order].double()
    demotion = torch.zeros_like(spread)
    for better, _, members, ends in _split(quality, bands.ends):
        demotion -= bands.weigh(spread.index_select(0, members), members, ends).mul_(~better)
    return torch.empty_like(positives).index_copy_(0, bands.order, demotion.to(positives.dtype))


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    bands = _build_bands(positives, delta)
    values = values[bands.order].double()
    everyone = torch.arange(len(values), device=values.device)
    # from the top: values below a positive, which do not count for it, must not add to its rounding errors
    weighed = bands.weigh(values, everyone, bands.ends, from_top=True) + 0 * values.sum()
    return torch.empty_like(weighed).index_copy_(0, bands.order, weighed)


def _build_bands(positives: Tensor, delta: float, *, below: bool = False) -> Bands:
    """The bands of all positives; NaN count as infinite. With `below`, the ends are those for H(s_i - s_j)."""
    size = len(positives)
    # stable, so that equal logits are added in the same order each time
    logits, order = positives.nan_to_num(torch.inf, torch.inf, -torch.inf).sort(stable=True)
    logits = logits.double()
    far = torch.full((1, size), 0 if below else size, dtype=torch.int32, device=positives.device)
    if delta == 0:
        # a tie counts, in either direction
        ends = torch.searchsorted(logits, logits, right=below, out_int32=True)
        return Bands(order, torch.cat([far, ends[None]]), None, None, 0)

    # u from the first of its cluster: a gap that no band spans begins a new one, so that u has no more than 2 R bands
    # and infinities stay out of it
    gap = logits.diff()
    begins = torch.zeros_like(order, dtype=torch.bool)
    begins[1:] = gap > 4 * delta
    first = torch.where(begins, torch.arange(size, device=order.device), 0).cummax(0).values
    bits = min(UNIT_BITS, 58 - size.bit_length())
    local = ((logits - logits[first]).nan_to_num_(0.0) * (2.0**bits / (2 * delta))).long()
    steps = torch.where(begins, APART << bits, local.diff(prepend=local[:1]))
    position = steps.cumsum(0)

    lower, half = position - (1 << bits - 1), 1 << bits - 1
    middle = (lower >> bits) + 1 << bits
    ends = torch.searchsorted(position, torch.stack([middle, lower + 1, position + half]), out_int32=True)
    mask = (1 << bits) - 1
    return Bands(order, torch.cat([far, ends]), position & mask, lower & mask, bits)


def _split(quality: Tensor, ends: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Level by level, as (better, border, members, ends).

    better   (R,) bool, whether a positive is in the better half of its node
    border   (R,) float64, a quality between the two halves of its node
    members  (R,) int64, the positives node by node: a new order
    ends     (E, R) int32, the positive's own ends in the other half of its node, as places in that order
    """
    size = len(quality)
    ascending, order = quality.sort()
    differs = torch.zeros_like(order)
    differs[1:] = ascending[1:] != ascending[:-1]
    ranks = differs.cumsum_(0)  # equal qualities have equal ranks: no border divides them
    rank = torch.empty_like(ranks).index_copy_(0, order, ranks)
    distinct = ascending[-1:].repeat(size).scatter_(0, ranks, ascending)
    # on other devices reading the number of ranks would be a host sync
    largest = int(ranks[-1]) if size and quality.device.type == "cpu" else size - 1

    members = torch.arange(size, device=quality.device)
    place = torch.arange(size + 1, dtype=torch.int32, device=quality.device)
    for bit in reversed(range(max(largest, 0).bit_length())):
        better = rank >> bit & 1
        border = distinct[((rank >> bit | 1) << bit).clamp_(max=size - 1)]
        # all worse halves, in the order of their nodes, and then all better ones
        moves_up = better.index_select(0, members)
        lower = place - _running(moves_up.int())
        both = place + lower[-1]  # the sum of a place's two images, in the worse and in the better half
        moved = torch.where(moves_up.bool(), both[:-1] - lower[:-1], lower[:-1])
        members = torch.empty_like(members).scatter_(0, moved.long(), members)
        better = better.bool()
        in_lower, ends = lower.index_select(0, ends.flatten()).view(ends.shape), ends + lower[-1]
        own = torch.where(better, ends - in_lower, in_lower)
        yield better, border, members, ends - own
        ends = own


def _running(values: Tensor, from_top: bool = False) -> Tensor:
    """Sums of the values (R,) before each place, (R + 1,); `from_top`, minus those of the values from it on."""
    sums = values.new_zeros(len(values) + 1)
    if from_top:
        sums[:-1] = values.flip(0).cumsum(0).flip(0).neg_()
    else:
        torch.cumsum(values, 0, out=sums[1:])
    return sums


def _difference(running: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    return running.index_select(0, upper) - running.index_select(0, lower)
