"""The torch backend in a compiled graph where a call has segments or padding: count, value and gradient as operators.

    P  positives, with padding      S  segments, the rankings of one call      n  logits of one level

How many positives a segment has, only the run knows. So no graph holds their rows: each operator finds them anew. A
score of the caller's own is traced between the operators, with the positives of all segments at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from .by_passes import Kept, SegmentedPairs
from .group import Group
from .operators import add_op_namespace_prefix, passes_of, ranking_of
from .passes import SortingSums
from .scores import Counts, Loss, alrp_updates, average_precision_updates, rank_sort_updates
from .targets import Ranking

NAMED = {
    "rank_sort": Loss("rank_sort", rank_sort_updates, 2),
    "average_precision": Loss("average_precision", average_precision_updates, 1),
    "alrp": Loss("alrp", alrp_updates, 1),
}
# of each update: whether it has weights for negatives, and for positives
TABLES = {"rank_sort": [(True, False), (False, True)], "average_precision": [(True, False)], "alrp": [(True, False)]}


def _rows(segment: Tensor, segments: int) -> list[Tensor]:
    return [(segment == number).nonzero().squeeze(1) for number in range(segments)]


@custom_op(add_op_namespace_prefix("segmented_forward"), mutates_args=())
def segmented_forward(
    backend: str,
    loss: str,  # a key of `NAMED`
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    index: Tensor,  # (P,)
    quality: Tensor,  # (P,)
    valid: Tensor | None,  # (P,)
    errors: Tensor | None,  # (P,) localisation errors of aLRP
    numbers: Sequence[int],
    delta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Values (parts, S), then what `ByPasses` saves: (P,), (P,), (S,), (P,), and the tables (n, P)."""
    ranking = ranking_of(levels, ignores, index, quality, valid, numbers)
    values, saved, _ = passes_of(backend).forward(NAMED[loss], ranking, delta, None, errors)
    positives, of_positives, poison, segment, *tables = saved
    # tensors with memory of their own
    stacked = torch.stack([value.reshape(ranking.segments.number) for value in values])
    return stacked, positives.clone(), of_positives.clone(), poison.clone(), segment.clone(), torch.stack(tables)


@segmented_forward.register_fake
def _(backend, loss, levels, ignores, index, quality, valid, errors, numbers, delta):
    del backend, ignores, quality, valid, errors, delta
    dtype = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    size, parts = index.shape[0], 1 if loss == "average_precision" else 2
    tables = sum(map(sum, TABLES[loss])) + len(TABLES[loss]) + (loss == "alrp")
    return (
        index.new_empty((parts, numbers[0]), dtype=dtype),
        index.new_empty(size, dtype=dtype),
        index.new_empty(size, dtype=dtype),
        index.new_empty(numbers[0], dtype=dtype),
        index.new_empty(size),
        index.new_empty((tables, size), dtype=torch.float64),
    )


