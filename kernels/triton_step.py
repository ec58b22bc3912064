"""What the Triton kernels of this folder share: loading a tile of logits, H on a tile, and the launch context.

P  positives, rows of a tile      n  logits of one level, columns of a tile
s  logits, widened to float32 right after every load
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# How a level says which of its logits are ignored (`Examples.ignores`).
IGNORE_NOTHING = 0
IGNORE_MASKED = 1  # uint8, not 0
IGNORE_NEGATIVE = 2  # labels below 0

# Beyond it a logit counts as infinite: far from any real one, and differences of two such stay finite.
LARGEST = tl.constexpr(1e30)


@triton.jit
def finite(logits):
    """Infinities as large finite numbers, so that two equal ones differ by 0 and not by NaN."""
    return tl.where(logits > LARGEST, LARGEST, tl.where(logits < -LARGEST, -LARGEST, logits))


@triton.jit
def load_logits(logits_ptr, ignore_ptr, offsets, size, IGNORE: tl.constexpr):
    """A tile's logits in float32 and its bool mask of those that count; the others are NaN, for which H is 0."""
    counted = offsets < size
    if IGNORE == 1:
        counted = counted & (tl.load(ignore_ptr + offsets, mask=counted, other=1) == 0)
    if IGNORE == 2:
        counted = counted & (tl.load(ignore_ptr + offsets, mask=counted, other=-1).to(tl.float32) >= 0)
    logits = tl.load(logits_ptr + offsets, mask=counted, other=0.0).to(tl.float32)
    return tl.where(counted, finite(logits), float("nan")), counted


@triton.jit
def step(difference, inverse_width, HARD: tl.constexpr):
    """H on a tile, see `relations.step`; 0 for NaN, since every comparison with it is false."""
    if HARD:
        return tl.where(difference >= 0, 1.0, 0.0)
    ramp = difference * inverse_width + 0.5
    return tl.where(ramp >= 1.0, 1.0, tl.where(ramp > 0.0, ramp, 0.0))


def inverse_width(delta: float) -> float:
    """1 / 2 delta, the slope of H; a hard step has none."""
    return 1 / (2 * delta) if delta > 0 else 0.0


def ignore_argument(logits: Tensor, ignore: Tensor | None) -> tuple[Tensor, int]:
    """What a kernel takes for one of `Examples.ignores`: a pointer and how to read it."""
    if ignore is None:
        return logits, IGNORE_NOTHING
    if ignore.dtype == torch.bool:
        return ignore.contiguous().view(torch.uint8), IGNORE_MASKED
    return ignore.contiguous(), IGNORE_NEGATIVE


def launch_context(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device the one that Triton launches on."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
