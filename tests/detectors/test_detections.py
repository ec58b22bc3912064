"""Proposals and detections against plain restatements, what leaves the model, and a run that learns two images."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from rst.detectors import FasterRCNN, faster_rcnn
from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.geometry.boxes import BoxCoder
from rst.detectors.losses.cross_entropy import SoftmaxCrossEntropy
from rst.detectors.losses.ranking import RankSort

Build = Callable[..., FasterRCNN]
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def test_proposals_against_a_restatement(build: Build):
    generator = torch.Generator().manual_seed(0)
    rpn = build(train_pre_nms=40, train_proposals=60).rpn
    sizes = [(64, 90), (50, 96)]
    images = ImageList(torch.zeros(2, 3, 64, 96), sizes)
    maps = [torch.zeros(2, 1, -(-64 // s), -(-96 // s)) for s in (4, 8, 16, 32, 64)]
    anchors = AnchorGenerator((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))(images, maps)[0]
    counts = [3 * m[0].numel() for m in maps]
    logits = [torch.randn(2, count, generator=generator) for count in counts]
    deltas = torch.randn(2, len(anchors), 4, generator=generator)
    proposals = rpn.propose(logits, deltas, anchors, images)
    for i in range(2):
        boxes, scores = [], []
        decoded = BoxCoder((0.1, 0.1, 0.2, 0.2)).decode_single(deltas[i], anchors).split(counts)
        for level, score in zip(decoded, logits, strict=True):
            best = score[i].argsort(descending=True)[:40]
            clipped = clip_boxes_to_image(level[best], sizes[i])
            kept = nms(clipped, score[i][best], 0.7)
            boxes.append(clipped[kept])
            scores.append(score[i][best][kept])
        order = torch.cat(scores).argsort(descending=True)[:60]
        torch.testing.assert_close(proposals[i], torch.cat(boxes)[order])


def heads(model: FasterRCNN, logits: Tensor, deltas: Tensor, rois: list[Tensor]):
    shapes = [(100, 100)] * len(rois)
    return model.roi_heads.postprocess_detections(logits, deltas, rois, shapes)


def test_detections_worked_by_hand(build: Build):
    model = build(score_threshold=0.05)
    rois = [torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [60, 60, 120, 90]]), torch.zeros(0, 4)]
    scores = torch.tensor([[0.9, 0.2, 0.01], [0.6, 0.7, 0.04], [0.01, 0.05, 0.3]])
    deltas = torch.zeros(3, 3, 4)
    deltas[0, 0, 0] = 1.0  # class 0 of the first RoI moves by 0.1 * 20 pixels
    boxes, found, labels = heads(model, scores.logit(), deltas, rois)
    # class 0: the second RoI (IoU 0.9) falls to the first; class 1: the other way round; 0.05 is not above 0.05
    torch.testing.assert_close(found[0], torch.tensor([0.9, 0.7, 0.3]))
    assert labels[0].tolist() == [0, 1, 2]
    torch.testing.assert_close(boxes[0], torch.tensor([[12.0, 10, 32, 30], [11, 10, 31, 30], [60, 60, 100, 90]]))
    assert boxes[1].shape == (0, 4)
    assert labels[1].dtype == torch.int64


def test_detections_are_capped(build: Build):
    model = build(detections_per_image=7)
    rois = torch.arange(20)[:, None] * torch.tensor([[5.0, 0, 5, 0]]) + torch.tensor([[0.0, 0, 4, 50]])
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    _, found, _ = heads(model, logits, torch.zeros(20, 3, 4), [rois])
    torch.testing.assert_close(found[0], logits.sigmoid().flatten().sort(descending=True).values[:7])


def test_scores_of_each_loss():
    logits = torch.tensor([[1.0, -1.0, 0.5]])
    torch.testing.assert_close(RankSort().scores(logits), logits.sigmoid())
    torch.testing.assert_close(SoftmaxCrossEntropy().scores(logits), logits.softmax(1)[:, :2])


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_what_leaves_the_model(build: Build, batch: Batch, loss: str):
    model = build(loss=loss).eval()
    found = model(batch[0])
    for image, detections in zip(batch[0], found, strict=True):
        assert set(detections) == {"boxes", "labels", "scores"}
        boxes, labels, scores = detections["boxes"], detections["labels"], detections["scores"]
        assert len(boxes) == len(labels) == len(scores) > 0
        assert boxes.dtype == scores.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert 0 <= labels.min() <= labels.max() < model.num_classes == 3
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert boxes[:, :2].min() >= 0
        assert boxes[:, 2].max() <= image.shape[2]
        assert boxes[:, 3].max() <= image.shape[1]


def test_neighbours_in_a_batch_change_nothing(build: Build, batch: Batch):
    model, first = build().eval(), batch[0][0]
    with torch.no_grad():
        (alone,) = model([first])
        together = model([first, first.flip(2)])[0]
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-3)


def test_copies_and_checkpoints_carry_everything(build: Build, batch: Batch):
    model = build()
    twin = copy.deepcopy(model)
    other = build()
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(model.state_dict())
    for loss, *same in zip(model(*batch).values(), twin(*batch).values(), other(*batch).values(), strict=True):
        assert all(torch.equal(loss, value) for value in same)
    names = set(model.state_dict())
    assert not [n for n in names if n.startswith(("transform", "rpn.anchor"))]


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_learns_two_images_by_heart(memorable: Batch, loss: str):
    torch.manual_seed(0)
    images, targets = memorable
    # The backbone's random features are enough, and cheaper to leave alone.
    model = faster_rcnn(
        2,
        backbone="resnet18",
        loss=loss,
        frozen_stages=4,
        fpn_channels=32,
        head_channels=64,
        anchor_scale=6,
        train_pre_nms=128,
        train_proposals=64,
        test_pre_nms=128,
        test_proposals=64,
    )
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(images)
    for detections, target in zip(found, targets, strict=True):
        objects = len(target["boxes"])
        best, iou = detections["labels"][:objects], box_iou(target["boxes"], detections["boxes"][:objects])
        assert detections["scores"][:objects].min() > 0.7
        overlap, index = iou.max(dim=1)
        assert overlap.min() > 0.7
        assert torch.equal(best[index], target["labels"])
