"""Scatter on tiles of the positive-by-all matrix (Triton): a program owns a block of columns and writes each once.

R  positives asked about, the rows, by ascending logit      P  positives      n  logits of one level, the columns
s  logits          y  qualities          w  what each positive spreads over what outranks it
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .targets import Examples
from .triton_step import finite, ignore_argument, inverse_width, launch_context, load_logits, step

# 16 x 256 pairs are 32 registers a thread with 4 warps; wide in the columns, which are read and written once.
BLOCK_P = 16
BLOCK_N = 256


@triton.jit
def scatter_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    out_ptr,  # (n,) float, every entry written
    size,  # n
    positives_ptr,  # (R,) float32, ascending
    weights_ptr,  # (R,) float32
    poison_ptr,  # () float32, 0 or NaN, added to every logit that is not ignored
    count,  # R
    delta,
    inverse_width,
    HARD: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    logits, counted = load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE)
    highest = tl.max(tl.where(logits == logits, logits, float("-inf")), 0)
    total = tl.zeros((BLOCK_N,), tl.float32)
    if highest >= finite(tl.load(positives_ptr)) - delta:
        for begin in range(0, count, BLOCK_P):
            # ascending: once the block's first positive is out of reach, so are the others
            if highest >= finite(tl.load(positives_ptr + begin)) - delta:
                rows = begin + tl.arange(0, BLOCK_P)
                inside = rows < count
                positives = finite(tl.load(positives_ptr + rows, mask=inside, other=0.0))
                weights = tl.load(weights_ptr + rows, mask=inside, other=0.0)
                relation = step(logits[None, :] - positives[:, None], inverse_width, HARD)
                total += tl.sum(relation * weights[:, None], 0)
    total = tl.where(counted, total + tl.load(poison_ptr), 0.0)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=offsets < size)


@triton.jit
def sorting_demotion_kernel(
    positives_ptr,  # (P,) float32
    quality_ptr,  # (P,) float32
    spread_ptr,  # (P,) float32
    out_ptr,  # (P,) float32
    count,  # P
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    positives = finite(tl.load(positives_ptr + columns, mask=columns < count, other=0.0))
    quality = tl.load(quality_ptr + columns, mask=columns < count, other=0.0)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for begin in range(0, count, BLOCK_P):
        rows = begin + tl.arange(0, BLOCK_P)
        inside = rows < count
        others = finite(tl.load(positives_ptr + rows, mask=inside, other=0.0))
        others_quality = tl.load(quality_ptr + rows, mask=inside, other=0.0)
        spread = tl.load(spread_ptr + rows, mask=inside, other=0.0)
        relation = step(positives[None, :] - others[:, None], inverse_width, HARD)
        wrongly = quality[None, :] < others_quality[:, None]
        total += tl.sum(tl.where(wrongly, relation * spread[:, None], 0.0), 0)
    tl.store(out_ptr + columns, total, mask=columns < count)


def scatter_to_logits(
    weights: Tensor, rows: Tensor, examples: Examples, delta: float, out: Tensor, poison: Tensor
) -> None:
    """Writes the sum of w_i H(s_j - s_i) over the rows i, plus `poison`; see `portable.scatter_to_logits`."""
    if len(rows) == 0:  # one positive that nobody is below, so that the kernel has something to load
        rows, weights = rows.new_full((1,), torch.inf), weights.new_zeros(1)
    rows, order = rows.sort()
    weights = weights[order].float()
    parts = out.split([level.numel() for level in examples.levels])
    for level, ignore, part in zip(examples.levels, examples.ignores, parts, strict=True):
        if level.numel() == 0:
            continue
        ignore_pointer, ignore_kind = ignore_argument(level, ignore)
        constants: dict[str, Any] = {"HARD": delta == 0, "IGNORE": ignore_kind, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
        with launch_context(level):
            scatter_kernel[(triton.cdiv(level.numel(), BLOCK_N),)](
                level,
                ignore_pointer,
                part,
                level.numel(),
                rows,
                weights,
                poison,
                len(rows),
                delta,
                inverse_width(delta),
                **constants,
            )


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    """What positives push each positive down by, (P,); see `pairs.sorting_demotion`."""
    demotion = torch.empty_like(positives)
    if len(positives) == 0:
        return demotion
    constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
    with launch_context(positives):
        sorting_demotion_kernel[(triton.cdiv(len(positives), BLOCK_N),)](
            positives.contiguous(),
            quality.contiguous(),
            spread.contiguous(),
            demotion,
            len(positives),
            inverse_width(delta),
            **constants,
        )
    return demotion
