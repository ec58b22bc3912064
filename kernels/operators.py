"""The passes as torch operators, so that a compiled graph holds them whole: no graph break, shapes known ahead.

    R  positives asked about      P  positives of the examples      M  all logits

Outside of `torch.compile` the backends are called as they are. The operators' namespace is made of this package's own
name, so that copies of it under other names live side by side.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from .backends import BACKENDS
from .targets import Examples, Masses
from .torch_chunks import any_nan
from .torch_pairs import SortingSums

NAMESPACE = re.sub(r"\W", "_", __package__ or __name__)


def add_op_namespace_prefix(name: str) -> str:
    """The operator's full name; the builder of Hugging Face's kernel packages looks for a function of this name."""
    return f"{NAMESPACE}::{name}"


class Passes:
    """The passes of the backend `name` (a key of `BACKENDS`); inside a compiled graph each is one operator."""

    def __init__(self, name: str) -> None:
        self.name = name

    def count(self, rows: Tensor, own: Tensor, examples: Examples, delta: float) -> tuple[Masses, Tensor]:
        """The masses, see `backends.Backend.count`, and () float64 0, or NaN where a logit that counts is NaN."""
        if not torch.compiler.is_compiling():
            return _count(self.name, rows, own, examples, delta)
        *masses, poison = count(self.name, rows, own, examples.levels, examples.ignores, examples.masked, delta)
        return Masses(*masses), poison

    def scatter_to_logits(
        self, weights: Tensor, rows: Tensor, examples: Examples, delta: float, poison: Tensor
    ) -> Tensor:
        """The gradient (M,) of the logits' dtype, not yet right at the positives; see `backends.Backend`."""
        if not torch.compiler.is_compiling():
            return _scatter(self.name, weights, rows, examples, delta, poison)
        return scatter_to_logits(self.name, weights, rows, examples.levels, examples.ignores, delta, poison)

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        """See `backends.Backend.sorting_sums`."""
        if not torch.compiler.is_compiling():
            return BACKENDS[self.name].sorting_sums(positives, quality, delta)
        sums = sorting_sums(self.name, positives, quality, delta)
        return SortingSums(sums[0], sums[1], sums[2], sums[3])

    def sorting_demotion(self, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
        """See `backends.Backend.sorting_demotion`."""
        if not torch.compiler.is_compiling():
            return BACKENDS[self.name].sorting_demotion(spread, positives, quality, delta)
        return sorting_demotion(self.name, spread, positives, quality, delta)

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        """See `backends.Backend.weigh_positives`."""
        if not torch.compiler.is_compiling():
            return BACKENDS[self.name].weigh_positives(values, positives, delta)
        return weigh_positives(self.name, values, positives, delta)


def _count(name: str, rows: Tensor, own: Tensor, examples: Examples, delta: float) -> tuple[Masses, Tensor]:
    masses = BACKENDS[name].count(rows, own, examples, delta)
    if len(rows):
        return masses, 0 * masses.false_positives.sum()
    return masses, torch.where(any_nan(examples.pairs()), torch.nan, 0.0).double()


def _scatter(name: str, weights: Tensor, rows: Tensor, examples: Examples, delta: float, poison: Tensor) -> Tensor:
    flat = examples.levels[0].new_empty(sum(level.numel() for level in examples.levels))
    BACKENDS[name].scatter_to_logits(weights, rows, examples, delta, flat, poison)
    return flat


def _examples(levels: Sequence[Tensor], ignores: Sequence[Tensor | None], masked: Tensor | None) -> Examples:
    """What the passes read of the examples; they are not given the positives' places."""
    nothing = levels[0].new_empty(0)
    return Examples(list(levels), nothing.long(), nothing, list(ignores), masked)


@custom_op(add_op_namespace_prefix("count"), mutates_args=())
def count(
    backend: str,
    rows: Tensor,  # (R,)
    own: Tensor,  # (P,)
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    masked: Tensor | None,  # (P,)
    delta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both `Masses` (R,) and the poison (), float64."""
    # three tensors with memory of their own: where one is part of another, its offset is the R of a compiled graph
    masses, poison = _count(backend, rows, own, _examples(levels, ignores, masked), delta)
    return masses.false_positives.clone(), masses.true_positives.clone(), poison


@count.register_fake
def _(backend, rows, own, levels, ignores, masked, delta):
    del backend, own, levels, ignores, masked, delta
    masses = (torch.empty_like(rows, dtype=torch.float64) for _ in range(2))
    return *masses, rows.new_empty((), dtype=torch.float64)


@custom_op(add_op_namespace_prefix("scatter_to_logits"), mutates_args=())
def scatter_to_logits(
    backend: str,
    weights: Tensor,  # (R,) float64
    rows: Tensor,  # (R,)
    levels: Sequence[Tensor],  # (n,) each
    ignores: Sequence[Tensor | None],  # (n,) each
    delta: float,
    poison: Tensor,  # ()
) -> Tensor:
    """The gradient (M,) in the dtype of the levels."""
    return _scatter(backend, weights, rows, _examples(levels, ignores, None), delta, poison)


@scatter_to_logits.register_fake
def _(backend, weights, rows, levels, ignores, delta, poison):
    del backend, weights, rows, ignores, delta, poison
    return levels[0].new_empty(sum(level.numel() for level in levels))


@custom_op(add_op_namespace_prefix("sorting_sums"), mutates_args=())
def sorting_sums(backend: str, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """`SortingSums` as one tensor (4, P) of the positives' dtype."""
    return torch.stack(BACKENDS[backend].sorting_sums(positives, quality, delta))


@sorting_sums.register_fake
def _(backend, positives, quality, delta):
    del backend, quality, delta
    return positives.new_empty((4, positives.shape[0]))


@custom_op(add_op_namespace_prefix("sorting_demotion"), mutates_args=())
def sorting_demotion(backend: str, spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """(P,) of the positives' dtype."""
    return BACKENDS[backend].sorting_demotion(spread, positives, quality, delta)


@sorting_demotion.register_fake
def _(backend, spread, positives, quality, delta):
    del backend, spread, quality, delta
    return torch.empty_like(positives)


@custom_op(add_op_namespace_prefix("weigh_positives"), mutates_args=())
def weigh_positives(backend: str, values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """(P,) float64."""
    return BACKENDS[backend].weigh_positives(values, positives, delta)


@weigh_positives.register_fake
def _(backend, values, positives, delta):
    del backend, values, delta
    return torch.empty_like(positives, dtype=torch.float64)
