"""The passes over pairs of positives (`passes.PairPasses`), on tiles (Triton).

    R  positives of the ranking      s  logits      y  qualities

Every program loops over all positives in a fixed order, so float32 sums have the same bits every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .passes import SortingSums
from .triton_step import clamp_infinities, inverse_width, launch_context, step

BLOCK_P = 16
# A program that sums over columns owns BLOCK_P rows: 16 x 128 pairs are 16 pairs a thread with 4 warps. A program that
# sums over rows owns DEMOTION_BLOCK_N columns.
BLOCK_N = 128
DEMOTION_BLOCK_N = 256


@triton.jit
def sorting_sums_kernel(
    positives_ptr,  # (R,) float32
    quality_ptr,  # (R,) float32
    positives_size,  # R
    sums_ptr,  # (4, R) float32, the order of SortingSums
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    positives = clamp_infinities(tl.load(positives_ptr + rows, mask=rows < positives_size, other=0.0))
    quality = tl.load(quality_ptr + rows, mask=rows < positives_size, other=0.0)
    better = tl.zeros((BLOCK_P,), tl.float32)
    missorted = tl.zeros((BLOCK_P,), tl.float32)
    deficit = tl.zeros((BLOCK_P,), tl.float32)
    surplus = tl.zeros((BLOCK_P,), tl.float32)
    for begin in range(0, positives_size, BLOCK_N):
        columns = begin + tl.arange(0, BLOCK_N)
        inside = columns < positives_size
        others = clamp_infinities(tl.load(positives_ptr + columns, mask=inside, other=0.0))
        others = tl.where(inside, others, float("nan"))
        others_quality = tl.load(quality_ptr + columns, mask=inside, other=0.0)
        steps = step(others[None, :] - positives[:, None], inverse_width, HARD)
        gain = others_quality[None, :] - quality[:, None]
        better += tl.sum(tl.where(gain >= 0, steps, 0.0), 1)
        missorted += tl.sum(tl.where(gain < 0, steps, 0.0), 1)
        deficit += tl.sum(tl.where(gain < 0, -gain, 0.0) * steps, 1)
        surplus += tl.sum(tl.where(gain > 0, gain, 0.0) * steps, 1)
    tl.store(sums_ptr + rows, better, mask=rows < positives_size)
    tl.store(sums_ptr + positives_size + rows, missorted, mask=rows < positives_size)
    tl.store(sums_ptr + 2 * positives_size + rows, deficit, mask=rows < positives_size)
    tl.store(sums_ptr + 3 * positives_size + rows, surplus, mask=rows < positives_size)


@triton.jit
def sorting_demotion_kernel(
    positives_ptr,  # (R,) float32
    quality_ptr,  # (R,) float32
    spread_ptr,  # (R,) float32
    out_ptr,  # (R,) float32
    positives_size,  # R
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    positives = clamp_infinities(tl.load(positives_ptr + columns, mask=columns < positives_size, other=0.0))
    quality = tl.load(quality_ptr + columns, mask=columns < positives_size, other=0.0)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for begin in range(0, positives_size, BLOCK_P):
        rows = begin + tl.arange(0, BLOCK_P)
        inside = rows < positives_size
        others = clamp_infinities(tl.load(positives_ptr + rows, mask=inside, other=0.0))
        others_quality = tl.load(quality_ptr + rows, mask=inside, other=0.0)
        spread = tl.load(spread_ptr + rows, mask=inside, other=0.0)
        steps = step(positives[None, :] - others[:, None], inverse_width, HARD)
        wrongly = quality[None, :] < others_quality[:, None]
        total += tl.sum(tl.where(wrongly, steps * spread[:, None], 0.0), 0)
    tl.store(out_ptr + columns, total, mask=columns < positives_size)


@triton.jit
def weigh_kernel(
    positives_ptr,  # (R,) float32
    values_ptr,  # (R,) float32
    positives_size,  # R
    out_ptr,  # (R,) float32
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    positives = clamp_infinities(tl.load(positives_ptr + rows, mask=rows < positives_size, other=0.0))
    total = tl.zeros((BLOCK_P,), tl.float32)
    for begin in range(0, positives_size, BLOCK_N):
        columns = begin + tl.arange(0, BLOCK_N)
        inside = columns < positives_size
        others = clamp_infinities(tl.load(positives_ptr + columns, mask=inside, other=0.0))
        values = tl.load(values_ptr + columns, mask=inside, other=0.0)
        steps = step(others[None, :] - positives[:, None], inverse_width, HARD)
        total += tl.sum(steps * values[None, :], 1)
    tl.store(out_ptr + rows, total, mask=rows < positives_size)


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    size = len(positives)
    sums = torch.empty((4, size), dtype=torch.float32, device=positives.device)
    constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
    with launch_context(positives):
        sorting_sums_kernel[(triton.cdiv(size, BLOCK_P),)](
            positives.contiguous(), quality.contiguous(), size, sums, inverse_width(delta), **constants
        )
    return SortingSums(*sums)


def sorting_demotion(spread: Tensor, positives: Tensor, quality: Tensor, delta: float) -> Tensor:
    size = len(positives)
    demotion = torch.empty_like(positives)
    if size:
        tensors = positives.contiguous(), quality.contiguous(), spread.contiguous()
        constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": DEMOTION_BLOCK_N}
        with launch_context(positives):
            sorting_demotion_kernel[(triton.cdiv(size, DEMOTION_BLOCK_N),)](
                *tensors, demotion, size, inverse_width(delta), **constants
            )
    return demotion


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    size = len(positives)
    weighed = torch.empty_like(positives)
    if size:
        constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
        with launch_context(positives):
            weigh_kernel[(triton.cdiv(size, BLOCK_P),)](
                positives.contiguous(), values.contiguous(), size, weighed, inverse_width(delta), **constants
            )
    return weighed.double()
