"""A loss from the passes of `passes.py` and the scores of `scores.py`: every backend but Triton's own.

    R  positives of all processes, in the caller's order      P  those of this process, a range of them
    M  logits of this process      S  segments, the rankings of one call

Each segment is counted and scattered by itself. What lies between, the score, sees the positives of all of them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .group import Group
from .parts import Part, fill, masked_positives, of, per_segment, split_ranking
from .passes import LogitPasses, Masses, PairPasses, SortingSums
from .places import gather_levels
from .scores import Counts, Loss, Update, alrp_charge
from .targets import Ranking
from .torch_step import self_pair


class Kept(NamedTuple):
    """What forward keeps beside the tensors that autograd saves."""

    group: Group
    reuse: list[Any]  # of each segment, see `Masses`
    tables: list[tuple[bool, bool]]  # of each update: whether it has weights for negatives, and for positives
    charged: bool  # whether there is a localisation part


class SegmentedPairs:
    """The passes over pairs of positives, where the pairs of a positive are in its own segment."""

    def __init__(self, passes: PairPasses, rows: list[Tensor]) -> None:
        self.passes, self.rows = passes, rows  # (r,) int64: the positives of each segment

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        sums = positives.new_zeros((4, len(positives)))
        sums[0] = self_pair(delta)  # padding has only itself above it
        for rows in self.rows:
            found = torch.stack(self.passes.sorting_sums(positives[rows], quality[rows], delta))
            sums = sums.index_copy(1, rows, found)
        return SortingSums(*sums)

    def sorting_demotion(self, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
        demotion = torch.zeros_like(positives)
        for rows in self.rows:
            found = self.passes.sorting_demotion(spread[rows], positives[rows], quality[rows], delta)
            demotion = demotion.index_copy(0, rows, found)
        return demotion

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        weighed = torch.zeros_like(positives, dtype=torch.float64)
        for rows in self.rows:
            found = self.passes.weigh_positives(values[rows], positives[rows], delta)
            weighed = weighed.index_copy(0, rows, found)
        return weighed


class ByPasses:
    """A backend made of passes over the logits and over pairs of positives; see `backends.Backend`."""

    def __init__(self, logits: LogitPasses, pairs: PairPasses) -> None:
        self.logits, self.pairs = logits, pairs

    def forward(
        self, loss: Loss, ranking: Ranking, delta: float, process_group: ProcessGroup | None, errors: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Kept]:
        group = Group(process_group, len(ranking.index), ranking.index.device)
        counts, poison, parts, reuse = self.count(ranking, delta, group)
        dtype, segment = ranking.computing_dtype, counts.segment
        all_errors = None if errors is None else group.gather(errors.detach().double())
        # in a compiled graph with dense targets P is unknown: there a score is called without positives too
        if torch.compiler.is_compiling() or group.total:
            updates = loss.updates_of(counts, all_errors)
        else:
            nothing = torch.zeros_like(counts.false_positives)
            updates = (Update(nothing, nothing, nothing),) * loss.updates
        # a NaN logit or quality makes every part of its segment NaN
        poison = poison + per_segment(parts, 0 * counts.quality)
        divisors = [group.divisor if part.rows is None else max(len(part.rows), 1) for part in parts]
        values = [per_segment(parts, update.error, divisors) + poison for update in updates]
        saved = [table for update in updates for table in update[1:] if table is not None]
        if all_errors is not None:
            charge = alrp_charge(counts)
            values.append(per_segment(parts, all_errors * charge) + poison)
            saved.append(charge)
        flags = [(update.negative_weight is not None, update.positive_weight is not None) for update in updates]
        saved = [counts.logits, counts.quality, poison.to(dtype), *([] if segment is None else [segment]), *saved]
        shaped = [value.reshape(ranking.segments.shape).to(dtype) for value in values]
        return shaped, saved, Kept(group, reuse, flags, all_errors is not None)

    def count(self, ranking: Ranking, delta: float, group: Group) -> tuple[Counts, Tensor, list[Part], list[Any]]:
        """The counts for a score, the poison (S,) of NaN logits, the parts, and what their scatters can use again."""
        dtype, number = ranking.computing_dtype, ranking.segments.number
        own = gather_levels(ranking.levels, ranking.index, ranking.valid).to(dtype)
        positives, quality = group.gather(own), group.gather(ranking.quality.to(dtype))
        segment = None if ranking.whole else group.gather(ranking.segment_of_positives())
        parts = split_ranking(ranking, segment, group.own, masked=masked_positives(ranking))
        masses, reuse = self._count(parts, positives, own, delta)
        false_positives, true_positives, poison, _ = group.add(masses)
        if segment is not None:  # padding has only itself above it
            true_positives = torch.where(segment == number, self_pair(delta), true_positives)
        pairs = self._pairs(parts)
        counts = Counts(false_positives, true_positives, positives, quality, delta, pairs, segment, number)
        return counts, poison, parts, reuse

    def backward(
        self, ranking: Ranking, saved: list[Tensor], kept: Kept, upstream: list[Tensor | None], delta: float
    ) -> tuple[list[Tensor], Tensor | None]:
        tables = iter(saved)  # Dynamo of torch 2.11 cannot pop from what was saved
        positives, quality, poison = next(tables), next(tables), next(tables)
        segment = None if ranking.whole else next(tables)
        group = kept.group
        parts = split_ranking(ranking, segment, group.own)
        own = torch.zeros(positives.shape, dtype=torch.float64, device=positives.device)
        weights, spread = torch.zeros_like(own), torch.zeros_like(own)
        sorts = False
        for gradient, (has_negative, has_positive) in zip(upstream, kept.tables, strict=False):
            promotion = next(tables)
            negative_weight = next(tables) if has_negative else None
            positive_weight = next(tables) if has_positive else None
            if gradient is None:
                continue
            # data-parallel training averages gradients over the processes: the average is that of the whole ranking
            scale = fill(parts, gradient.double() * group.size, own, mean=True)
            own = own - promotion * scale
            if negative_weight is not None:
                weights = weights + negative_weight * scale
            if positive_weight is not None:
                spread, sorts = spread + positive_weight * scale, True
        if sorts:
            own = own + self._pairs(parts).sorting_demotion(spread.to(positives.dtype), positives, quality, delta)
        flat = self._scatter(ranking, parts, kept.reuse, positives, weights, poison, delta)
        own = own + fill(parts, poison, own)
        _place(flat, ranking, own[group.own])
        error_gradient = None
        if kept.charged and upstream[-1] is not None:
            error_gradient = (next(tables) * fill(parts, upstream[-1].double() * group.size, own))[group.own]
        return list(flat.split([level.numel() for level in ranking.levels])), error_gradient

    def _pairs(self, parts: list[Part]) -> PairPasses:
        rows = [part.rows for part in parts if part.rows is not None]
        return SegmentedPairs(self.pairs, rows) if rows else self.pairs

    def _count(self, parts: list[Part], positives: Tensor, own: Tensor, delta: float) -> tuple[Masses, list[Any]]:
        """The masses (R,) of all segments, their poison (S,), and what the scatter of each can use again."""
        found = [self.logits.count(of(positives, part.rows), of(own, part.own), part.ranking, delta) for part in parts]
        reuse = [masses.reuse for masses in found]
        if parts[0].rows is None:
            (masses,) = found
            return Masses(masses.false_positives, masses.true_positives, masses.poison.reshape(1)), reuse
        poison = torch.stack([masses.poison for masses in found])
        false_positives = torch.zeros_like(positives, dtype=torch.float64)
        true_positives = torch.zeros_like(false_positives)
        for part, masses in zip(parts, found, strict=True):
            assert part.rows is not None
            false_positives = false_positives.index_copy(0, part.rows, masses.false_positives)
            true_positives = true_positives.index_copy(0, part.rows, masses.true_positives)
        return Masses(false_positives, true_positives, poison), reuse

    def _scatter(
        self,
        ranking: Ranking,
        parts: list[Part],
        reuse: list[Any],
        positives: Tensor,
        weights: Tensor,
        poison: Tensor,
        delta: float,
    ) -> Tensor:
        """The gradient (M,) of every logit as if it were a negative."""
        if parts[0].rows is None:
            return self.logits.scatter(weights, positives, ranking, delta, poison[0], reuse=reuse[0])
        flat = ranking.levels[0].new_empty(ranking.size)
        for number, part in enumerate(parts):
            found = self.logits.scatter(
                of(weights, part.rows),
                of(positives, part.rows),
                part.ranking,
                delta,
                poison[number],
                reuse=reuse[number],
            )
            sizes = [end - begin for begin, end in part.ranges]
            for (begin, end), values in zip(part.ranges, found.split(sizes) if sizes else (), strict=True):
                flat[begin:end] = values
        return flat


def _place(flat: Tensor, ranking: Ranking, own: Tensor) -> None:
    """Writes the gradients (P,) of the positives over those that they would have as negatives."""
    index = ranking.index
    if ranking.valid is not None:
        valid = ranking.valid.nonzero().squeeze(1)
        index, own = index[valid], own[valid]
    flat.index_copy_(0, index, own.to(flat.dtype))
