"""Places in maps that are never rearranged, against maps that hold their own places."""

import pytest
import torch

from rst.detectors.geometry.layout import MapLayout
from rst.kernels import gather_levels


@pytest.mark.parametrize("channels", [1, 4, 7])
@pytest.mark.parametrize("anchors", [1, 3])
def test_places_of_every_anchor(anchors: int, channels: int):
    sizes, images = [(3, 5), (2, 2), (1, 1)], 2
    maps, expected = [], []
    for level, (height, width) in enumerate(sizes):
        shape = (images, anchors, channels, height, width)
        index = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"))  # image, anchor, channel, y, x
        code = (index * torch.tensor([10**4, 10**3, 10**2, 10, 1]).view(-1, 1, 1, 1, 1, 1)).sum(0) + 10**5 * level
        maps.append(code.flatten(1, 2))
        expected.append(code.movedim(2, -1).flatten(1, 3))  # (images, anchors of the level, channels)
    layout = MapLayout.of(maps, anchors)
    wanted = torch.cat(expected, dim=1)
    image, anchor = torch.meshgrid(torch.arange(images), torch.arange(wanted.shape[1]), indexing="ij")
    found = gather_levels(maps, layout.place(image.flatten(), anchor.flatten(), channels))
    assert torch.equal(found, wanted.flatten(0, 1))
    # The views of each level hold the same, channel by channel.
    assert layout.counts == [anchors * height * width for height, width in sizes]
    views = [layout.by_anchor(level) for level in maps]  # (images, anchors, channels, height * width)
    for view, level, expected_here in zip(views, maps, expected, strict=True):
        assert view.data_ptr() == level.data_ptr()
        assert torch.equal(view.movedim(2, -1).flatten(1, 2), expected_here)
    assert torch.equal(layout.level_of(anchor.flatten()), wanted[..., 0].flatten() // 10**5)


def test_no_anchor():
    none = torch.zeros(0, dtype=torch.int64)
    layout = MapLayout(2, 3, ((4, 4), (2, 2)))
    assert layout.place(none, none, 5).shape == (0, 5)
    assert layout.level_of(none).shape == (0,)
