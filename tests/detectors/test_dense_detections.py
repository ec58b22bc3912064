"""Detections of a dense head against a restatement."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from detector_cases import Batch, Case
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from rst.detectors import DenseDetector, DetectionSettings
from rst.detectors.features.inputs import Batch as PaddedBatch
from rst.detectors.geometry.layout import MapLayout
from rst.detectors.heads.dense_head import DenseOutputs

SIZES = [(64, 90), (50, 96)]


def build(**options: Any) -> DenseDetector:
    model = Case("atss", {"loss": "rank_sort"}).build(**options)
    assert isinstance(model, DenseDetector)
    return model


def random_outputs(model: DenseDetector, centerness: bool) -> DenseOutputs:
    generator = torch.Generator().manual_seed(0)
    cells, per_cell = model.backbone.pyramid.sizes((64, 96)), model.anchors.per_cell

    def maps(channels: int) -> list[Tensor]:
        return [2 * torch.randn(2, per_cell * channels, *size, generator=generator) for size in cells]

    return DenseOutputs(maps(3), maps(4), maps(1) if centerness else None)


@pytest.mark.parametrize("centerness", [False, True])
def test_detections_against_a_restatement(centerness: bool):
    settings = DetectionSettings(nms_iou=0.6)
    options = {"octave_base_scale": 4, "scales_per_octave": 2, "pre_nms": 20, "detections": settings}
    model = build(loss="focal", centerness=centerness, **options)
    outputs = random_outputs(model, centerness)
    anchors = model.anchors(MapLayout.of(outputs.logits, 2))
    model.head.forward = lambda maps: outputs  # type: ignore[method-assign]
    features = OrderedDict(zip(model.backbone.pyramid.names, outputs.logits, strict=True))
    found = model.detect(features, PaddedBatch(torch.zeros(2, 3, 64, 96), SIZES, (64, 96)))
    for image, size in enumerate(SIZES):
        candidates, start = [], 0
        for level, logits in enumerate(outputs.logits):
            height, width = logits.shape[2:]
            of_level = []
            for a in range(2):
                for y in range(height):
                    for x in range(width):
                        scores = logits[image, 3 * a : 3 * a + 3, y, x].sigmoid()
                        factor = torch.ones(())
                        if outputs.auxiliary is not None:
                            factor = outputs.auxiliary[level][image, a, y, x].sigmoid()
                        deltas = outputs.deltas[level][image, 4 * a : 4 * a + 4, y, x]
                        anchor = anchors[start + (a * height + y) * width + x]
                        of_level.append((scores, factor, model.coder.decode_single(deltas, anchor)))
            start += len(of_level)
            of_level.sort(key=lambda candidate: -float(candidate[0].max() * candidate[1]))
            candidates += of_level[:20]
        boxes, scores, labels = [], [], []
        for of_classes, factor, box in candidates:
            for label, score in enumerate(of_classes):
                if score > 0.05:
                    boxes.append(clip_boxes_to_image(box[None], size)[0])
                    scores.append(score * factor)
                    labels.append(label)
        every, values, names = torch.stack(boxes), torch.stack(scores), torch.tensor(labels)
        large = (every[:, 2:] - every[:, :2] >= 1e-2).all(1)
        every, values, names = every[large], values[large], names[large]
        kept = batched_nms(every, values, names, 0.6)[:100]
        torch.testing.assert_close(found[image].boxes, every[kept])
        torch.testing.assert_close(found[image].scores, values[kept])
        assert torch.equal(found[image].labels, names[kept])
    assert len(found[0].boxes) > 20


def test_nothing_above_the_threshold_is_no_detection(batch: Batch):
    found = build(detections=DetectionSettings(score_threshold=0.9)).eval()(batch[0])
    assert [tuple(f["boxes"].shape) for f in found] == [(0, 4), (0, 4)]
