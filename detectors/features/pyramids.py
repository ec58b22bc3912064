"""Feature pyramids, named by their levels: level l has a stride of 2^l pixels.

n  images    F  channels of a level    H, W  cells of a level
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7


class SubsampledLevel(ExtraFPNBlock):
    """P6 as every second cell of P5: the pyramid of two-stage detectors."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, F.max_pool2d(results[-1], kernel_size=1, stride=2)], [*names, "p6"]


class StridedLevels(LastLevelP6P7):
    """P6 and P7 by convolutions of stride 2, P6 from P5 and P7 from P6, without torchvision's ReLU between the two."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        sixth = self.p6(p[-1])
        return [*p, sixth, self.p7(sixth)], [*names, "p6", "p7"]


class LastStageLevels(StridedLevels):
    """P6 and P7 as above, but P6 from the last stage of the backbone, C5."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        sixth = self.p6(c[-1])
        return [*p, sixth, self.p7(sixth)], [*names, "p6", "p7"]


@dataclass(frozen=True)
class Pyramid:
    """Which levels a detector looks at, and how those beyond the backbone's P5 are made."""

    finest: int  # 2 for P2
    coarsest: int
    beyond: Callable[[int], ExtraFPNBlock]  # makes the levels beyond P5, from the channels of a level
    from_last_stage: bool = False  # P6 and P7 are strided as with `strided`, but P6 from C5 and not from P5

    def levels_beyond(self, stage: int, channels: int) -> ExtraFPNBlock:
        """What makes the levels beyond P5, from the channels of the last stage and those of a level."""
        return LastStageLevels(stage, channels) if self.from_last_stage else self.beyond(channels)

    @property
    def levels(self) -> range:
        return range(self.finest, self.coarsest + 1)

    @property
    def names(self) -> tuple[str, ...]:
        """ "p2", "p3" ..., finest first."""
        return tuple(f"p{level}" for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring cells of each level."""
        return tuple(2**level for level in self.levels)

    def sizes(self, padded_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Height and width of the map of each level, in cells, for a padded batch of that many pixels."""
        height, width = padded_size
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)


def subsampled(channels: int) -> ExtraFPNBlock:
    """P6 without parameters."""
    del channels
    return SubsampledLevel()


def strided(channels: int) -> ExtraFPNBlock:
    """P6 and P7 with convolutions."""
    return StridedLevels(channels, channels)


P2_TO_P6 = Pyramid(2, 6, subsampled)
P3_TO_P7 = Pyramid(3, 7, strided)
P3_TO_P7_FROM_C5 = Pyramid(3, 7, strided, from_last_stage=True)


# (channels of each stage, channels of a level, the levels) -> the module that turns stages into levels
FPN = Callable[[list[int], int, Pyramid], nn.Module]


def xavier_fpn(
    in_channels: list[int],  # of each stage of the backbone, finest first
    out_channels: int,
    pyramid: Pyramid,
) -> nn.Module:
    """torchvision's FPN; all convolutions start Xavier-uniform. Another FPN is a function with the same arguments."""
    return _xavier(
        FeaturePyramidNetwork(in_channels, out_channels, pyramid.levels_beyond(in_channels[-1], out_channels))
    )


def bilinear_fpn(
    in_channels: list[int],  # of each stage of the backbone, finest first
    out_channels: int,
    pyramid: Pyramid,
) -> nn.Module:
    """The same, but a level is upsampled bilinearly into the next finer one (YOLACT)."""
    return _xavier(BilinearFPN(in_channels, out_channels, pyramid.levels_beyond(in_channels[-1], out_channels)))


class BilinearFPN(FeaturePyramidNetwork):
    """torchvision's, with bilinear upsampling."""

    def forward(self, x: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
        names, stages = list(x), list(x.values())
        inner = self.get_result_from_inner_blocks(stages[-1], -1)
        levels = [self.get_result_from_layer_blocks(inner, -1)]
        for place in range(len(stages) - 2, -1, -1):
            lateral = self.get_result_from_inner_blocks(stages[place], place)
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            levels.insert(0, self.get_result_from_layer_blocks(inner, place))
        if self.extra_blocks is not None:
            levels, names = self.extra_blocks(levels, stages, names)
        return OrderedDict(zip(names, levels, strict=True))


def _xavier(fpn: nn.Module) -> nn.Module:
    """The same module; weights of convolutions start Xavier-uniform."""
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return fpn
