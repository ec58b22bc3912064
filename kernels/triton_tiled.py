"""Count on tiles of the positive-by-all matrix (Triton): a program owns a block of rows, the matrix is never stored.

    R  positives asked about, the rows       P  positives of `examples`       n  logits of one level, the columns
    s  logits                    y  qualities          d  delta

Masses are counted in whole units of 2^-30, finer than a float32 H near 1: integer sums are the same in any order, so
splitting the columns over programs costs no determinism, and the positives' own share can be taken out to the last bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .targets import Examples, Masses
from .torch_pairs import SortingSums
from .triton_step import finite, ignore_argument, inverse_width, launch_context, load_logits, step

INTERPRETED = not isinstance(step, triton.runtime.JITFunction)

# A tile of 16 x 128 pairs is 16 pairs a thread with 4 warps. One H fits an int32 (at most 2^30 units), a sum an int64.
BLOCK_P = 16
BLOCK_N = 128
UNITS = tl.constexpr(1073741824.0)
# Columns of one program: long enough to hide the loads of its rows, short enough to fill a GPU when P is small.
TILES_PER_PROGRAM = 32
# The interpreter pays per operation, whatever the tile.
if INTERPRETED:
    TILES_PER_PROGRAM = 4


@triton.jit
def count_kernel(
    logits_ptr,  # (n,) any float
    ignore_ptr,  # (n,) see IGNORE
    size,  # n
    positives_ptr,  # (R,) float32
    count,  # R
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
    positives = finite(tl.load(positives_ptr + rows, mask=rows < count, other=float("inf")))
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
            relation = step(logits[None, :] - positives[:, None], inverse_width, HARD)
            mass += tl.sum((relation * UNITS).to(tl.int32).to(tl.int64), 1)
    tl.atomic_add(mass_ptr + rows, mass, mask=rows < count)
    tl.atomic_max(nan_ptr, found_nan)


@triton.jit
def sorting_sums_kernel(
    positives_ptr,  # (P,) float32
    quality_ptr,  # (P,) float32
    count,  # P
    sums_ptr,  # (4, P) float32, the order of SortingSums
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    positives = finite(tl.load(positives_ptr + rows, mask=rows < count, other=0.0))
    quality = tl.load(quality_ptr + rows, mask=rows < count, other=0.0)
    better = tl.zeros((BLOCK_P,), tl.float32)
    missorted = tl.zeros((BLOCK_P,), tl.float32)
    deficit = tl.zeros((BLOCK_P,), tl.float32)
    surplus = tl.zeros((BLOCK_P,), tl.float32)
    for begin in range(0, count, BLOCK_N):
        columns = begin + tl.arange(0, BLOCK_N)
        inside = columns < count
        others = finite(tl.load(positives_ptr + columns, mask=inside, other=0.0))
        others = tl.where(inside, others, float("nan"))
        others_quality = tl.load(quality_ptr + columns, mask=inside, other=0.0)
        relation = step(others[None, :] - positives[:, None], inverse_width, HARD)
        gain = others_quality[None, :] - quality[:, None]
        better += tl.sum(tl.where(gain >= 0, relation, 0.0), 1)
        missorted += tl.sum(tl.where(gain < 0, relation, 0.0), 1)
        deficit += tl.sum(tl.where(gain < 0, -gain, 0.0) * relation, 1)
        surplus += tl.sum(tl.where(gain > 0, gain, 0.0) * relation, 1)
    tl.store(sums_ptr + rows, better, mask=rows < count)
    tl.store(sums_ptr + count + rows, missorted, mask=rows < count)
    tl.store(sums_ptr + 2 * count + rows, deficit, mask=rows < count)
    tl.store(sums_ptr + 3 * count + rows, surplus, mask=rows < count)


@triton.jit
def weigh_kernel(
    positives_ptr,  # (P,) float32
    values_ptr,  # (P,) float32
    count,  # P
    out_ptr,  # (P,) float32
    inverse_width,
    HARD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    positives = finite(tl.load(positives_ptr + rows, mask=rows < count, other=0.0))
    total = tl.zeros((BLOCK_P,), tl.float32)
    for begin in range(0, count, BLOCK_N):
        columns = begin + tl.arange(0, BLOCK_N)
        inside = columns < count
        others = finite(tl.load(positives_ptr + columns, mask=inside, other=0.0))
        values = tl.load(values_ptr + columns, mask=inside, other=0.0)
        relation = step(others[None, :] - positives[:, None], inverse_width, HARD)
        total += tl.sum(relation * values[None, :], 1)
    tl.store(out_ptr + rows, total, mask=rows < count)


def count(rows: Tensor, own: Tensor, examples: Examples, delta: float) -> Masses:
    """Per row the masses of false and of true positives, (R,) float64; see `portable.count`."""
    rows, own = rows.contiguous(), own.contiguous()
    every, among, taken_out = torch.zeros((3, len(rows)), dtype=torch.int64, device=rows.device)
    nan = torch.zeros((), dtype=torch.int32, device=rows.device)
    for level, ignore in examples.pairs():
        _add_mass(every, nan, level, ignore, rows, delta)
    _add_mass(among, nan, own, None, rows, delta)
    if examples.masked is None:
        taken_out = among
    else:
        _add_mass(taken_out, nan, own, examples.masked, rows, delta)
    masses = torch.stack([every - taken_out, among]).double() / UNITS.value
    return Masses(*torch.where(nan > 0, torch.nan, masses))


def weigh_positives(values: Tensor, positives: Tensor, delta: float) -> Tensor:
    """Per positive the sum of H over the positives, weighted by their `values`; see `pairs.weigh_positives`."""
    weighed = torch.empty_like(positives)
    if len(positives):
        constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
        with launch_context(positives):
            weigh_kernel[(triton.cdiv(len(positives), BLOCK_P),)](
                positives.contiguous(),
                values.contiguous(),
                len(positives),
                weighed,
                inverse_width(delta),
                **constants,
            )
    return weighed.double()


def sorting_sums(positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
    """The sums (P,) behind equations 7 and 8; see `pairs.sorting_sums`."""
    positives, quality = positives.contiguous(), quality.contiguous()
    count = len(positives)
    sums = torch.empty((4, count), dtype=torch.float32, device=positives.device)
    constants: dict[str, Any] = {"HARD": delta == 0, "BLOCK_P": BLOCK_P, "BLOCK_N": BLOCK_N}
    with launch_context(positives):
        sorting_sums_kernel[(triton.cdiv(count, BLOCK_P),)](
            positives,
            quality,
            count,
            sums,
            inverse_width(delta),
            **constants,
        )
    return SortingSums(*sums)


def _add_mass(mass: Tensor, nan: Tensor, logits: Tensor, ignore: Tensor | None, rows: Tensor, delta: float) -> None:
    if logits.numel() == 0 or len(rows) == 0:
        return
    ignore_pointer, ignore_kind = ignore_argument(logits, ignore)
    grid = (triton.cdiv(logits.numel(), BLOCK_N * TILES_PER_PROGRAM), triton.cdiv(len(rows), BLOCK_P))
    constants: dict[str, Any] = {
        "HARD": delta == 0,
        "IGNORE": ignore_kind,
        "BLOCK_P": BLOCK_P,
        "BLOCK_N": BLOCK_N,
        "TILES": TILES_PER_PROGRAM,
    }
    with launch_context(logits):
        count_kernel[grid](
            logits,
            ignore_pointer,
            logits.numel(),
            rows,
            len(rows),
            mass,
            nan,
            delta,
            inverse_width(delta),
            **constants,
        )
