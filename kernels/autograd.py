"""The torch.autograd.Functions of the losses: what forward keeps, and what backward does with it.

    P  positives of this process      R  those of all processes that share the ranking (P without a group)
    M  all logits of this process     V  parts of the loss, each with a value and an update of its own

Forward keeps the logits it was given and tables of the size of the positives; backward scatters straight into the
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

from .group import Shared
from .operators import Passes
from .reference import DensePart
from .scores import Counts, Update
from .targets import Examples, gather_levels, is_ignored
from .torch_chunks import computing_dtype

Score = Callable[[Counts], tuple[Update, ...]]  # called where there are positives
DenseEquations = Callable[[Tensor, Tensor, Tensor, Tensor, float], list[DensePart]]


class RankingLoss(Function):
    """The V values of `score` on `examples`, then both masses (R,); the levels come once more for autograd to see."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        # not by name: where two levels follow named arguments and nothing needs a gradient, Dynamo forgets ctx
        score: Score
        parts: int
        passes: Passes
        examples: Examples
        delta: float
        shared: Shared
        levels: list[Tensor]
        score, parts, passes, examples, delta, shared, *levels = arguments
        dtype = computing_dtype(levels[0].dtype)
        if not torch.compiler.is_compiling():  # Dynamo hands zeros all the same, and without gradients refuses the call
            ctx.set_materialize_grads(False)
        ctx.passes, ctx.delta, ctx.shared = passes, delta, shared
        ctx.shapes = [level.shape for level in levels]
        ctx.ignoring = [ignore is not None for ignore in examples.ignores]
        with torch.autocast(levels[0].device.type, enabled=False):
            own = gather_levels(examples.levels, examples.index).to(dtype)
            rows, quality = shared.gather(own), shared.gather(examples.quality.to(dtype))
            masses, poison = shared.add(*passes.count(rows, own, examples, delta))
            # in a graph of dense targets P is unknown, and the score has to bear with none
            if torch.compiler.is_compiling() or shared.total:
                updates = score(Counts(masses.false_positives, masses.true_positives, rows, quality, delta, passes))
            else:
                nothing = torch.zeros_like(masses.false_positives)
                updates = (Update(nothing, nothing, nothing),) * parts
            poison = poison + 0 * quality.sum()  # a NaN among the logits or the qualities is a NaN in every part
            values = [(update.error.sum() / shared.divisor + poison).to(dtype) for update in updates]
        ctx.spreads = [(update.negative_weight is not None, update.positive_weight is not None) for update in updates]
        tables = [table for update in updates for table in update[1:] if table is not None]
        ignores = [ignore for ignore in examples.ignores if ignore is not None]
        ctx.save_for_backward(*examples.levels, *ignores, examples.index, rows, quality, poison.to(dtype), *tables)
        ctx.mark_non_differentiable(*masses)
        return *values, *masses

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        levels = [saved.pop(0) for _ in ctx.shapes]
        ignores = [saved.pop(0) if ignoring else None for ignoring in ctx.ignoring]
        index, rows, quality, poison = (saved.pop(0) for _ in range(4))
        examples = Examples(levels, index, quality, ignores)
        shared: Shared = ctx.shared
        # averaged over the processes, as data-parallel training does it, gradients are those of the whole ranking
        share = shared.world / shared.divisor

        weights = torch.zeros(rows.shape, dtype=torch.float64, device=rows.device)
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
        with torch.autocast(rows.device.type, enabled=False):
            if sorts:
                demotion = ctx.passes.sorting_demotion(spread.to(rows.dtype), rows, quality, ctx.delta)
                own = own + demotion
            flat = ctx.passes.scatter_to_logits(weights, rows, examples, ctx.delta, poison)
            flat.index_copy_(0, index, (own[shared.own] + poison).to(flat.dtype))
        return None, None, None, None, None, None, *_shaped(flat, ctx.shapes)


class DenseLoss(Function):
    """The same from dense equations: O(P * M) memory, in the computing dtype."""

    @staticmethod
    def forward(
        ctx: Any, equations: DenseEquations, examples: Examples, delta: float, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        logits = torch.cat(examples.levels)
        masks = [
            torch.zeros_like(level, dtype=torch.bool) if ignore is None else is_ignored(ignore)
            for level, ignore in examples.pairs()
        ]
        with torch.autocast(logits.device.type, enabled=False):
            dense = equations(
                logits.to(computing_dtype(logits.dtype)), examples.index, examples.quality, torch.cat(masks), delta
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
