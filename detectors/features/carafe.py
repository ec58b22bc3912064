"""CARAFE (Wang et al., ICCV 2019): upsampling by kernels that a small network predicts, and the feature pyramid on it.

    n  images    C  channels    c  those of one chunk    h, w  cells of the coarse map
    k  side of a kernel    r  scale: fine cells along the side of a coarse one

A fine cell is a weighted sum of the k x k coarse cells around the coarse cell in which it lies; cells outside the
map are zeros. The weights are the same for all channels, and a softmax over the k x k makes them sum to 1.

Memory: an unfolded map would be k^2 times as large as the coarse one, and autograd would keep it. `Reassembly` goes
through the k^2 offsets instead, on a chunk of the channels at a time, and computes every product anew in the backward
pass. Peaks of a process on a CPU above its inputs, for one float32 image, P3 to P2 of 1333 x 800 pixels (100 x 168 to
200 x 336 cells, C = 256, an output of 66 MiB):

| MiB | forward | held for the backward | backward |
|---|---|---|---|
| unfolded, weighted, summed | 2116 | 476 | 4233 |
| unfolded, a matrix product for each cell | 607 | 476 | 958 |
| mmcv's fused operator, by the tensors that it allocates | 154 | 82 | 259 |
| `Reassembly` | 107 | 89 | 148 |
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import product
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .pyramids import Pyramid

# Products computed at once: 4 MiB of float32 stay in the cache of a CPU; elsewhere fewer and larger steps.
CHUNK_CPU, CHUNK = 2**20, 2**24
ENCODER_STD = 0.001  # of the first weights of the encoder: kernels start near the mean of k x k cells


def _channels_at_once(features: Tensor, planes: int) -> int:
    """How many of the channels one step takes; all where a compiler fuses the steps."""
    images, channels, height, width = features.shape
    if torch.compiler.is_compiling():
        return max(channels, 1)
    limit = CHUNK_CPU if features.device.type == "cpu" else CHUNK
    return max(limit // max(images * planes * height * width, 1), 1)


def _offsets(
    padded: Tensor,  # (n, c, h + k - 1, w + k - 1)
    side: int,
) -> Iterator[Tensor]:
    """The k^2 shifted maps (n, c, h, w) of a padded one, without a copy, in the order of a kernel's weights."""
    height, width = padded.shape[2] - side + 1, padded.shape[3] - side + 1
    for y, x in product(range(side), repeat=2):
        yield padded[:, :, y : y + height, x : x + width]


