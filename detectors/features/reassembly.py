"""The operator of CARAFE (Wang et al., ICCV 2019): a fine map from a coarse one and a kernel for each fine cell.

    n  images    C  channels    c  those of one chunk    h, w  cells of the coarse map
    k  side of a kernel    r  scale: fine cells along the side of a coarse one

A fine cell is a weighted sum of the k x k coarse cells around the coarse cell in which it lies; cells outside the map
are zeros. The weights are the same for all channels.

Memory: an unfolded map would be k^2 times as large as the coarse one, and autograd would keep it. `reassemble` goes
through the k^2 offsets instead, on a chunk of the channels at a time, and computes every product anew in the backward
pass. Peaks of a process on a CPU above its inputs, for one float32 image, P3 to P2 of 1333 x 800 pixels (100 x 168 to
200 x 336 cells, C = 256, an output of 66 MiB):

| MiB | forward | held for the backward | backward |
|---|---|---|---|
| unfolded, weighted, summed | 2116 | 476 | 4233 |
| unfolded, a matrix product for each cell | 607 | 476 | 958 |
| mmcv's fused operator, by the tensors that it allocates | 154 | 82 | 259 |
| `reassemble` | 110 | 93 | 150 |
A compiled graph holds each pass as one node: 25 offsets of four levels, unrolled, take minutes to compile.
"""

import re
from collections.abc import Iterator
from itertools import product
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

NAMESPACE = re.sub(r"\W", "_", __package__ or __name__)
# Products computed at once: 4 MiB of float32 stay in the cache of a CPU; elsewhere fewer and larger steps.
CHUNK_CPU, CHUNK = 2**20, 2**24


def _chunks(
    features: Tensor,  # (n, C, h, w)
    planes: int,
) -> Iterator[slice]:
    """Cuts the channels."""
    images, channels, height, width = features.shape
    limit = CHUNK_CPU if features.device.type == "cpu" else CHUNK
    step = max(limit // max(images * planes * height * width, 1), 1)
    for first in range(0, channels, step):
        yield slice(first, first + step)


def _offsets(
    padded: Tensor,  # (n, c, h + k - 1, w + k - 1)
    side: int,
) -> Iterator[Tensor]:
    """The k^2 shifted maps (n, c, 1, h, w) of a padded one, without a copy, in the order of a kernel's weights."""
    height, width = padded.shape[2] - side + 1, padded.shape[3] - side + 1
    for y, x in product(range(side), repeat=2):
        yield padded[:, :, None, y : y + height, x : x + width]


@custom_op(f"{NAMESPACE}::reassemble", mutates_args=())
def reassemble(
    features: Tensor,  # (n, C, h, w) floating point
    kernels: Tensor,  # (n, k^2, r^2, h, w) of at least float32
) -> Tensor:
    """(n, C, r h, r w) of the dtype of the features: the fine map, summed in the dtype of the kernels.

    Plane i r + j of the kernels belongs to the fine cells (r y + i, r x + j) of the coarse cells (y, x); weight a k + b
    of such a kernel to the coarse cell (y + a - k // 2, x + b - k // 2). k is odd. It is differentiable once.
    """
    side, scale = isqrt(kernels.shape[1]), isqrt(kernels.shape[2])
    images, channels, height, width = features.shape
    padded, weights = F.pad(features, [side // 2] * 4), kernels[:, :, None].unbind(1)  # (n, 1, r^2, h, w) each
    fine = features.new_empty(images, channels, height * scale, width * scale)
    for chunk in _chunks(features, scale**2):
        coarse = padded[:, chunk].to(kernels.dtype)
        total = kernels.new_zeros(images, coarse.shape[1], scale**2, height, width)
        for shifted, weight in zip(_offsets(coarse, side), weights, strict=True):
            total.addcmul_(shifted, weight)
        fine[:, chunk] = F.pixel_shuffle(total.flatten(1, 2), scale)
    return fine


@reassemble.register_fake
def _(features, kernels):
    scale = isqrt(kernels.shape[2])
    images, channels, height, width = features.shape
    return features.new_empty(images, channels, height * scale, width * scale)


@custom_op(f"{NAMESPACE}::reassemble_backward", mutates_args=())
def reassemble_backward(
    gradient: Tensor,  # (n, C, r h, r w)
    features: Tensor,  # (n, C, h, w)
    kernels: Tensor,  # (n, k^2, r^2, h, w)
) -> tuple[Tensor, Tensor]:
    """The gradients of features and kernels."""
    side, scale = isqrt(kernels.shape[1]), isqrt(kernels.shape[2])
    padded, weights = F.pad(features, [side // 2] * 4), kernels[:, :, None].unbind(1)
    feature_gradient, kernel_gradients = features.new_empty(features.shape), kernels.new_zeros(kernels.shape)
    for chunk in _chunks(features, scale**2):
        coarse = padded[:, chunk].to(kernels.dtype)
        upper = F.pixel_unshuffle(gradient[:, chunk].to(kernels.dtype), scale).unflatten(1, (-1, scale**2))
        lower, products = torch.zeros_like(coarse), torch.empty_like(upper)
        offsets = zip(_offsets(coarse, side), _offsets(lower, side), strict=True)
        for i, (shifted, shifted_gradient) in enumerate(offsets):
            kernel_gradients[:, i] += torch.mul(upper, shifted, out=products).sum(1)
            shifted_gradient += torch.mul(upper, weights[i], out=products).sum(2, keepdim=True)
        margin, (height, width) = side // 2, features.shape[2:]
        feature_gradient[:, chunk] = lower[:, :, margin : margin + height, margin : margin + width]
    return feature_gradient, kernel_gradients


@reassemble_backward.register_fake
def _(gradient, features, kernels):
    del gradient
    return features.new_empty(features.shape), kernels.new_empty(kernels.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return reassemble_backward(gradient, *ctx.saved_tensors)


reassemble.register_autograd(_differentiate, setup_context=_keep)
