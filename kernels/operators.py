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
from .by_passes import ByPasses
from .passes import Masses, SortingSums
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
    if not whole:
        from .segmented_operators import Segmented  # which needs this module

        return Segmented(name)
    operators = Operators(name)
    return ByPasses(operators, operators)


def ranking_of(
    levels: Sequence[Tensor],
    ignores: Sequence[Tensor | None],
    index: Tensor,
    quality: Tensor,
    valid: Tensor | None,
    numbers: Sequence[int],  # `Segments.numbers`
) -> Ranking:
    """The ranking behind the arguments of an operator for a whole pass."""
    return Ranking(list(levels), index, quality, list(ignores), Segments.of(numbers), valid)


def passes_of(name: str) -> ByPasses:
    """The backend `name`, which is made of passes."""
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
    masses = passes_of(backend).logits.count(positives, own, _ranking(levels, ignores, masked), delta)
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
    return passes_of(backend).logits.scatter(weights, positives, _ranking(levels, ignores, None), delta, poison)


@scatter.register_fake
def _(backend, weights, positives, levels, ignores, delta, poison):
    del backend, weights, positives, ignores, delta, poison
    return levels[0].new_empty(sum(level.numel() for level in levels))


@custom_op(add_op_namespace_prefix("sorting_sums"), mutates_args=())
def sorting_sums(backend: str, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """`SortingSums` as one tensor (4, R) of the positives' dtype."""
    return torch.stack(passes_of(backend).pairs.sorting_sums(positives, quality, delta))


@sorting_sums.register_fake
def _(backend, positives, quality, delta):
    del backend, quality, delta
    return positives.new_empty((4, positives.shape[0]))


@custom_op(add_op_namespace_prefix("sorting_demotion"), mutates_args=())
def sorting_demotion(backend: str, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """(R,) of the positives' dtype."""
    return passes_of(backend).pairs.sorting_demotion(spread, positives, quality, delta)


@sorting_demotion.register_fake
def _(backend, spread, positives, quality, delta):
    del backend, spread, quality, delta
    return torch.empty_like(positives)


@custom_op(add_op_namespace_prefix("weigh_positives"), mutates_args=())
def weigh_positives(backend: str, values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """(R,) float64."""
    return passes_of(backend).pairs.weigh_positives(values, positives, delta)


@weigh_positives.register_fake
def _(backend, values, positives, delta):
    del backend, values, delta
    return torch.empty_like(positives, dtype=torch.float64)