class Reassembly(torch.autograd.Function):
    """`reassemble`, differentiable once; its arguments without their checks."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,  # (n, C, h, w)
        kernels: Tensor,  # (n, k^2, r^2, h, w)
    ) -> Tensor:
        ctx.save_for_backward(features, kernels)
        side, scale = isqrt(kernels.shape[1]), isqrt(kernels.shape[2])
        images, channels, height, width = features.shape
        padded = F.pad(features, [side // 2] * 4)
        weights = kernels[:, :, None].unbind(1)  # each (n, 1, r^2, h, w)
        fine = features.new_empty(images, channels, height * scale, width * scale)
        step = _channels_at_once(features, scale**2)
        for first in range(0, channels, step):
            chunk = padded[:, first : first + step].to(kernels.dtype)
            total = kernels.new_zeros(images, chunk.shape[1], scale**2, height, width)
            for shifted, weight in zip(_offsets(chunk, side), weights, strict=True):
                total.addcmul_(shifted[:, :, None], weight)
            fine[:, first : first + step] = F.pixel_shuffle(total.flatten(1, 2), scale)
        return fine

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        gradient: Tensor,  # (n, C, r h, r w)
    ) -> tuple[Tensor, Tensor]:
        features, kernels = ctx.saved_tensors
        side, scale = isqrt(kernels.shape[1]), isqrt(kernels.shape[2])
        padded = F.pad(features, [side // 2] * 4)
        weights = kernels[:, :, None].unbind(1)
        feature_gradient, kernel_gradients = torch.empty_like(features), torch.zeros_like(kernels)
        height, width = features.shape[2:]
        step = _channels_at_once(features, scale**2)
        for first in range(0, features.shape[1], step):
            chunk = padded[:, first : first + step].to(kernels.dtype)
            upper = F.pixel_unshuffle(gradient[:, first : first + step].to(kernels.dtype), scale)
            upper = upper.unflatten(1, (-1, scale**2))  # (n, c, r^2, h, w)
            lower, products = torch.zeros_like(chunk), torch.empty_like(upper)
            offsets = zip(_offsets(chunk, side), _offsets(lower, side), strict=True)
            for i, (shifted, shifted_gradient) in enumerate(offsets):
                kernel_gradients[:, i] += torch.mul(upper, shifted[:, :, None], out=products).sum(1)
                shifted_gradient += torch.mul(upper, weights[i], out=products).sum(2)
            margin = side // 2
            inner = lower[:, :, margin : margin + height, margin : margin + width]
            feature_gradient[:, first : first + step] = inner
        return feature_gradient, kernel_gradients


def reassemble(
    features: Tensor,  # (n, C, h, w) floating point
    kernels: Tensor,  # (n, k^2, r^2, h, w) of at least float32
) -> Tensor:
    """(n, C, r h, r w) of the dtype of the features: the fine map, summed in the dtype of the kernels.

    Plane i r + j of the kernels belongs to the fine cells (r y + i, r x + j) of the coarse cells (y, x); weight a k + b
    of such a kernel to the coarse cell (y + a - k // 2, x + b - k // 2). k is odd.
    """
    return Reassembly.apply(features, kernels)  # pyright: ignore[reportReturnType]


class Carafe(nn.Module):
    """Upsampling by predicted kernels, as published: one group of channels.

    Args:
        channels: C.
        scale: r.
        kernel_size: k, odd.
        encoder_kernel_size: of the convolution that predicts kernels, odd.
        compressed_channels: of what it looks at.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: int = 2,
        kernel_size: int = 5,
        encoder_kernel_size: int = 3,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        self.planes = (kernel_size**2, scale**2)
        self.compressor = _xavier(nn.Conv2d(channels, compressed_channels, 1))
        self.encoder = nn.Conv2d(
            compressed_channels, (kernel_size * scale) ** 2, encoder_kernel_size, padding=encoder_kernel_size // 2
        )
        nn.init.normal_(self.encoder.weight, std=ENCODER_STD)
        assert self.encoder.bias is not None
        nn.init.zeros_(self.encoder.bias)

    def kernels(
        self,
        features: Tensor,  # (n, C, h, w)
    ) -> Tensor:
        """(n, k^2, r^2, h, w), of at least float32, each summing to 1 over k^2; see `reassemble`."""
        logits = self.encoder(self.compressor(features)).unflatten(1, self.planes)
        return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def forward(
        self,
        features: Tensor,  # (n, C, h, w)
    ) -> Tensor:
        """(n, C, r h, r w)."""
        return reassemble(features, self.kernels(features))


class CarafeFPN(nn.Module):
    """The feature pyramid of the published CARAFE detectors: a `Carafe` from each level to the next finer one.

    Levels beyond the stages are laterals too, by convolutions of stride 2, the first on the last stage, each further
    one on the lateral before. They join the top-down path: P6 is upsampled into P5. Where a finer level has an odd
    size, the last row or column of the upsampled map is cut off.

    Args:
        in_channels: of each stage of the backbone, finest first.
        out_channels: C.
        pyramid: the levels. What it says of those beyond the stages is not used.
    """

    def __init__(self, in_channels: list[int], out_channels: int, pyramid: Pyramid) -> None:
        super().__init__()
        self.names = pyramid.names
        beyond = len(self.names) - len(in_channels)
        self.laterals = nn.ModuleList(_xavier(nn.Conv2d(channels, out_channels, 1)) for channels in in_channels)
        for channels in [in_channels[-1], *[out_channels] * beyond][:beyond]:
            self.laterals.append(_xavier(nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)))
        self.upsampling = nn.ModuleList(Carafe(out_channels) for _ in self.names[1:])  # of a level, from the next
        self.outputs = nn.ModuleList(_xavier(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in self.names)

    def forward(self, stages: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """The levels by name, each (n, C, its height, its width), of the outputs of the stages, finest first."""
        inputs = list(stages.values())
        maps = [lateral(stage) for lateral, stage in zip(self.laterals, inputs, strict=False)]
        beyond = inputs[-1]
        for lateral in self.laterals[len(inputs) :]:
            beyond = lateral(beyond)
            maps.append(beyond)
        for i in reversed(range(len(maps) - 1)):
            height, width = maps[i].shape[-2:]
            maps[i] = maps[i] + self.upsampling[i](maps[i + 1])[:, :, :height, :width]
        return OrderedDict(
            (name, output(level)) for name, output, level in zip(self.names, self.outputs, maps, strict=True)
        )


def _xavier(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution, Xavier-uniform, with a bias of 0."""
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
