"""Backbones with a feature pyramid: ResNet and MobileNetV2 from torchvision, frozen and normalised as the recipes want.

    two-stage pyramid: "0".."3" = P2..P5 (strides 4, 8, 16, 32), "pool" = P6 (stride 64), P5 subsampled
    dense pyramid: "1".."3" = P3..P5 (strides 8, 16, 32), "p6", "p7" (strides 64, 128), convolutions on P5

Batch normalisation keeps its ImageNet statistics for ever, while its scale and shift train outside the frozen stages:
torchvision's detectors freeze all four (FrozenBatchNorm2d), which is another model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from .weights import load_weights


class StridedLevels(LastLevelP6P7):
    """P6 and P7 by convolutions of stride 2, P6 from P5 and P7 from P6, without torchvision's ReLU between the two."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        sixth = self.p6(p[-1])
        return [*p, sixth, self.p7(sixth)], [*names, "p6", "p7"]


@dataclass(frozen=True)
class Pyramid:
    """Which levels a detector looks at."""

    names: tuple[str, ...]
    strides: tuple[int, ...]  # pixels
    first_stage: int  # of the backbone, from 0: the finest that the pyramid takes
    coarsest: Callable[[int], ExtraFPNBlock]  # makes the levels beyond the backbone's, from the channels of a level


TWO_STAGE = Pyramid(("0", "1", "2", "3", "pool"), (4, 8, 16, 32, 64), 0, lambda channels: LastLevelMaxPool())
DENSE = Pyramid(
    ("1", "2", "3", "p6", "p7"), (8, 16, 32, 64, 128), 1, lambda channels: StridedLevels(channels, channels)
)


@dataclass(frozen=True)
class Stages:
    """How a classifier divides into a stem and four stages, by names of children; the last of a stage is its output."""

    stem: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]  # of each stage's output


def _resnet_stages(expansion: int) -> Stages:
    return Stages(
        stem=("conv1", "bn1"),
        stages=(("layer1",), ("layer2",), ("layer3",), ("layer4",)),
        channels=tuple(width * expansion for width in (64, 128, 256, 512)),
    )


BACKBONES = {
    "resnet18": _resnet_stages(expansion=1),
    "resnet34": _resnet_stages(expansion=1),
    "resnet50": _resnet_stages(expansion=4),
    "resnet101": _resnet_stages(expansion=4),
    # The 1280-channel layer 18 serves the classifier only and is left out.
    "mobilenet_v2": Stages(
        stem=("0", "1"),
        stages=(("2", "3"), ("4", "5", "6"), ("7", "8", "9", "10", "11", "12", "13"), ("14", "15", "16", "17")),
        channels=(24, 32, 96, 320),
    ),
}


class PyramidBackbone(BackboneWithFPN):
    """torchvision's backbone with FPN: convolutions start Xavier-uniform, batch norms stay in evaluation mode.

    Args:
        body: the classifier's layers, or a module whose children are named as in `stages`.
        stages: its division.
        out_channels: channels of every level.
        frozen_stages: 1 freezes the stem and stage 1 (the recipe), 0 the stem, -1 nothing.
        pyramid: the levels.
    """

    def __init__(
        self, body: nn.Module, stages: Stages, out_channels: int, frozen_stages: int, pyramid: Pyramid = TWO_STAGE
    ) -> None:
        outputs = [names[-1] for names in stages.stages[pyramid.first_stage :]]
        super().__init__(
            body,
            dict(zip(outputs, pyramid.names, strict=False)),
            list(stages.channels[pyramid.first_stage :]),
            out_channels,
            extra_blocks=pyramid.coarsest(out_channels),
        )
        for module in self.fpn.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        for names in (stages.stem, *stages.stages)[: frozen_stages + 1]:
            for name in names:
                self.body[name].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Five levels, (n, out_channels, ceil(h / stride), ceil(w / stride)), of images (n, 3, h, w)."""
        return super().forward(x)


def pyramid_backbone(
    name: str,
    *,
    weights: str | None = None,
    out_channels: int = 256,
    frozen_stages: int = 1,
    pyramid: Pyramid = TWO_STAGE,
) -> PyramidBackbone:
    """Builds a backbone with its pyramid.

    Args:
        name: one of resnet18, resnet34, resnet50, resnet101, mobilenet_v2.
        weights: a file that holds a state dict, the name of one of torchvision's weights ("IMAGENET1K_V2"), or None for
            random weights. See `rst.detectors.weights.load_weights`.
        out_channels: channels of every level of the pyramid.
        frozen_stages: stages without gradients: 1 is the stem and stage 1, 0 the stem, -1 none.
        pyramid: the levels, `TWO_STAGE` or `DENSE`.

    Raises:
        ValueError: for an unknown name, an impossible number of stages, or weights that do not fit.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone={name!r} is not one of {', '.join(BACKBONES)}")
    if not -1 <= frozen_stages <= 4:
        raise ValueError(f"frozen_stages={frozen_stages} is not in -1 to 4")
    classifier = models.get_model(name, weights=None)
    body = classifier.features if name == "mobilenet_v2" else classifier
    assert isinstance(body, nn.Module)
    if weights is not None:
        load_weights(classifier, weights, name)
    return PyramidBackbone(body, BACKBONES[name], out_channels, frozen_stages, pyramid)
