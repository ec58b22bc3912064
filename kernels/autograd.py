"""The torch.autograd.Functions of the losses: what forward keeps, and what backward does with it.

    P  positives      M  all logits

Forward keeps the logits it was given and tables of the size of the positives; backward scatters straight into the
gradient, already scaled by the upstream gradients. Nothing of size M lives between the two.

The backward pass is the paper's Identity Update and not the derivative of the value, so torch.autograd.gradcheck must
fail.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .backends import Backend
from .chunks import any_nan, computing_dtype
from .reference import dense_rank_sort
from .scores import RankSortScores, rank_sort_scores
from .targets import Examples, gather_levels, is_ignored


class RankSort(Function):
    """(ranking, sorting) of `examples`; the levels are handed over a second time for autograd to see them."""

    @staticmethod
    def forward(ctx: Any, backend: Backend, examples: Examples, delta: float, *levels: Tensor) -> tuple[Tensor, Tensor]:
        dtype = computing_dtype(levels[0].dtype)
        ctx.set_materialize_grads(False)
        ctx.backend, ctx.delta, ctx.shapes = backend, delta, [level.shape for level in levels]
        ctx.present = [ignore is not None for ignore in examples.ignores]
        count = len(examples.index)
        positives = gather_levels(examples.levels, examples.index).to(dtype)
        quality = examples.quality.to(dtype)
        with torch.autocast(levels[0].device.type, enabled=False):
            if count:
                false_positives = backend.count_false_positives(positives, examples, delta)
                sums = backend.sorting_sums(positives, quality, delta)
                scores = rank_sort_scores(false_positives, sums)
                # a NaN among the logits or the qualities is a NaN in both
                poison = 0 * (false_positives.sum() + quality.sum())
                ranking = (scores.ranking_error.mean() + poison).to(dtype)
                sorting = (scores.sorting_error.mean() + poison).to(dtype)
            else:
                scores = RankSortScores(*[positives.double()] * len(RankSortScores._fields))
                ranking = torch.where(any_nan(examples.pairs()), torch.nan, 0.0).to(dtype)
                sorting = ranking.clone()
        ctx.save_for_backward(
            *examples.levels,
            *[ignore for ignore in examples.ignores if ignore is not None],
            examples.index,
            positives,
            quality,
            ranking,
            *scores,
        )
        return ranking, sorting

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        levels = [saved.pop(0) for _ in ctx.shapes]
        ignores = [saved.pop(0) if present else None for present in ctx.present]
        index, positives, quality, ranking = (saved.pop(0) for _ in range(4))
        scores = RankSortScores(*saved)
        examples = Examples(levels, index, quality, ignores)
        upstream_ranking, upstream_sorting = upstream
        if upstream_ranking is None and upstream_sorting is None:
            return None, None, None, *[None] * len(levels)

        count = max(len(index), 1)
        flat = levels[0].new_empty(sum(level.numel() for level in levels))
        poison = 0 * ranking  # NaN where the loss is
        own = poison.expand_as(positives)
        weights = torch.zeros_like(scores.negative_weight)
        with torch.autocast(flat.device.type, enabled=False):
            if upstream_ranking is not None:
                scale = upstream_ranking.double() / count
                weights = scores.negative_weight * scale
                own = own - (scores.ranking_promotion * scale).to(own.dtype)
            if upstream_sorting is not None:
                scale = upstream_sorting.double() / count
                spread = (scores.sorting_spread * scale).to(own.dtype)
                demotion = ctx.backend.sorting_demotion(spread, positives, quality, ctx.delta)
                own = own + (demotion - (scores.sorting_promotion * scale).to(own.dtype))
            ctx.backend.scatter_to_logits(weights, positives, examples, ctx.delta, flat, poison)
            flat.index_copy_(0, index, own.to(flat.dtype))
        return None, None, None, *_shaped(flat, ctx.shapes)


class DenseRankSort(Function):
    """The same from the dense equations: O(P * M) memory, in the computing dtype."""

    @staticmethod
    def forward(ctx: Any, examples: Examples, delta: float, *levels: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.cat(examples.levels)
        masks = [
            torch.zeros_like(level, dtype=torch.bool) if ignore is None else is_ignored(ignore)
            for level, ignore in examples.pairs()
        ]
        with torch.autocast(logits.device.type, enabled=False):
            dense = dense_rank_sort(
                logits.to(computing_dtype(logits.dtype)), examples.index, examples.quality, torch.cat(masks), delta
            )
        ctx.set_materialize_grads(False)
        ctx.shapes = [level.shape for level in levels]
        ctx.dtype = logits.dtype
        ctx.save_for_backward(dense.ranking_grad, dense.sorting_grad)
        return dense.ranking, dense.sorting

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the name of ctx
        ctx: Any, *upstream: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        flat = torch.zeros_like(ctx.saved_tensors[0])
        for gradient, scale in zip(ctx.saved_tensors, upstream, strict=True):
            if scale is not None:
                flat = flat + gradient * scale
        return None, None, *_shaped(flat.to(ctx.dtype), ctx.shapes)


def _shaped(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """The gradients of the levels as views of one buffer (M,)."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
