"""The head of a dense detector: two towers of convolutions that all levels share, and their last layers.

n  images    F  channels    A  anchors per cell    C  classes    H, W  cells of a level
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from .level_head import LevelHead

GROUPS = 32  # of group normalisation
# P7 of a small image is one cell, and one value alone cannot be normalised.
LEAST_CHANNELS = 2 * GROUPS
# Score of every class at the start: among so many negatives a half would be far off (focal loss paper, section 4.1).
PRIOR = 0.01

AuxiliaryName = Literal["centerness", "iou"]  # what the auxiliary head predicts: of ATSS, of PAA


class DenseOutputs(NamedTuple):
    """Maps of every level, as the convolutions return them."""

    logits: list[Tensor]  # (n, A C, H, W)
    deltas: list[Tensor]  # (n, 4 A, H, W)
    auxiliary: list[Tensor] | None  # (n, A, H, W) logits


def require_groups(name: str, channels: int) -> None:
    """ValueError unless so many channels, an argument of that name, can be normalised in groups."""
    if channels < LEAST_CHANNELS or channels % GROUPS:
        raise ValueError(
            f"{name}={channels} is not a multiple of {GROUPS}, the groups of its normalisation, of at least "
            f"{LEAST_CHANNELS}"
        )


def tower(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """Convolutions of 3 x 3 without bias, each with group norm and ReLU."""
    norm = partial(nn.GroupNorm, GROUPS)
    widths = [in_channels] + [channels] * depth
    return nn.Sequential(*(Conv2dNormActivation(width, channels, norm_layer=norm) for width in widths[:-1]))


def start_small(head: nn.Module, logits: nn.Conv2d) -> None:
    """Initialises all convolutions of a head with a deviation of 0.01, and its `logits` at the prior score."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    assert logits.bias is not None
    nn.init.constant_(logits.bias, -math.log((1 - PRIOR) / PRIOR))


class DenseHead(LevelHead):
    """ATSS's head: per branch four 3 x 3 convolutions with group norm, then one; box maps scaled level by level.

    Args:
        in_channels: of every level.
        channels: of the towers, a multiple of 32 from 64 on.
        anchors: A.
        num_classes: C.
        levels: how many.
        auxiliary: add this auxiliary head, on the boxes' tower, in a layer of its name.
        depth: convolutions of a tower.

    Raises:
        ValueError: for other channels.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        anchors: int,
        num_classes: int,
        levels: int,
        *,
        auxiliary: AuxiliaryName | None = None,
        depth: int = 4,
    ) -> None:
        super().__init__()
        require_groups("head_channels", channels)

        def last(outputs: int) -> nn.Conv2d:
            return nn.Conv2d(channels, outputs, 3, padding=1)

        self.cls_tower, self.box_tower = (tower(in_channels, channels, depth) for _ in range(2))
        self.cls_logits, self.box_deltas = last(anchors * num_classes), last(anchors * 4)
        self.auxiliary = auxiliary
        if auxiliary is not None:
            self.add_module(auxiliary, last(anchors))
        self.scales = nn.Parameter(torch.ones(levels))
        start_small(self, self.cls_logits)

    def forward(self, maps: Sequence[Tensor]) -> DenseOutputs:
        """The outputs for levels (n, in_channels, H, W)."""
        logits, deltas, auxiliary = [], [], []
        for level, scale in zip(maps, self.scales, strict=True):
            logits.append(self.cls_logits(self.cls_tower(level)))
            features = self.box_tower(level)
            deltas.append(self.box_deltas(features) * scale)
            if self.auxiliary is not None:
                auxiliary.append(self.get_submodule(self.auxiliary)(features))
        return DenseOutputs(logits, deltas, None if self.auxiliary is None else auxiliary)
