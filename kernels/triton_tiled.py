"""The passes over the logits (`passes.LogitPasses`) on tiles of the matrix H, which is never stored (Triton).

    R  positives of the ranking, the rows      P  those of this process      n  logits of one level, the columns
    s  logits      d  delta      w  weights of the scatter

Count: a program owns a block of rows. Masses are added in whole units of 2^-30, finer than a float32 H near 1: integer
sums are the same in any order, so the columns can be split over programs, and the share of the positives can be taken
out to the last bit. Scatter: a program owns a block of columns and writes each once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .passes import Masses
from .targets import Ranking
from .torch_chunks import masses_of_nothing
from .triton_step import (
    INTERPRETED,
    clamp_infinities,
    ignore_argument,
    inverse_width,
    launch_context,
    load_logits,
    step,
)

BLOCK_P = 16
# Count: 16 x 128 pairs are 16 pairs a thread with 4 warps. One H fits an int32 (at most 2^30 units), a sum an int64.
COUNT_BLOCK_N = 128
H_UNITS = tl.constexpr(1073741824.0)
# Columns of one program: long enough to hide the loads of its rows, short enough to fill a GPU when R is small. The
# interpreter pays per operation, whatever the tile.
TILES_PER_PROGRAM = 4 if INTERPRETED else 32
# Scatter: 16 x 256 pairs are 32 registers a thread with 4 warps; wide in the columns, which are read and written once.
SCATTER_BLOCK_N = 256


@triton.jit
def count_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    size,  # n
    positives_ptr,  # (R,) float32
    positives_size,  # R
    mass_ptr,  # (R,) int64, units of H, added to
    nan_ptr,  # () int32, set to 1 where a logit that counts is NaN
    delta,
    inverse_width,
    HARD: tl.constexpr,
    IGNORE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILES: tl.constexpr,
):
    rows = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    positives = clamp_infinities(tl.load(positives_ptr + rows, mask=rows < positives_size, other=float("inf")))
    reach = tl.min(positives, 0) - delta
    begin = tl.program_id(0).to(tl.int64) * (TILES * BLOCK_N)
    mass = tl.zeros((BLOCK_P,), tl.int64)
    found_nan = tl.zeros((), tl.int32)
    for tile in range(TILES):
        offsets = begin + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        logits, counted = load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE)
        found_nan = tl.maximum(found_nan, tl.max((counted & (logits != logits)).to(tl.int32), 0))
        highest = tl.max(tl.where(logits == logits, logits, float("-inf")), 0)
        if highest >= reach:
            steps = step(logits[None, :] - positives[:, None], inverse_width, HARD)
            mass += tl.sum((steps * H_UNITS).to(tl.int32).to(tl.int64), 1)
    tl.atomic_add(mass_ptr + rows, mass, mask=rows < positives_size)
    tl.atomic_max(nan_ptr, found_nan)


@triton.jit
def scatter_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    out_ptr,  # (n,) float, every entry written
    size,  # n
    positives_ptr,  # (R,) float32, ascending
    weights_ptr,  # (R,) float32
    poison_ptr,  # () float32, 0 or NaN, added to every logit that is not ignored
    positives_size,  # R
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
    if highest >= clamp_infinities(tl.load(positives_ptr)) - delta:
        for begin in range(0, positives_size, BLOCK_P):
            # ascending: once the block's first positive is out of reach, so are the others
            if highest >= clamp_infinities(tl.load(positives_ptr + begin)) - delta:
                rows = begin + tl.arange(0, BLOCK_P)
                inside = rows < positives_size
                positives = clamp_infinities(tl.load(positives_ptr + rows, mask=inside, other=0.0))
                weights = tl.load(weights_ptr + rows, mask=inside, other=0.0)
                steps = step(logits[None, :] - positives[:, None], inverse_width, HARD)
                total += tl.sum(steps * weights[:, None], 0)
    total = tl.where(counted, total + tl.load(poison_ptr), 0.0)
    tl.store(out_ptr + offsets, total.to(out_ptr.dtype.element_ty), mask=offsets < size)


def count(positives: Tensor, own: Tensor, ranking: Ranking, delta: float) -> Masses:
    if len(positives) == 0:
        return masses_of_nothing(positives, ranking)
    positives, own = positives.contiguous(), own.contiguous()
    every, among, taken_out = torch.zeros((3, len(positives)), dtype=torch.int64, device=positives.device)
    nan = torch.zeros((), dtype=torch.int32, device=positives.device)
    for level, ignore in ranking.levels_with_ignores():
        _add_mass(every, nan, level, ignore, positives, delta)
    _add_mass(among, nan, own, None, positives, delta)
    if ranking.masked is None:
        taken_out = among
    else:
        _add_mass(taken_out, nan, own, ranking.masked, positives, delta)
    masses = torch.stack([every - taken_out, among]).double() / H_UNITS.value
    false_positives, true_positives = torch.where(nan > 0, torch.nan, masses)
    return Masses(false_positives, true_positives, 0 * false_positives.sum())


def _add_mass(
    mass: Tensor,  # (R,) int64, added to
    nan: Tensor,  # () int32, set to 1 where a logit is NaN
    logits: Tensor,  # (n,)
    ignore: Tensor | None,  # (n,)
    positives: Tensor,  # (R,)
    delta: float,
) -> None:
    if logits.numel() == 0:
        return
    pointer, kind = ignore_argument(logits, ignore)
    grid = (triton.cdiv(logits.numel(), COUNT_BLOCK_N * TILES_PER_PROGRAM), triton.cdiv(len(positives), BLOCK_P))
    constants: dict[str, Any] = {
        "HARD": delta == 0,
        "IGNORE": kind,
        "BLOCK_P": BLOCK_P,
        "BLOCK_N": COUNT_BLOCK_N,
        "TILES": TILES_PER_PROGRAM,
    }
    with launch_context(logits):
        count_kernel[grid](
            logits,
            pointer,
            logits.numel(),
            positives,
            len(positives),
            mass,
            nan,
            delta,
            inverse_width(delta),
            **constants,
        )


def scatter(
    weights: Tensor, positives: Tensor, ranking: Ranking, delta: float, poison: Tensor, *, reuse: object | None = None
) -> Tensor:
    del reuse
    if len(positives) == 0:  # the kernel needs something to load: a positive that no logit reaches
        positives, weights = positives.new_full((1,), torch.inf), weights.new_zeros(1)
    positives, order = positives.sort()
    weights = weights[order].float()
    flat, parts = ranking.new_gradient()
    for (level, ignore), part in zip(ranking.levels_with_ignores(), parts, strict=True):
        if level.numel() == 0:
            continue
        pointer, kind = ignore_argument(level, ignore)
        constants: dict[str, Any] = {
            "HARD": delta == 0,
            "IGNORE": kind,
            "BLOCK_P": BLOCK_P,
            "BLOCK_N": SCATTER_BLOCK_N,
        }
        with launch_context(level):
            scatter_kernel[(triton.cdiv(level.numel(), SCATTER_BLOCK_N),)](
                level,
                pointer,
                part,
                level.numel(),
                positives,
                weights,
                poison,
                len(positives),
                delta,
                inverse_width(delta),
                **constants,
            )
    return flat
