"""A detector outside the package, on its public names alone, learns; and what the base class does for masks."""

from pathlib import Path
from typing import ClassVar

import pytest
import third_party_detector
import torch
from detector_cases import bright_rectangles
from torch import Tensor, nn
from torchvision.ops import box_iou

from rst import detectors as d


def test_it_takes_at_most_sixty_lines():
    assert len(Path(third_party_detector.__file__).read_text(encoding="utf-8").splitlines()) <= 60


def test_it_trains_with_rank_sort_and_finds_the_objects():
    torch.manual_seed(0)
    images, targets = bright_rectangles()
    model = third_party_detector.PointDetector(num_classes=2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(100):
        optimizer.zero_grad()
        losses = model(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
    assert list(losses) == ["loss_rank", "loss_sort", "loss_bbox"]
    assert model.statistics["positives_point"] > 0
    with torch.no_grad():
        found = model.eval()(images)
    for detections, expected in zip(found, targets, strict=True):
        objects = len(expected["boxes"])
        overlap, index = box_iou(expected["boxes"], detections["boxes"][:objects]).max(dim=1)
        assert overlap.min() > 0.7
        assert torch.equal(detections["labels"][:objects][index], expected["labels"])


class MaskDetector(d.Detector):
    """Detects the objects of its last training step: a detector without a network."""

    heads: ClassVar = {"mask": "masks"}
    iou_types = ("bbox", "segm")

    def __init__(self) -> None:
        super().__init__(nn.Identity(), num_classes=3)  # type: ignore[arg-type]
        self.truth: d.GroundTruth | None = None

    def losses(self, features, batch: d.Batch, truth: d.GroundTruth) -> dict[str, d.HeadLosses]:
        self.truth = truth
        return {"mask": d.HeadLosses({"mask": features.sum()}, {})}

    def detect(self, features: Tensor, batch: d.Batch) -> list[d.Detections]:
        assert self.truth is not None
        assert self.truth.masks is not None
        boxes, labels, masks = self.truth.boxes[0], self.truth.labels[0], self.truth.masks[0]
        height, width = batch.sizes[0]
        masks = masks[:, :height, :width].bool()
        return [d.Detections(boxes, torch.ones(len(boxes)), labels, torch.arange(len(boxes)), masks)]


def test_masks_are_checked_padded_and_returned():
    model, image = MaskDetector(), torch.rand(3, 40, 50)
    boxes = torch.tensor([[5.0, 5, 5, 9], [1, 2, 11, 12]])  # the first has no width
    masks = torch.zeros(2, 40, 50, dtype=torch.uint8)
    masks[1, 2:12, 1:11] = 1
    target = {"boxes": boxes, "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=r"targets\[0\] has no key 'masks'"):
        model([image], [target])
    model([image], [target | {"masks": masks}])
    assert model.truth.masks[0].shape == (1, 64, 64), "in the frame of the padded batch"
    assert model.truth.masks[0].sum() == 100
    (detections,) = model.eval()([image])
    assert torch.equal(detections["masks"], masks[1:].bool())
