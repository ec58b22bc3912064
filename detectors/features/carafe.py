"""CARAFE (Wang et al., ICCV 2019): upsampling by kernels that a small network predicts, and the feature pyramid on it.

n  images    C  channels    h, w  cells of the coarse map
k  side of a kernel    r  scale: fine cells along the side of a coarse one
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .pyramids import Pyramid
from .reassembly import reassemble

ENCODER_STD = 0.001  # of the first weights of the encoder: kernels start near the mean of k x k cells


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
