"""Deformable convolutions with modulation (DCNv2; Zhu et al., CVPR 2019) in the bottlenecks of a ResNet.

    n  images    I, O  channels of the input and the output    G  groups of offsets

Each tap reads the input at its own place plus a learned offset, between cells by bilinear interpolation, and counts by
a learned factor in (0, 1). A group of I / G channels shares offsets and factors.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import deform_conv2d

OFFSET_GROUPS = 4  # G of the Rank & Sort paper's configurations
OFFSET_BRANCH = "conv_offset"  # the child that predicts offsets and factors, under its name in published files


class DeformableConv2d(nn.Module):
    """Takes the place of a convolution, with its weights, stride, padding, dilation and groups.

    As published, the branch of the offsets starts at zero: no tap is moved, and each counts by sigmoid(0), one half. So
    at the start the output is half of what the convolution had, plus its bias. Its parameters train like all others,
    with the same learning rate and weight decay.

    Under autocast the offsets are predicted in the lower precision. Sampling and sums are float32, as torchvision has
    no bfloat16 for them. The backward pass on a GPU adds atomically: it is not deterministic.

    Args:
        conv: whose parameters it takes; zero-padded.
        groups: G, a divisor of I.
    """

    def __init__(self, conv: nn.Conv2d, groups: int = OFFSET_GROUPS) -> None:
        super().__init__()
        assert conv.padding_mode == "zeros"
        assert not isinstance(conv.padding, str)
        assert conv.in_channels % groups == 0
        self.weight, self.bias = conv.weight, conv.bias
        self.stride = cast(tuple[int, int], conv.stride)
        self.padding = cast(tuple[int, int], conv.padding)
        self.dilation = cast(tuple[int, int], conv.dilation)
        kernel_size = cast(tuple[int, int], conv.kernel_size)
        self.groups, self.taps = groups, kernel_size[0] * kernel_size[1]
        self.conv_offset = nn.Conv2d(
            conv.in_channels, 3 * groups * self.taps, kernel_size, self.stride, self.padding, self.dilation
        )
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,  # (n, I, h, w)
    ) -> Tensor:
        """(n, O, h', w'), the dtype of `x`."""
        taps = self.groups * self.taps
        offsets, factors = self.conv_offset(x).split([2 * taps, taps], dim=1)  # (y, x) of each tap; its factor
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            output = deform_conv2d(
                x.to(dtype),
                offsets.to(dtype),
                self.weight.to(dtype),
                None if self.bias is None else self.bias.to(dtype),
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                mask=factors.to(dtype).sigmoid(),
            )
        return output.to(x.dtype)


def deform_bottlenecks(stage: nn.Module) -> int:
    """Makes the 3 x 3 convolution of every bottleneck of a stage deformable; returns how many these are."""
    bottlenecks = [module for module in stage.modules() if isinstance(module, Bottleneck)]
    for block in bottlenecks:
        block.conv2 = DeformableConv2d(cast(nn.Conv2d, block.conv2))  # pyright: ignore[reportAttributeAccessIssue]
    return len(bottlenecks)


def is_of_offsets(key: str) -> bool:
    """Whether a key of a state dict belongs to the branch that predicts offsets."""
    return f".{OFFSET_BRANCH}." in key
