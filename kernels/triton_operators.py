"""The Triton backend as torch operators: a compiled graph holds forward and backward of a loss as one node each.

    R  positives, with padding      S  segments      n  logits of one level

A score of the caller's own is traced between two operators, the count and the score of what it returns. The grid over
the kinks has a fixed size here, so that the sizes of all tables follow from R and S; no result depends on it.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.library import custom_op

from . import on_triton
from .group import Group
from .on_triton import Counted, Kept
from .operators import add_op_namespace_prefix, ranking_of
from .passes import SortingSums
from .scores import Counts, Loss, Update
from .targets import Ranking
from .triton_masses import GIVEN
from .triton_step import launch_context
from .triton_tables import Tables


def cells_of(algorithm: str, segments: int) -> int:
    """G in a compiled graph."""
    return 0 if algorithm == "tiled" else 1 << (14 if segments == 1 else 12)


def _new_tables(index: Tensor, algorithm: str, segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unwritten buffers of `Tables`, of the sizes that `triton_tables.new_tables` gives them."""
    size, cells = index.shape[0], cells_of(algorithm, segments)
    return (
        index.new_empty(4 * size + 9 * segments, dtype=torch.float32),
        index.new_empty(6 * size, dtype=torch.float64),
        index.new_empty(segments + 1 + 6 * size + segments * (cells + 2), dtype=torch.int32),
    )


