"""A detector outside the package, on its public names alone, learns; and what the base class does for masks."""

from pathlib import Path
from typing import ClassVar

import pytest
import third_party_detector
import torch
from detector_cases import Case, bright_rectangles, objects_batch, overfit
from torch import Tensor, nn

from rst import detectors as d
from rst.detectors.assignment.adaptive import AdaptiveAssigner


def test_it_takes_at_most_sixty_lines():
    assert len(Path(third_party_detector.__file__).read_text(encoding="utf-8").splitlines()) <= 60


def test_it_trains_with_rank_sort_and_finds_the_objects():
    torch.manual_seed(0)
    model, batch = third_party_detector.PointDetector(num_classes=2), bright_rectangles()
    assert list(model(*batch)) == ["loss_rank", "loss_sort", "loss_bbox"]
    assert model.statistics["positives_point"] > 0
    overfit(model, batch)


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


class WatchingAssigner(AdaptiveAssigner):
    """Keeps what it sees, as an assigner that needs the step's predictions would use it."""

    uses_predictions = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[d.Predictions] = []

    def match(self, scene: d.Scene, predictions: d.Predictions | None) -> Tensor:
        assert predictions is not None
        self.seen.append(predictions)
        return super().match(scene, predictions)


def test_an_assigner_sees_the_predictions_of_the_step():
    model = Case("atss", {"loss": "rank_sort"}).build()
    model.assigner = watching = WatchingAssigner()
    images, targets = objects_batch()
    model(images, targets)
    found = model.positives(images, targets)["dense"]
    in_training, in_positives = watching.seen
    for logits, deltas, again in zip(*in_training, in_positives.logits, strict=True):
        assert logits.requires_grad, "the maps of this step, as the convolutions return them"
        assert logits.shape[1] == 3 * 3
        assert deltas.shape[1] == 3 * 4
        torch.testing.assert_close(again, logits.detach())
    assert len(found.image) == model.statistics["positives_dense"]