@custom_op(add_op_namespace_prefix("segmented_count"), mutates_args=())
def segmented_count(
    backend: str,
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    index: Tensor,  # (P,)
    quality: Tensor,  # (P,)
    valid: Tensor | None,  # (P,)
    numbers: Sequence[int],
    delta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masses (2, P) and poison (S,) in float64, logits and qualities (2, P), and the segment of each positive (P,)."""
    ranking = ranking_of(levels, ignores, index, quality, valid, numbers)
    counts, poison, _, _ = passes_of(backend).count(ranking, delta, Group(None, len(index), index.device))
    assert counts.segment is not None
    masses = torch.stack([counts.false_positives, counts.true_positives])
    return masses, poison.clone(), torch.stack([counts.logits, counts.quality]), counts.segment.clone()


@segmented_count.register_fake
def _(backend, levels, ignores, index, quality, valid, numbers, delta):
    del backend, ignores, quality, valid, delta
    dtype = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    size = index.shape[0]
    return (
        index.new_empty((2, size), dtype=torch.float64),
        index.new_empty(numbers[0], dtype=torch.float64),
        index.new_empty((2, size), dtype=dtype),
        index.new_empty(size),
    )


@custom_op(add_op_namespace_prefix("segmented_pairs"), mutates_args=())
def segmented_pairs(
    backend: str,
    positives: Tensor,  # (P,)
    quality: Tensor,  # (P,)
    values: Tensor | None,  # (P,) to be weighed; None: sorting sums
    segment: Tensor,  # (P,)
    segments: int,
    delta: float,
) -> Tensor:
    """(4, P) sorting sums in the dtype of the positives, or (1, P) weighed values in float64."""
    pairs = SegmentedPairs(passes_of(backend).pairs, _rows(segment, segments))
    if values is None:
        return torch.stack(pairs.sorting_sums(positives, quality, delta))
    return pairs.weigh_positives(values, positives, delta)[None]


@segmented_pairs.register_fake
def _(backend, positives, quality, values, segment, segments, delta):
    del backend, quality, segment, segments, delta
    size = positives.shape[0]
    if values is None:
        return positives.new_empty((4, size))
    return positives.new_empty((1, size), dtype=torch.float64)


@custom_op(add_op_namespace_prefix("segmented_sums"), mutates_args=())
def segmented_sums(values: Tensor, segment: Tensor, segments: int, *, mean: bool) -> Tensor:
    """(S,) the sum, or the mean, of the `values` (P,) of each segment."""
    rows = _rows(segment, segments)
    sums = torch.stack([values[each].sum() for each in rows])
    return sums / sums.new_tensor([max(len(each), 1) for each in rows]) if mean else sums


@segmented_sums.register_fake
def _(values, segment, segments, *, mean):
    del segment, mean
    return values.new_empty(segments)


@custom_op(add_op_namespace_prefix("segmented_backward"), mutates_args=())
def segmented_backward(
    backend: str,
    levels: Sequence[Tensor],
    ignores: Sequence[Tensor | None],
    index: Tensor,
    quality: Tensor,
    valid: Tensor | None,
    saved: Sequence[Tensor],  # as `ByPasses.forward` has it
    tables: Sequence[bool],  # of each update: whether it has weights for negatives, and for positives
    charged: bool,
    upstream: Sequence[Tensor | None],
    numbers: Sequence[int],
    delta: float,
) -> list[Tensor]:
    """The gradients (n,) of the levels and (P,) of the localisation errors, which are 0 unless `charged`."""
    ranking = ranking_of(levels, ignores, index, quality, valid, numbers)
    flags = list(zip(tables[::2], tables[1::2], strict=True))
    kept = Kept(Group(None, len(index), index.device), [None] * numbers[0], flags, charged)
    gradients, of_errors = passes_of(backend).backward(ranking, list(saved), kept, list(upstream), delta)
    of_errors = torch.zeros_like(index, dtype=torch.float64) if of_errors is None else of_errors.clone()
    return [*(gradient.clone() for gradient in gradients), of_errors]


@segmented_backward.register_fake
def _(backend, levels, ignores, index, quality, valid, saved, tables, charged, upstream, numbers, delta):
    del backend, ignores, quality, valid, saved, tables, charged, upstream, numbers, delta
    return [*(torch.empty_like(level) for level in levels), torch.empty_like(index, dtype=torch.float64)]


class TracedPairs:
    """`SegmentedPairs` as operators, for a score that is traced."""

    def __init__(self, backend: str, segment: Tensor, segments: int) -> None:
        self.backend, self.segment, self.segments = backend, segment, segments

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        sums = segmented_pairs(self.backend, positives, quality, None, self.segment, self.segments, delta)
        return SortingSums(sums[0], sums[1], sums[2], sums[3])

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        return segmented_pairs(self.backend, positives, positives, values, self.segment, self.segments, delta)[0]


class Segmented:
    """A backend made of passes in a compiled graph, for segments or padding; see `backends.Backend`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def forward(
        self, loss: Loss, ranking: Ranking, delta: float, process_group: Any, errors: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Any]:
        assert process_group is None, "a process group breaks the graph"
        inputs = (ranking.levels, ranking.ignores, ranking.index, ranking.quality, ranking.valid)
        numbers, shape = ranking.segments.numbers(), ranking.segments.shape
        if loss.name is not None:
            given = None if errors is None else errors.detach()
            values, positives, quality, poison, segment, tables = segmented_forward(
                self.name, loss.name, *inputs, given, numbers, delta
            )
            # copies: of two views of one tensor, Dynamo of torch 2.11 gives both the gradient of one
            parts = [values[part].reshape(shape).clone() for part in range(values.shape[0])]
            return parts, [positives, quality, poison, segment, *tables.unbind(0)], TABLES[loss.name]
        masses, poison, of_positives, segment = segmented_count(self.name, *inputs, numbers, delta)
        number = ranking.segments.number
        pairs = TracedPairs(self.name, segment, number)
        counts = Counts(masses[0], masses[1], of_positives[0], of_positives[1], delta, pairs, segment, number)
        (update,) = loss.updates_of(counts, None)
        poison = poison + segmented_sums(0 * counts.quality, segment, number, mean=False)
        value = segmented_sums(update.error.double(), segment, number, mean=True) + poison
        dtype = ranking.computing_dtype
        saved = [counts.logits, counts.quality, poison.to(dtype), segment]
        saved += [table for table in update[1:] if table is not None]
        kept = [(update.negative_weight is not None, update.positive_weight is not None)]
        return [value.reshape(shape).to(dtype)], saved, kept

    def backward(
        self, ranking: Ranking, saved: list[Tensor], kept: Any, upstream: list[Tensor | None], delta: float
    ) -> tuple[list[Tensor], Tensor | None]:
        inputs = (ranking.levels, ranking.ignores, ranking.index, ranking.quality, ranking.valid)
        flags = [flag for pair in kept for flag in pair]
        charged = len(upstream) > len(kept)
        numbers = ranking.segments.numbers()
        gradients = segmented_backward(self.name, *inputs, saved, flags, charged, upstream, numbers, delta)
        return gradients[:-1], gradients[-1] if charged else None