@custom_op(add_op_namespace_prefix("triton_forward"), mutates_args=())
def triton_forward(
    algorithm: str,
    loss: str,  # a name of `scores.Loss`
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    index: Tensor,  # (R,)
    quality: Tensor,  # (R,)
    valid: Tensor | None,  # (R,)
    errors: Tensor | None,  # (R,) localisation errors of aLRP
    pieces: Sequence[int],
    delta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values (parts, S) and the buffers of the tables."""
    ranking = ranking_of(levels, ignores, index, quality, valid, pieces)
    segments = ranking.segments.number
    with launch_context(index):
        group = Group(None, len(index), index.device)
        counted = on_triton.count(algorithm, ranking, group, delta, cells_of(algorithm, segments))
        given = None if errors is None else errors.contiguous()
        values = on_triton.score_named(loss, counted, delta, given, (segments,))
    return torch.stack(values), counted.tables.singles, counted.tables.doubles, counted.tables.ints


@triton_forward.register_fake
def _(algorithm, loss, levels, ignores, index, quality, valid, errors, pieces, delta):
    del levels, ignores, quality, valid, errors, delta
    parts = 1 if loss == "average_precision" else 2
    return index.new_empty((parts, pieces[0]), dtype=torch.float32), *_new_tables(index, algorithm, pieces[0])


@custom_op(add_op_namespace_prefix("triton_count"), mutates_args=())
def triton_count(
    algorithm: str,
    levels: Sequence[Tensor],
    ignores: Sequence[Tensor | None],
    index: Tensor,
    quality: Tensor,
    valid: Tensor | None,
    pieces: Sequence[int],
    delta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`CallerMasses` and the buffers of the tables."""
    ranking = ranking_of(levels, ignores, index, quality, valid, pieces)
    with launch_context(index):
        group = Group(None, len(index), index.device)
        counted = on_triton.count(algorithm, ranking, group, delta, cells_of(algorithm, ranking.segments.number))
        found = on_triton.masses_of(counted, delta)
    tables = counted.tables
    return found.masses, found.caller, found.segment, tables.singles, tables.doubles, tables.ints


@triton_count.register_fake
def _(algorithm, levels, ignores, index, quality, valid, pieces, delta):
    del levels, ignores, quality, valid, delta
    size = index.shape[0]
    return (
        index.new_empty(2 * size + pieces[0], dtype=torch.float64),
        index.new_empty((2, size), dtype=torch.float32),
        index.new_empty(size),
        *_new_tables(index, algorithm, pieces[0]),
    )


@custom_op(add_op_namespace_prefix("triton_score"), mutates_args=("singles", "doubles"))
def triton_score(
    singles: Tensor,
    doubles: Tensor,
    ints: Tensor,
    masses: Tensor,
    update: Sequence[Tensor | None],  # (R,) each: errors, or an `Update`
    positives: int,
    segments: int,
    cells: int,
    delta: float,
) -> Tensor:
    """The value (S,) of a score of the caller's own; its update is written into the tables."""
    tables = Tables(singles, doubles, ints, positives, segments, cells)
    result = update[0] if len(update) == 1 else Update(*update)  # type: ignore
    assert result is not None
    with launch_context(ints):
        return on_triton.score_given(result, Counted(tables, GIVEN, masses, masses), delta, (segments,))


@triton_score.register_fake
def _(singles, doubles, ints, masses, update, positives, segments, cells, delta):
    del doubles, ints, masses, update, positives, cells, delta
    return singles.new_empty(segments)


@custom_op(add_op_namespace_prefix("triton_pairs"), mutates_args=())
def triton_pairs(
    singles: Tensor,
    ints: Tensor,
    values: Tensor | None,  # (R,) to be weighed; None: sorting sums
    positives: int,
    segments: int,
    cells: int,
    delta: float,
) -> Tensor:
    """(4, R) sorting sums, or (1, R) weighed values, in the caller's order."""
    tables = on_triton.TablePairs(Tables(singles, singles, ints, positives, segments, cells))
    logits = singles[:positives]
    if values is None:
        return torch.stack(tables.sorting_sums(logits, logits, delta))
    return tables.weigh_positives(values, logits, delta).float()[None]


@triton_pairs.register_fake
def _(singles, ints, values, positives, segments, cells, delta):
    del ints, segments, cells, delta
    return singles.new_empty((4 if values is None else 1, positives))


@custom_op(add_op_namespace_prefix("triton_backward"), mutates_args=())
def triton_backward(
    algorithm: str,
    levels: Sequence[Tensor],
    ignores: Sequence[Tensor | None],
    index: Tensor,
    quality: Tensor,
    valid: Tensor | None,
    tables: Sequence[Tensor],
    upstream: Sequence[Tensor | None],  # of each part
    errors: Tensor | None,  # (R,) localisation errors of aLRP, for their dtype
    pieces: Sequence[int],
    sorting: bool,
    spreads: bool,
    delta: float,
) -> list[Tensor]:
    """The gradients (n,) of the levels, and with `errors` theirs (R,)."""
    ranking = ranking_of(levels, ignores, index, quality, valid, pieces)
    segments, size = ranking.segments.number, len(index)
    built = Tables(tables[0], tables[1], tables[2], size, segments, cells_of(algorithm, segments))
    kept = Kept(size, built.cells, 0, 1, sorting, spreads, None if errors is None else errors.dtype)
    with launch_context(index):
        gradients, of_errors = on_triton.gradients_of(algorithm, ranking, built, kept, list(upstream), delta)
    if errors is None:
        return gradients
    return [*gradients, torch.zeros_like(errors) if of_errors is None else of_errors]


@triton_backward.register_fake
def _(algorithm, levels, ignores, index, quality, valid, tables, upstream, errors, pieces, sorting, spreads, delta):
    del algorithm, ignores, index, quality, valid, tables, upstream, pieces, sorting, spreads, delta
    return [*(torch.empty_like(level) for level in levels), *([] if errors is None else [torch.empty_like(errors)])]


class TracedPairs:
    """`on_triton.TablePairs` as operators."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def _call(self, values: Tensor | None, delta: float) -> Tensor:
        tables = self.tables
        return triton_pairs(tables.singles, tables.ints, values, tables.positives, tables.segments, tables.cells, delta)

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        del positives, quality
        sums = self._call(None, delta)
        return SortingSums(sums[0], sums[1], sums[2], sums[3])

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        del positives
        return self._call(values, delta)[0].double()


class CompiledOnTriton:
    """`on_triton.OnTriton` for a compiled graph; see `backends.Backend`. A process group breaks the graph before it."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm

    def forward(
        self, loss: Loss, ranking: Ranking, delta: float, process_group: ProcessGroup | None, errors: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Any]:
        assert process_group is None
        shape, number = ranking.segments.shape, ranking.segments.number
        inputs = (ranking.levels, ranking.ignores, ranking.index, ranking.quality, ranking.valid)
        pieces = ranking.segments.numbers()
        if loss.name is not None:
            own = None if errors is None else errors.detach()
            values, *buffers = triton_forward(self.algorithm, loss.name, *inputs, own, pieces, delta)
            # copies, as in `segmented_operators.Segmented`
            parts = [
                values[part].reshape(shape).clone() for part in range(1 if loss.name == "average_precision" else 2)
            ]
            sorts = loss.name == "rank_sort"
            return parts, [*buffers, *([] if own is None else [own])], (sorts, sorts, own is not None)
        masses, caller, segment, *buffers = triton_count(self.algorithm, *inputs, pieces, delta)
        singles, doubles, ints = buffers
        size = ranking.index.shape[0]
        tables = Tables(singles, doubles, ints, size, number, cells_of(self.algorithm, number))
        segment = None if ranking.whole else segment
        counts = Counts(
            masses[:size], masses[size : 2 * size], caller[0], caller[1], delta, TracedPairs(tables), segment, number
        )
        result = loss.score(counts)
        given = [result] if isinstance(result, Tensor) else list(cast(Update, result))
        update = [None if each is None else each.detach() for each in given]
        value = triton_score(*buffers, masses, update, size, number, tables.cells, delta)
        spreads = len(update) > 1 and update[3] is not None
        return [value.reshape(shape)], buffers, (False, spreads, False)

    def backward(
        self, ranking: Ranking, saved: list[Tensor], kept: Any, upstream: list[Tensor | None], delta: float
    ) -> tuple[list[Tensor], Tensor | None]:
        sorting, spreads, charged = kept
        errors = saved[3] if charged else None
        gradients = triton_backward(
            self.algorithm,
            ranking.levels,
            ranking.ignores,
            ranking.index,
            ranking.quality,
            ranking.valid,
            saved[:3],
            upstream,
            errors,
            ranking.segments.numbers(),
            sorting,
            spreads,
            delta,
        )
        return gradients[: len(ranking.levels)], gradients[-1] if charged else None
