"""The torch.autograd.Functions of the losses: what forward saves, and how backward makes the gradient of it.

    P  positives of this process      M  logits of this process      S  segments, the rankings of one call

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
from torch.distributed import ProcessGroup

from .backends import Backend
from .places import is_ignored, level_offsets
from .reference import DensePart
from .scores import Loss
from .targets import Ranking

# (logits (M,), index (P,), quality (P,), ignore (M,), delta; of aLRP localisation errors (P,)) -> the parts of a loss
DenseEquations = Callable[..., list[DensePart]]


class RankingLoss(Function):
    """The values of a loss, () or (S,) each, those of its updates and of aLRP's localisation part.

    The levels come once more for autograd to see, and the localisation errors (P,), or None, for aLRP.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        # not by name: where two levels follow named arguments and nothing needs a gradient, Dynamo forgets ctx
        loss: Loss
        backend: Backend
        ranking: Ranking
        delta: float
        process_group: ProcessGroup | None
        errors: Tensor | None
        levels: list[Tensor]
        loss, backend, ranking, delta, process_group, errors, *levels = arguments
        if not torch.compiler.is_compiling():  # Dynamo passes zeros in any case, and without gradients refuses the call
            ctx.set_materialize_grads(False)
        ctx.backend, ctx.delta, ctx.segments = backend, delta, ranking.segments
        ctx.shapes = [level.shape for level in levels]
        ctx.ignoring = [ignore is not None for ignore in ranking.ignores]
        ctx.padded = ranking.valid is not None
        ctx.error_dtype = None if errors is None else errors.dtype
        with torch.autocast(levels[0].device.type, enabled=False):
            values, saved, ctx.kept = backend.forward(loss, ranking, delta, process_group, errors)
        ignores = [ignore for ignore in ranking.ignores if ignore is not None]
        valid = [] if ranking.valid is None else [ranking.valid]
        ctx.save_for_backward(*ranking.levels, *ignores, *valid, ranking.index, ranking.quality, *saved)
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)  # Dynamo of torch 2.11 cannot pop from it
        levels = [next(saved) for _ in ctx.shapes]
        ignores = [next(saved) if ignoring else None for ignoring in ctx.ignoring]
        valid = next(saved) if ctx.padded else None
        index, quality = next(saved), next(saved)
        ranking = Ranking(levels, index, quality, ignores, ctx.segments, valid)
        backend: Backend = ctx.backend
        with torch.autocast(index.device.type, enabled=False):
            gradients, error_gradient = backend.backward(ranking, list(saved), ctx.kept, list(upstream), ctx.delta)
        if error_gradient is not None:
            error_gradient = error_gradient.to(ctx.error_dtype)
        shaped = [gradient.view(shape) for gradient, shape in zip(gradients, ctx.shapes, strict=True)]
        return None, None, None, None, None, error_gradient, *shaped


class DenseLoss(Function):
    """The same from dense equations: O(P * M) memory, in the computing dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        equations: DenseEquations,
        ranking: Ranking,
        delta: float,
        errors: Tensor | None,  # (P,), of aLRP alone
        *levels: Tensor,
    ) -> tuple[Tensor, ...]:
        logits = torch.cat(ranking.levels)
        masks = [
            torch.zeros_like(level, dtype=torch.bool) if ignore is None else is_ignored(ignore)
            for level, ignore in ranking.levels_with_ignores()
        ]
        with torch.autocast(logits.device.type, enabled=False):
            values, gradients = _dense_parts(equations, ranking, logits, torch.cat(masks), delta, errors)
        ctx.set_materialize_grads(False)
        ctx.shapes = [level.shape for level in levels]
        ctx.segments = ranking.segments
        ctx.dtype = logits.dtype
        ctx.save_for_backward(*gradients)
        return tuple(values)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        flat = torch.zeros_like(ctx.saved_tensors[0][0])
        for gradients, scale in zip(ctx.saved_tensors, upstream, strict=True):
            if scale is not None:
                flat = flat + (gradients * scale.reshape(-1, 1)).sum(0)
        parts = flat.to(ctx.dtype).split([shape.numel() for shape in ctx.shapes])
        return None, None, None, None, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


def _dense_parts(
    equations: DenseEquations, ranking: Ranking, logits: Tensor, ignored: Tensor, delta: float, errors: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The values () or (S,) of the parts of a loss, and their gradients (S, M), with 0 outside their segment."""
    logits = logits.to(ranking.computing_dtype)
    valid = torch.ones_like(ranking.index, dtype=torch.bool) if ranking.valid is None else ranking.valid
    of_positives = ranking.segment_of_positives()
    of_logits = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    begins = level_offsets(ranking.levels)
    for segment in range(ranking.segments.number):
        for level, begin, end in ranking.segments.ranges(segment):
            of_logits[begins[level] + begin : begins[level] + end] = segment
    values, gradients = [], []
    for segment in range(ranking.segments.number):
        chosen = valid & (of_positives == segment)
        # the logits of other segments are as good as ignored
        elsewhere = ignored | (of_logits != segment)
        extra = [] if errors is None else [errors[chosen]]
        parts = equations(logits, ranking.index[chosen], ranking.quality[chosen], elsewhere, delta, *extra)
        values.append([part.value for part in parts])
        gradients.append([part.gradient for part in parts])
    shape = ranking.segments.shape
    return [torch.stack(part).reshape(shape) for part in zip(*values, strict=True)], [
        torch.stack(part) for part in zip(*gradients, strict=True)
    ]
