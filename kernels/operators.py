"""The passes of a backend as torch operators: a compiled graph holds each as one node, with shapes known ahead.

    R  positives of the ranking      P  those of this process      M  its logits      n  logits of one level

Only `torch.compile` uses them; eager code calls the backend itself. The operators' namespace is made of this package's
own name, so copies of the package under other names can be loaded together.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from .backends import BACKENDS, Backend
from .by_passes import ByPasses, Kept
from .group import Group
from .passes import Masses, SortingSums
from .scores import Loss, alrp_updates, average_precision_updates, rank_sort_updates
from .segments import Segments, cut_levels
from .targets import Ranking

NAMESPACE = re.sub(r"\W", "_", __package__ or __name__)


def add_op_namespace_prefix(name: str) -> str:
    """The operator's full name; the builder of Hugging Face's kernel packages looks for a function of this name."""
    return f"{NAMESPACE}::{name}"


class Operators:
    """The `LogitPasses` and `PairPasses` of the backend `name` (a key of `BACKENDS`), each call one operator."""

    def __init__(self, name: str) -> None:
        self.name = name

    def count(self, positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
        return Masses(*count(self.name, positives, own, ranking.levels, ranking.ignores, ranking.masked, delta))

    def scatter(
        self, weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: Any = None
    ) -> Tensor:
        del reuse
        return scatter(self.name, weights, positives, ranking.levels, ranking.ignores, delta, poison)

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        sums = sorting_sums(self.name, positives, quality, delta)
        return SortingSums(sums[0], sums[1], sums[2], sums[3])

    def sorting_demotion(self, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
        return sorting_demotion(self.name, spread, positives, quality, delta)

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        return weigh_positives(self.name, values, positives, delta)


def compiled_backend(name: str, *, whole: bool) -> Backend:
    """The backend `name` for a compiled graph; `whole`: all logits and positives are one ranking, without padding."""
    if name.startswith("triton"):
        from .triton_operators import CompiledOnTriton  # where Triton can be imported

        return CompiledOnTriton(name.removeprefix("triton, "))
    operators = Operators(name)
    return ByPasses(operators, operators) if whole else Segmented(name)


class Segmented:
    """A backend made of passes, for several rankings or padding: how many positives each has, only the run knows.

    So forward and backward are one operator each, which a score of the caller's own cannot be traced into.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def forward(
        self, loss: Loss, ranking: Ranking, delta: float, process_group: Any, errors: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Any]:
        assert process_group is None, "a process group breaks the graph"
        if loss.name is None:
            raise NotImplementedError(
                "torch.compile: segments or padding with a score of your own need backend 'triton'"
            )
        inputs = (ranking.levels, ranking.ignores, ranking.index, ranking.quality, ranking.valid)
        given = None if errors is None else errors.detach()
        values, *saved = segmented_forward(self.name, loss.name, *inputs, given, ranking.segments.numbers(), delta)
        values = values.reshape(-1, *ranking.segments.shape)
        return [values[part] for part in range(values.shape[0])], saved, loss.name

    def backward(
        self, ranking: Ranking, saved: list[Tensor], kept: Any, upstream: list[Tensor | None], delta: float
    ) -> tuple[list[Tensor], Tensor | None]:
        inputs = (ranking.levels, ranking.ignores, ranking.index, ranking.quality, ranking.valid)
        gradients = segmented_backward(self.name, kept, *inputs, saved, upstream, ranking.segments.numbers(), delta)
        return gradients[:-1], gradients[-1] if kept == "alrp" else None


# of each loss with a name: its score, and which of its updates' tables there are
NAMED = {
    "rank_sort": (Loss("rank_sort", rank_sort_updates, 2), [(True, False), (False, True)]),
    "average_precision": (Loss("average_precision", average_precision_updates, 1), [(True, False)]),
    "alrp": (Loss("alrp", alrp_updates, 1), [(True, False)]),
}


def _table_count(loss: str) -> int:
    return sum(1 + sum(kinds) for kinds in NAMED[loss][1]) + (loss == "alrp")


def _passes(name: str) -> ByPasses:
    backend = BACKENDS[name]
    assert isinstance(backend, ByPasses)
    return backend


def _ranking(levels: Sequence[Tensor], ignores: Sequence[Tensor | None], masked: Tensor | None) -> Ranking:
    """All that the passes read of a ranking; they do not need the positives' index and quality."""
    nothing = levels[0].new_empty(0)
    segments = cut_levels([level.numel() for level in levels], None)
    return Ranking(list(levels), nothing.long(), nothing, list(ignores), segments, None, masked)


