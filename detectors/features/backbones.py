"""Backbones with a feature pyramid: ResNet, ResNeXt and MobileNetV2 from torchvision, frozen and normalised as the
recipes want, with deformable convolutions where they are asked for.

    n  images    F  channels of a level

Batch normalisation keeps its ImageNet statistics, while its scale and shift train outside the frozen stages.
torchvision's detectors freeze all four (FrozenBatchNorm2d), which is another model.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter

from ..geometry.numbers import require_count
from .carafe import CarafeFPN
from .deformable import deform_bottlenecks, is_of_offsets
from .pyramids import FPN, P2_TO_P6, Pyramid, bilinear_fpn, xavier_fpn
from .weights import load_weights

FPNS: dict[str, FPN] = {"nearest": xavier_fpn, "bilinear": bilinear_fpn, "carafe": CarafeFPN}
FINEST_STAGE = 2  # the first stage of a backbone has a stride of 2^2 pixels
COARSEST_STRIDE = 32  # pixels, of the last stage


@dataclass(frozen=True)
class BackboneSettings:
    """The backbone and its feature pyramid.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnext101_64x4d or mobilenet_v2.
        weights: a file that holds a state dict, the name of one of torchvision's weights ("IMAGENET1K_V2"), or None for
            random weights. See `rst.detectors.features.weights.load_weights`.
        frozen_stages: stages that do not train: 1 is the stem and stage 1, 0 the stem, -1 none.
        fpn_channels: channels of every level of the pyramid.
        deformable: makes the 3 x 3 convolutions of the bottlenecks of stages 2 to 4 (c3 to c5) deformable (DCNv2), as
            the paper's best models have them. See `rst.detectors.features.deformable.DeformableConv2d`.
        fpn_upsampling: how a level takes in the next coarser one: "nearest", the usual FPN; "bilinear", as in YOLACT;
            or "carafe", which predicts the kernels of the upsampling. With it the levels beyond P5 are upsampled too,
            see `CarafeFPN`.
    """

    name: str = "resnet50"
    weights: str | None = None
    frozen_stages: int = 1
    fpn_channels: int = 256
    deformable: bool = False
    fpn_upsampling: Literal["nearest", "bilinear", "carafe"] = "nearest"

    def __post_init__(self) -> None:
        require_count("backbone.fpn_channels", self.fpn_channels)
        if self.fpn_upsampling not in FPNS:
            raise ValueError(f"backbone.fpn_upsampling={self.fpn_upsampling!r} is not one of {', '.join(FPNS)}")


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
    "resnext101_64x4d": _resnet_stages(expansion=4),
    # The 1280-channel layer 18 serves the classifier only and is left out.
    "mobilenet_v2": Stages(
        stem=("0", "1"),
        stages=(("2", "3"), ("4", "5", "6"), ("7", "8", "9", "10", "11", "12", "13"), ("14", "15", "16", "17")),
        channels=(24, 32, 96, 320),
    ),
}


def _deform(body: nn.Module, stages: Stages, name: str) -> None:
    """Makes stages 2 to 4 of a body deformable; ValueError where they have no bottlenecks."""
    children = dict(body.named_children())
    if not sum([deform_bottlenecks(children[child]) for names in stages.stages[1:] for child in names]):
        raise ValueError(
            f"backbone.deformable=True needs a backbone with bottlenecks (resnet50, resnet101, resnext101_64x4d); "
            f"backbone.name={name!r} has none"
        )


class PyramidBackbone(nn.Module):
    """The stages of a classifier, and a feature pyramid on them.

    Args:
        body: the classifier's layers, or a module whose children are named as in `stages`.
        stages: its division.
        out_channels: F.
        frozen_stages: 1 freezes the stem and stage 1 (the recipe), 0 the stem, -1 nothing.
        pyramid: the levels.
        fpn: makes the module that turns the stages into levels.
        train_batch_norm: False keeps every batch norm in evaluation mode, also in training; True does so only for an
            image so small that the last stage has one cell, whose values alone cannot be normalised.
    """

    def __init__(
        self,
        body: nn.Module,
        stages: Stages,
        out_channels: int,
        frozen_stages: int,
        *,
        pyramid: Pyramid = P2_TO_P6,
        fpn: FPN = xavier_fpn,
        train_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.train_batch_norm = train_batch_norm
        first = pyramid.finest - FINEST_STAGE
        outputs = [names[-1] for names in stages.stages[first:]]
        self.body = IntermediateLayerGetter(body, dict(zip(outputs, pyramid.names, strict=False)))
        self.fpn = fpn(list(stages.channels[first:]), out_channels, pyramid)
        for names in (stages.stem, *stages.stages)[: frozen_stages + 1]:
            for name in names:
                self.body[name].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._set_batch_norm(mode and self.train_batch_norm)
        return self

    def _set_batch_norm(self, mode: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(mode)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The levels by name, each (n, F, ceil(h / stride), ceil(w / stride)), of images (n, 3, h, w)."""
        if self.training and self.train_batch_norm and x.shape[0] == 1 and max(x.shape[-2:]) <= COARSEST_STRIDE:
            self._set_batch_norm(False)
            levels = self.fpn(self.body(x))
            self._set_batch_norm(True)
            return levels
        return self.fpn(self.body(x))


def pyramid_backbone(
    settings: BackboneSettings,
    pyramid: Pyramid = P2_TO_P6,
    *,
    fpn: FPN | None = None,
    train_batch_norm: bool = False,
) -> PyramidBackbone:
    """Builds a backbone with its pyramid; see `PyramidBackbone`. Without `fpn` it is the one that the settings name.

    Raises:
        ValueError: for an unknown name, an impossible number of stages, a deformable backbone without bottlenecks,
            weights that do not fit, or a frozen stage whose offsets no weights hold.
    """
    name, frozen_stages = settings.name, settings.frozen_stages
    if name not in BACKBONES:
        raise ValueError(f"backbone.name={name!r} is not one of {', '.join(BACKBONES)}")
    if not -1 <= frozen_stages <= 4:
        raise ValueError(f"backbone.frozen_stages={frozen_stages} is not in -1 to 4")
    classifier = models.get_model(name, weights=None)
    body = classifier.features if name == "mobilenet_v2" else classifier
    assert isinstance(body, nn.Module)
    if settings.deformable:
        _deform(body, BACKBONES[name], name)
    if settings.weights is not None:
        started = [key for key in load_weights(classifier, settings.weights, name) if is_of_offsets(key)]
        if started and frozen_stages > 1:
            raise ValueError(
                f"backbone.frozen_stages={frozen_stages} would keep offsets from training that backbone.weights="
                f"{settings.weights!r} does not hold; with backbone.deformable=True it is at most 1"
            )
    return PyramidBackbone(
        body,
        BACKBONES[name],
        settings.fpn_channels,
        frozen_stages,
        pyramid=pyramid,
        fpn=FPNS[settings.fpn_upsampling] if fpn is None else fpn,
        train_batch_norm=train_batch_norm,
    )
