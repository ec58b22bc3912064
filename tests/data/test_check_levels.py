"""The estimate of positive anchors per level against the detectors' own anchors and matching."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from rst.data.check.levels import PADDING, RATIOS, STRIDES, positives_per_level
from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.assignment.max_iou import MaxIoUMatcher, match_batch
from rst.detectors.features.inputs import PADDING as PADDING_OF_THE_DETECTORS

HEIGHT, WIDTH = 500, 750


def counted(boxes: np.ndarray, scale: float) -> np.ndarray:
    """(K, 5) positives per level that the RPN's matcher finds for each box alone."""
    height, width = (-(-side // PADDING) * PADDING for side in (HEIGHT, WIDTH))
    maps = [torch.zeros(1, 1, height // stride, width // stride) for stride in STRIDES]
    generator = AnchorGenerator(STRIDES, (scale,), RATIOS)
    anchors = generator(ImageList(torch.zeros(1, 3, height, width), [(HEIGHT, WIDTH)]), maps)[0]
    level = torch.repeat_interleave(torch.arange(5), torch.tensor([3 * m.shape[-2] * m.shape[-1] for m in maps]))
    matcher = MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3)
    counts = []
    for box in torch.tensor(boxes, dtype=torch.float32):
        match = match_batch(matcher, [anchors], [box[None]])[0]
        counts.append(torch.bincount(level[match >= 0], minlength=5))
    return torch.stack(counts).numpy()


def some_boxes(count: int, least: float, most: float) -> np.ndarray:
    """Boxes of many forms anywhere in the picture, some cut by its border."""
    random = np.random.default_rng(1)
    root = np.exp(random.uniform(np.log(least), np.log(most), (count, 1)))
    stretch = np.exp(random.uniform(-0.7, 0.7, (count, 1)) / 2)
    half = np.concatenate([root * stretch, root / stretch], 1) / 2
    centre = random.uniform([0, 0], [WIDTH, HEIGHT], (count, 2))
    boxes = np.concatenate([centre - half, centre + half], 1).clip(0, [WIDTH, HEIGHT] * 2)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]


def estimate(boxes: np.ndarray, **options) -> tuple[np.ndarray, float]:
    return positives_per_level(boxes, np.full((len(boxes), 2), [HEIGHT, WIDTH]), **options)


@pytest.mark.parametrize(("least", "most", "scale"), [(20, 300, 8.0), (4, 40, 8.0), (24, 60, 4.0), (100, 500, 8.0)])
def test_objects_alone_have_the_positives_that_the_matcher_gives_them(least, most, scale):
    boxes = some_boxes(150, least, most)
    found = counted(boxes, scale)
    each, without = estimate(boxes, scale=scale)
    # the same IoUs to a rounding, on which a tie may depend
    np.testing.assert_allclose(each, found.mean(0), rtol=0.08, atol=0.03)
    assert without == pytest.approx((found.sum(1) == 0).mean(), abs=0.01)


def test_the_padding_is_the_detectors():
    assert PADDING == PADDING_OF_THE_DETECTORS


def test_a_sample_stands_for_all():
    boxes = some_boxes(3000, 10, 300)
    each, _ = estimate(boxes, sample=300)
    whole, _ = estimate(boxes, sample=3000)
    np.testing.assert_allclose(each, whole, rtol=0.5, atol=0.2)
    assert each.sum() == pytest.approx(whole.sum(), rel=0.2)


def test_objects_no_anchor_reaches_have_none():
    each, without = estimate(np.array([[100, 100, 104, 104], [0, 100, 700, 103], [100, 100, 164, 164.0]]))
    assert without == pytest.approx(2 / 3)
    assert each[1] > 0
    assert each[[0, 2, 3, 4]].sum() == 0
    assert estimate(np.zeros((0, 4)))[0].tolist() == [0.0] * 5
