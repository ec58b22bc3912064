"""Detections of a dense head against a restatement, what leaves the model, and a run that learns two images."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from rst.detectors import DenseDetector, atss
from rst.detectors.heads.dense_head import DenseOutputs

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
SIZES = [(64, 90), (50, 96)]


def build(**options: Any) -> DenseDetector:
    torch.manual_seed(0)
    return atss(**({"num_classes": 3, "backbone": "resnet18", "fpn_channels": 16, "head_channels": 64} | options))


def random_outputs(model: DenseDetector, centerness: bool) -> tuple[DenseOutputs, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cells = [(-(-64 // s), -(-96 // s)) for s in model.anchor_generator.strides]
    per_cell = model.anchors_per_cell

    def maps(channels: int) -> list[Tensor]:
        return [2 * torch.randn(2, per_cell * channels, *size, generator=generator) for size in cells]

    outputs = DenseOutputs(maps(3), maps(4), maps(1) if centerness else None)
    anchors = model.anchor_generator(ImageList(torch.zeros(2, 3, 64, 96), SIZES), outputs.logits)[0]
    return outputs, anchors


@pytest.mark.parametrize("centerness", [False, True])
def test_detections_against_a_restatement(centerness: bool):
    model = build(loss="focal", centerness=centerness, octave_base_scale=4, scales_per_octave=2, pre_nms=20)
    outputs, anchors = random_outputs(model, centerness)
    found = model.detect(outputs, anchors, SIZES)
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
                        if outputs.centerness is not None:
                            factor = outputs.centerness[level][image, a, y, x].sigmoid()
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
        torch.testing.assert_close(found[image]["boxes"], every[kept])
        torch.testing.assert_close(found[image]["scores"], values[kept])
        assert torch.equal(found[image]["labels"], names[kept])
    assert len(found[0]["boxes"]) > 20


def test_what_leaves_the_model(batch: Batch):
    model = build(score_threshold=0.001, detections_per_image=7).eval()
    with torch.no_grad():
        found = model(batch[0])
    for image, detections in zip(batch[0], found, strict=True):
        assert set(detections) == {"boxes", "labels", "scores"}
        boxes, labels, scores = detections["boxes"], detections["labels"], detections["scores"]
        assert len(boxes) == len(labels) == len(scores) == 7
        assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)
        assert 0 <= labels.min() <= labels.max() < model.num_classes == 3
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= image.shape[2]
        assert boxes[:, 3].max() <= image.shape[1]


def test_nothing_above_the_threshold_is_no_detection(batch: Batch):
    found = build(score_threshold=0.9).eval()(batch[0])
    assert [tuple(f["boxes"].shape) for f in found] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("loss", ["rank_sort", "alrp"])
def test_copies_and_checkpoints_carry_everything(batch: Batch, loss: str):
    model = build(loss=loss)
    twin = copy.deepcopy(model)
    other = build(loss=loss)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())
    for value, *same in zip(model(*batch).values(), twin(*batch).values(), other(*batch).values(), strict=True):
        assert all(torch.equal(value, found) for found in same)
    assert not [name for name in model.state_dict() if name.startswith(("transform", "anchor"))]


@pytest.mark.parametrize("loss", ["rank_sort", "qfl"])
def test_learns_two_images_by_heart(memorable: Batch, loss: str):
    images, targets = memorable
    # The backbone's random features are enough, and cheaper to leave alone.
    options = {"loss": loss, "frozen_stages": 4, "fpn_channels": 32, "score_threshold": 0.0}
    model = build(num_classes=2, **options)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(images)
    for detections, target in zip(found, targets, strict=True):
        objects = len(target["boxes"])
        overlap, index = box_iou(target["boxes"], detections["boxes"][:objects]).max(dim=1)
        assert overlap.min() > 0.7
        assert torch.equal(detections["labels"][:objects][index], target["labels"])
