"""The torch.autograd.Functions of the losses: what forward saves, and how backward makes the gradient of it.

    R  positives of the ranking, those of all its processes      P  positives of this process
    M  logits of this process      V  parts of the loss, each with a value and an update of its own

Forward saves the logits it was given and tables of the size of the positives; backward scatters straight into the
gradient, already scaled by the upstream gradients. Nothing of size M lives between the two.

The backward pass is the paper's Identity Update and not the derivative of the value, so torch.autograd.gradcheck must
fail.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .backends import Backend
from .group import Group
from .places import gather_levels, is_ignored
from .reference import DensePart
from .scores import Counts, Update
from .targets import Ranking

Score = Callable[[Counts], tuple[Update, ...]]  # called where there are positives
# (logits (M,), index (P,), quality (P,), ignore (M,), delta) -> the parts of a loss
DenseEquations = Callable[[Tensor, Tensor, Tensor, Tensor, float], list[DensePart]]


class RankingLoss(Function):
    """The V values of `score` on a ranking, then both masses (R,); the levels come once more for autograd to see."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        # not by name: where two levels follow named arguments and nothing needs a gradient, Dynamo forgets ctx
        score: Score
        parts: int
        backend: Backend
        ranking: Ranking
        delta: float
        group: Group
        levels: list[Tensor]
        score, parts, backend, ranking, delta, group, *levels = arguments
        dtype = ranking.computing_dtype
        if not torch.compiler.is_compiling():  # Dynamo passes zeros in any case, and without gradients refuses the call
            ctx.set_materialize_grads(False)
        ctx.backend, ctx.delta, ctx.group = backend, delta, group
        ctx.shapes = [level.shape for level in levels]
        ctx.ignoring = [ignore is not None for ignore in ranking.ignores]
        with torch.autocast(levels[0].device.type, enabled=False):
            own = gather_levels(ranking.levels, ranking.index).to(dtype)
            positives, quality = group.gather(own), group.gather(ranking.quality.to(dtype))
            masses = backend.logits.count(positives, own, ranking, delta)
            ctx.reuse = masses.reuse
            masses = group.add(masses)
            # in a compiled graph with dense targets P is unknown: there a score is called without positives too
            if torch.compiler.is_compiling() or group.total:
                counts = Counts(masses.false_positives, masses.true_positives, positives, quality, delta, backend.pairs)
                updates = score(counts)
            else:
                nothing = torch.zeros_like(masses.false_positives)
                updates = (Update(nothing, nothing, nothing),) * parts
            poison = masses.poison + 0 * quality.sum()  # a NaN logit or quality makes every part NaN
            values = [(update.error.sum() / group.divisor + poison).to(dtype) for update in updates]
        ctx.spreads = [(update.negative_weight is not None, update.positive_weight is not None) for update in updates]
        tables = [table for update in updates for table in update[1:] if table is not None]
        ignores = [ignore for ignore in ranking.ignores if ignore is not None]
        ctx.save_for_backward(*ranking.levels, *ignores, ranking.index, positives, quality, poison.to(dtype), *tables)
        ctx.mark_non_differentiable(masses.false_positives, masses.true_positives)
        return *values, masses.false_positives, masses.true_positives

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        levels = [saved.pop(0) for _ in ctx.shapes]
        ignores = [saved.pop(0) if ignoring else None for ignoring in ctx.ignoring]
        index, positives, quality, poison = (saved.pop(0) for _ in range(4))
        ranking = Ranking(levels, index, quality, ignores)
        backend: Backend = ctx.backend
        group: Group = ctx.group
        # data-parallel training averages gradients over the processes: the average is that of the whole ranking
        share = group.size / group.divisor

        weights = torch.zeros(positives.shape, dtype=torch.float64, device=positives.device)
        spread, own = torch.zeros_like(weights), torch.zeros_like(weights)
        sorts = False
        for gradient, (has_negative, has_positive) in zip(upstream, ctx.spreads, strict=False):
            promotion = saved.pop(0)
            negative_weight = saved.pop(0) if has_negative else None
            positive_weight = saved.pop(0) if has_positive else None
            if gradient is None:
                continue
            scale = gradient.double() * share
            own = own - promotion * scale
            if negative_weight is not None:
                weights = weights + negative_weight * scale
            if positive_weight is not None:
                spread, sorts = spread + positive_weight * scale, True
        with torch.autocast(positives.device.type, enabled=False):
            if sorts:
                own = own + backend.pairs.sorting_demotion(spread.to(positives.dtype), positives, quality, ctx.delta)
            flat = backend.logits.scatter(weights, positives, ranking, ctx.delta, poison, reuse=ctx.reuse)
            flat.index_copy_(0, index, (own[group.own] + poison).to(flat.dtype))
        return None, None, None, None, None, None, *_shaped(flat, ctx.shapes)


class DenseLoss(Function):
    """The same from dense equations: O(P * M) memory, in the computing dtype."""

    @staticmethod
    def forward(
        ctx: Any, equations: DenseEquations, ranking: Ranking, delta: float, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        logits = torch.cat(ranking.levels)
        masks = [
            torch.zeros_like(level, dtype=torch.bool) if ignore is None else is_ignored(ignore)
            for level, ignore in ranking.levels_with_ignores()
        ]
        with torch.autocast(logits.device.type, enabled=False):
            dense = equations(
                logits.to(ranking.computing_dtype), ranking.index, ranking.quality, torch.cat(masks), delta
            )
        ctx.set_materialize_grads(False)
        ctx.shapes = [level.shape for level in levels]
        ctx.dtype = logits.dtype
        ctx.save_for_backward(*(part.gradient for part in dense))
        return tuple(part.value for part in dense)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        flat = torch.zeros_like(ctx.saved_tensors[0])
        for gradient, scale in zip(ctx.saved_tensors, upstream, strict=True):
            if scale is not None:
                flat = flat + gradient * scale
        return None, None, None, *_shaped(flat.to(ctx.dtype), ctx.shapes)


def _shaped(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """The gradients of the levels as views of one buffer (M,)."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
