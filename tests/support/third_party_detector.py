"""A detector as somebody else would write it, on the names that rst.detectors exports: one anchor a cell, Rank & Sort.

n  images    N  cells of an image    G  objects of the batch    C  classes    P  positives
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from rst import detectors as d
from rst.kernels import gather_levels


class CentreAssigner(d.Assigner):
    """The cells around the centre of an object are its positives; of several objects the last."""

    def match(self, scene: d.Scene, predictions: d.Predictions | None) -> Tensor:
        cell = 0.5 * (scene.anchors[:, :2] + scene.anchors[:, 2:])
        match = torch.full((scene.layout.images, len(cell)), d.NEGATIVE)
        for number, (image, box) in enumerate(zip(scene.truth.image, scene.truth.all_boxes, strict=True)):
            offset = (cell - 0.5 * (box[:2] + box[2:])).abs() / (box[2:] - box[:2])
            match[image, (offset < 0.2).all(dim=1)] = number
        return match


class PointDetector(d.Detector):
    """Two convolutions on a feature pyramid."""

    heads: ClassVar = {"point": "points"}

    def __init__(self, num_classes: int) -> None:
        settings = d.BackboneSettings("resnet18", fpn_channels=32)
        super().__init__(d.pyramid_backbone(settings, d.P3_TO_P7), num_classes)
        self.cls, self.box = nn.Conv2d(32, num_classes, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)
        self.anchors, self.assigner = d.AnchorGenerator(d.P3_TO_P7.strides, (4.0,), (1.0,)), CentreAssigner()
        self.loss, self.coder = d.RankSort(), d.BoxCoder((0.1, 0.1, 0.2, 0.2))

    def predict(self, features) -> d.Predictions:
        return d.Predictions(*([layer(level) for level in features.values()] for layer in (self.cls, self.box)))

    def losses(self, features, batch: d.Batch, truth: d.GroundTruth) -> dict[str, d.HeadLosses]:
        predicted, sizes = self.predict(features), self.backbone.pyramid.sizes(batch.padded_size)
        scene = self.anchors.scene(sizes, batch.sizes, batch.padded_size, truth)
        image, cell = ((match := self.assigner(scene)) >= 0).nonzero(as_tuple=True)
        owner, places = match[image, cell], scene.layout.place(image, cell, self.num_classes)  # (P,), (P, C)
        deltas = gather_levels(predicted.deltas, scene.layout.place(image, cell, 4)).float()
        boxes = d.Boxes(deltas, scene.anchors[cell], truth.all_boxes[owner], self.coder)
        index = places.gather(1, truth.all_labels[owner][:, None]).squeeze(1)
        ranked = d.Classification(predicted.logits, None, index, gather_levels(predicted.logits, places).detach())
        return {"point": self.loss(d.HeadOutputs(ranked, {"bbox": boxes}))}

    def detect(self, features, batch: d.Batch) -> list[d.Detections]:
        predicted, sizes = self.predict(features), self.backbone.pyramid.sizes(batch.padded_size)
        anchors, settings = self.anchors.scene(sizes, batch.sizes, batch.padded_size).anchors, d.DetectionSettings(0.0)
        flat = [torch.cat([level.flatten(2).mT for level in maps], 1) for maps in predicted]  # (n, N, C), (n, N, 4)
        boxes = self.coder.decode_single(flat[1], anchors)
        found = zip(flat[0].sigmoid(), boxes, batch.sizes, strict=True)
        return [d.select_detections(s, lambda i, _, b=b: b[i], size, settings) for s, b, size in found]