@custom_op(add_op_namespace_prefix("count"), mutates_args=())
def count(
    backend: str,
    positives: Tensor,  # (R,)
    own: Tensor,  # (P,)
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    masked: Tensor | None,  # (P,)
    delta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`Masses`: (R,), (R,) and (), float64."""
    masses = _passes(backend).logits.count(positives, own, _ranking(levels, ignores, masked), delta)
    # tensors with memory of their own: where two share one, an offset in it is the R of a compiled graph
    return masses.false_positives.clone(), masses.true_positives.clone(), masses.poison


@count.register_fake
def _(backend, positives, own, levels, ignores, masked, delta):
    del backend, own, levels, ignores, masked, delta
    masses = (torch.empty_like(positives, dtype=torch.float64) for _ in range(2))
    return *masses, positives.new_empty((), dtype=torch.float64)


@custom_op(add_op_namespace_prefix("scatter"), mutates_args=())
def scatter(
    backend: str,
    weights: Tensor,  # (R,) float64
    positives: Tensor,  # (R,)
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    delta: float,
    poison: Tensor,  # ()
) -> Tensor:
    """The gradient (M,) in the dtype of the levels."""
    return _passes(backend).logits.scatter(weights, positives, _ranking(levels, ignores, None), delta, poison)


@scatter.register_fake
def _(backend, weights, positives, levels, ignores, delta, poison):
    del backend, weights, positives, ignores, delta, poison
    return levels[0].new_empty(sum(level.numel() for level in levels))


@custom_op(add_op_namespace_prefix("sorting_sums"), mutates_args=())
def sorting_sums(backend: str, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """`SortingSums` as one tensor (4, R) of the positives' dtype."""
    return torch.stack(_passes(backend).pairs.sorting_sums(positives, quality, delta))


@sorting_sums.register_fake
def _(backend, positives, quality, delta):
    del backend, quality, delta
    return positives.new_empty((4, positives.shape[0]))


@custom_op(add_op_namespace_prefix("sorting_demotion"), mutates_args=())
def sorting_demotion(backend: str, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """(R,) of the positives' dtype."""
    return _passes(backend).pairs.sorting_demotion(spread, positives, quality, delta)


@sorting_demotion.register_fake
def _(backend, spread, positives, quality, delta):
    del backend, spread, quality, delta
    return torch.empty_like(positives)


@custom_op(add_op_namespace_prefix("weigh_positives"), mutates_args=())
def weigh_positives(backend: str, values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """(R,) float64."""
    return _passes(backend).pairs.weigh_positives(values, positives, delta)


@weigh_positives.register_fake
def _(backend, values, positives, delta):
    del backend, values, delta
    return torch.empty_like(positives, dtype=torch.float64)


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
    numbers: Sequence[int],  # `Segments.numbers`
    delta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Values (parts, S), then what `ByPasses` saves: (P,), (P,), (S,), (P,), and the tables (n, P)."""
    ranking = Ranking(list(levels), index, quality, list(ignores), Segments.of(numbers), valid)
    values, saved, _ = _passes(backend).forward(NAMED[loss][0], ranking, delta, None, errors)
    positives, of_positives, poison, segment, *tables = saved
    # tensors with memory of their own
    stacked = torch.stack([value.reshape(ranking.segments.number) for value in values])
    return stacked, positives.clone(), of_positives.clone(), poison.clone(), segment.clone(), torch.stack(tables)


@segmented_forward.register_fake
def _(backend, loss, levels, ignores, index, quality, valid, errors, numbers, delta):
    del backend, ignores, quality, valid, errors, delta
    dtype = torch.float64 if levels[0].dtype == torch.float64 else torch.float32
    size, parts = index.shape[0], 1 if loss == "average_precision" else 2
    return (
        index.new_empty((parts, numbers[0]), dtype=dtype),
        index.new_empty(size, dtype=dtype),
        index.new_empty(size, dtype=dtype),
        index.new_empty(numbers[0], dtype=dtype),
        index.new_empty(size),
        index.new_empty((_table_count(loss), size), dtype=torch.float64),
    )


@custom_op(add_op_namespace_prefix("segmented_backward"), mutates_args=())
def segmented_backward(
    backend: str,
    loss: str,
    levels: Sequence[Tensor],
    ignores: Sequence[Tensor | None],
    index: Tensor,
    quality: Tensor,
    valid: Tensor | None,
    saved: Sequence[Tensor],  # of `segmented_forward`
    upstream: Sequence[Tensor | None],
    numbers: Sequence[int],
    delta: float,
) -> list[Tensor]:
    """The gradients (n,) of the levels and (P,) of the localisation errors, which are 0 for other losses than aLRP."""
    ranking = Ranking(list(levels), index, quality, list(ignores), Segments.of(numbers), valid)
    kept = Kept(Group(None, len(index), index.device), [None] * numbers[0], NAMED[loss][1], loss == "alrp")
    rest = [*saved[:4], *saved[4]]
    gradients, of_errors = _passes(backend).backward(ranking, rest, kept, list(upstream), delta)
    of_errors = torch.zeros_like(index, dtype=torch.float64) if of_errors is None else of_errors.clone()
    return [*(gradient.clone() for gradient in gradients), of_errors]


@segmented_backward.register_fake
def _(backend, loss, levels, ignores, index, quality, valid, saved, upstream, numbers, delta):
    del backend, loss, ignores, quality, valid, saved, upstream, numbers, delta
    return [*(torch.empty_like(level) for level in levels), torch.empty_like(index, dtype=torch.float64)]
