"""H on a tile, infinities made finite, a tile's logits, and the launch context: shared by all Triton kernels.

    n  logits of one level      s  logits, widened to float32 right after every load      d  delta

`torch_step.py` is the same in torch operators.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# What `Ranking.ignores` has for a level.
IGNORE_NOTHING = 0
IGNORE_MASKED = 1  # uint8, not 0
IGNORE_NEGATIVE = 2  # labels below 0

# A logit beyond it counts as infinite: far from any real one, and the difference of two such numbers is finite.
LARGEST = tl.constexpr(1e30)


@triton.jit
def clamp_infinities(logits):
    """Infinities as large finite numbers: two equal ones differ by 0 and not by NaN. Enough for a tile of H."""
    return tl.where(logits > LARGEST, LARGEST, tl.where(logits < -LARGEST, -LARGEST, logits))


@triton.jit
def replace_infinities(logits, lowest, highest, minus, plus):
    """Logits at finite distances and with the same H against every positive; a NaN stays one. For the breakpoints.

    The twin of `torch_step.replace_infinities`, but always on, because the host must not read a value. That is as
    exact: a logit 2 d or more away from all finite positives has the H of one at that distance. An infinite logit is
    one by itself, whatever the bounds: beside positives of nearly 1e30 they lie beyond it.
    """
    finite = tl.where(logits > highest, highest, tl.where(logits < lowest, lowest, logits))
    return tl.where(logits >= LARGEST, plus, tl.where(logits <= -LARGEST, minus, finite))


@triton.jit
def load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE: tl.constexpr):
    """A tile's logits in float32, and the bool mask of those that count; the others are -infinity, for which H is 0.

    An infinite logit that counts is finite here, so that it may tie with a positive.
    """
    counted = offsets < size
    if IGNORE == 1:
        counted = counted & (tl.load(ignore_ptr + offsets, mask=counted, other=1) == 0)
    if IGNORE == 2:
        counted = counted & (tl.load(ignore_ptr + offsets, mask=counted, other=-1).to(tl.float32) >= 0)
    logits = tl.load(logits_ptr + offsets, mask=counted, other=0.0).to(tl.float32)
    return tl.where(counted, clamp_infinities(logits), float("-inf")), counted


@triton.jit
def step(difference, inverse_width, HARD: tl.constexpr):
    """H on a tile, see `torch_step.step`; 0 for NaN, because every comparison with NaN is false."""
    if HARD:
        return tl.where(difference >= 0, 1.0, 0.0)
    ramp = difference * inverse_width + 0.5
    return tl.where(ramp >= 1.0, 1.0, tl.where(ramp > 0.0, ramp, 0.0))


INTERPRETED = not isinstance(step, triton.runtime.JITFunction)


def inverse_width(delta: float) -> float:
    """1 / 2 delta, the slope of H; 0 for a hard step."""
    return 1 / (2 * delta) if delta > 0 else 0.0


def ignore_argument(logits: Tensor, ignore: Tensor | None) -> tuple[Tensor, int]:
    """The kernel arguments for one of `Ranking.ignores`: a pointer, and how to read it."""
    if ignore is None:
        return logits, IGNORE_NOTHING
    if ignore.dtype == torch.bool:
        return ignore.contiguous().view(torch.uint8), IGNORE_MASKED
    return ignore.contiguous(), IGNORE_NEGATIVE


def blocks_of(number: int, block: int) -> int:
    """How many blocks cover a number of entries. On the host `triton.cdiv` is five times as slow."""
    return -(-number // block)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launches a kernel."""
    kernel[grid](*arguments, **constants)


def launch_context(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device the one that Triton launches on."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
