"""The pyramid of YOLACT, restated level by level: bilinear upsampling, P6 from the last stage, P7 from P6."""

from collections import OrderedDict

import pytest
import torch
from torch.nn import functional as F

from rst.detectors import BackboneSettings
from rst.detectors.features.pyramids import P3_TO_P7, P3_TO_P7_FROM_C5, Pyramid, bilinear_fpn, xavier_fpn


@pytest.mark.parametrize("pyramid", [P3_TO_P7, P3_TO_P7_FROM_C5], ids=["P6 from P5", "P6 from C5"])
@pytest.mark.parametrize("channels", [6, 8])
def test_levels_against_the_restatement(pyramid: Pyramid, channels: int):
    """Also where C5 has as many channels as a level, by which torchvision would tell P5 from C5."""
    torch.manual_seed(0)
    fpn = bilinear_fpn([4, 6, 8], channels, pyramid)
    c3, c4, c5 = torch.rand(2, 4, 9, 13), torch.rand(2, 6, 5, 7), torch.rand(2, 8, 3, 4)
    levels = fpn(OrderedDict(p3=c3, p4=c4, p5=c5))
    assert list(levels) == list(pyramid.names)
    inner = [block[0](stage) for block, stage in zip(fpn.inner_blocks, (c3, c4, c5), strict=True)]
    inner[1] = inner[1] + F.interpolate(inner[2], size=(5, 7), mode="bilinear", align_corners=False)
    inner[0] = inner[0] + F.interpolate(inner[1], size=(9, 13), mode="bilinear", align_corners=False)
    expected = [block[0](level) for block, level in zip(fpn.layer_blocks, inner, strict=True)]
    expected.append(fpn.extra_blocks.p6(c5 if pyramid.from_last_stage else expected[2]))
    expected.append(fpn.extra_blocks.p7(expected[3]))  # nothing between the two
    for level, values in zip(levels.values(), expected, strict=True):
        torch.testing.assert_close(level, values)
    assert [tuple(level.shape[-2:]) for level in levels.values()] == [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]


def test_the_usual_pyramid_may_take_p6_from_the_last_stage_too():
    fpn = xavier_fpn([4, 6, 8], 5, P3_TO_P7_FROM_C5)
    assert fpn.extra_blocks.p6.in_channels == 8
    assert BackboneSettings(fpn_upsampling="bilinear").fpn_upsampling == "bilinear"
