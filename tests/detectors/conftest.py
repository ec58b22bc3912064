"""What the detector tests share: a small detector, a small batch, and two images to be learnt by heart."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rst.detectors import FasterRCNN, faster_rcnn

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


@pytest.fixture
def build() -> Callable[..., FasterRCNN]:
    """Builds a ResNet-18 detector of three classes with narrow heads; keywords override."""

    def make(**options: object) -> FasterRCNN:
        torch.manual_seed(0)
        small = {
            "num_classes": 3,
            "backbone": "resnet18",
            "fpn_channels": 16,
            "head_channels": 32,
            "train_pre_nms": 100,
            "train_proposals": 50,
            "test_pre_nms": 100,
            "test_proposals": 50,
        }
        return faster_rcnn(**(small | options))

    return make


@pytest.fixture
def batch() -> Batch:
    """Two images of different sizes, one with two objects and one with one."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 90, 64, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 50], [50, 10, 90, 44]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.tensor([[10.0, 20, 52, 80]]), "labels": torch.tensor([1])},
    ]
    return images, targets


@pytest.fixture
def memorable() -> Batch:
    """Two dark images with bright rectangles, of another colour for each class."""
    generator = torch.Generator().manual_seed(3)
    images, targets = [], []
    for boxes in ([[4, 6, 28, 30], [32, 34, 60, 58]], [[12, 18, 42, 56]]):
        image = torch.rand(3, 64, 64, generator=generator) * 0.2
        for channel, (x1, y1, x2, y2) in enumerate(boxes):
            image[channel, y1:y2, x1:x2] = 1
        images.append(image)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.arange(len(boxes))})
    return images, targets
