"""YOLACT's head: a small head on every level, and prototypes of masks on the finest.

n  images    F  channels    A  anchors per cell    K  outputs of the classifier    k  prototypes    C  classes
H, W  cells of a level    h, w  cells of the prototypes: twice those of the finest level
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from ..geometry.numbers import require_count, require_share
from .level_head import LevelHead

PROTOTYPE_SCALE = 2  # cells of a prototype along the side of one of the finest level


@dataclass(frozen=True)
class PrototypeSettings:
    """The masks: sums of prototypes that an image has, with coefficients of each detection.

    Args:
        count: prototypes, and so coefficients.
        channels: of the convolutions that make the prototypes.
        limit: at most this many positives of a batch, drawn at random, train the masks. None: all; their masks are
            then computed a few at a time, and once more in the backward pass, so that memory is bounded in any case.
        threshold: probability from which a pixel of a detection belongs to its object.
    """

    count: int = 32
    channels: int = 256
    limit: int | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        require_count("masks.count", self.count)
        require_count("masks.channels", self.channels)
        if self.limit is not None:
            require_count("masks.limit", self.limit)
        require_share("masks.threshold", self.threshold)


class PrototypeOutputs(NamedTuple):
    """Maps of every level, as the convolutions return them, and the prototypes of each image."""

    logits: list[Tensor]  # (n, A K, H, W)
    deltas: list[Tensor]  # (n, 4 A, H, W)
    coefficients: list[Tensor]  # (n, A k, H, W) in [-1, 1]
    prototypes: Tensor  # (n, k, h, w) from 0 on
    semantic: Tensor | None  # (n, C, H, W) logits, of the finest level; in training, where there is such a head
    auxiliary: None = None  # scores that an auxiliary head predicts: there is none


class PrototypeHead(LevelHead):
    """One 3 x 3 convolution, then three: logits, deltas and coefficients; beside it the prototypes (Bolya et al.).

    All levels share the convolutions, and all of them start Xavier-uniform with a bias of 0: every score is a half.

    Args:
        in_channels: of every level.
        channels: of the first convolution.
        anchors: A.
        outputs: K.
        settings: of the prototypes.
        semantic_classes: C of a 1 x 1 convolution on the finest level, which trains the features to segment and is not
            used otherwise; None: there is none.
    """

    has_background: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        anchors: int,
        outputs: int,
        settings: PrototypeSettings,
        *,
        semantic_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.tower = _convolution(in_channels, channels)
        self.cls_logits, self.box_deltas, self.coefficients = (
            _convolution(channels, anchors * each) for each in (outputs, 4, settings.count)
        )
        width = settings.channels
        self.prototypes = nn.Sequential(
            *(_convolution(in_channels, width), nn.ReLU()),
            *(_convolution(width, width), nn.ReLU()),
            *(_convolution(width, width), nn.ReLU()),
            nn.Upsample(scale_factor=PROTOTYPE_SCALE, mode="bilinear", align_corners=False),
            *(_convolution(width, width), nn.ReLU()),
            *(_convolution(width, settings.count, 1), nn.ReLU()),
        )
        self.semantic = None if semantic_classes is None else _convolution(in_channels, semantic_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> PrototypeOutputs:
        """The outputs for levels (n, in_channels, H, W), finest first."""
        shared = [self.tower(level).relu() for level in maps]
        return PrototypeOutputs(
            [self.cls_logits(level) for level in shared],
            [self.box_deltas(level) for level in shared],
            [self.coefficients(level).tanh() for level in shared],
            self.prototypes(maps[0]),
            self.semantic(maps[0]) if self.semantic is not None and self.training else None,
        )


def _convolution(channels: int, outputs: int, side: int = 3) -> nn.Conv2d:
    """Of cells of that side, in the same size."""
    convolution = nn.Conv2d(channels, outputs, side, padding=side // 2)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
