"""Proposals and detections of the two-stage detector against plain restatements."""

import torch
from detector_cases import Case
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import clip_boxes_to_image, nms

from rst.detectors import Detections, DetectionSettings, ProposalSettings, TwoStageDetector
from rst.detectors.assignment.scene import Predictions
from rst.detectors.geometry.boxes import BoxCoder
from rst.detectors.heads.box_head import RoIPredictions


def build(**options: object) -> TwoStageDetector:
    model = Case("faster_rcnn", {"loss": "rank_sort"}).build(**options)
    assert isinstance(model, TwoStageDetector)
    return model


def test_proposals_against_a_restatement():
    generator = torch.Generator().manual_seed(0)
    rpn = build(proposals=ProposalSettings(train_pre_nms=40, train_limit=60)).rpn
    sizes = [(64, 90), (50, 96)]
    scene = rpn.anchors.scene([(-(-64 // s), -(-96 // s)) for s in (4, 8, 16, 32, 64)], sizes, (64, 96))
    logits = [torch.randn(2, 3, *size, generator=generator) for size in scene.layout.sizes]
    maps = [torch.randn(2, 12, *size, generator=generator) for size in scene.layout.sizes]
    proposals = rpn.propose(Predictions(logits, maps), scene)
    deltas = torch.cat([scene.layout.by_anchor(level).movedim(2, -1).flatten(1, 2) for level in maps], dim=1)
    logits = [level.flatten(1) for level in logits]
    for i in range(2):
        boxes, scores = [], []
        decoded = BoxCoder((0.1, 0.1, 0.2, 0.2)).decode_single(deltas[i], scene.anchors).split(scene.layout.counts)
        for level, score in zip(decoded, logits, strict=True):
            best = score[i].argsort(descending=True)[:40]
            clipped = clip_boxes_to_image(level[best], sizes[i])
            kept = nms(clipped, score[i][best], 0.7)
            boxes.append(clipped[kept])
            scores.append(score[i][best][kept])
        order = torch.cat(scores).argsort(descending=True)[:60]
        torch.testing.assert_close(proposals[i], torch.cat(boxes)[order])


def test_equal_logits_are_ordered_as_torchvision_orders_them():
    generator = torch.Generator().manual_seed(0)
    rpn = build(proposals=ProposalSettings(train_pre_nms=200, train_limit=300)).rpn
    sizes, anchors = [(128, 120), (100, 128)], rpn.anchors
    scene = anchors.scene([(-(-128 // s), -(-128 // s)) for s in anchors.strides], sizes, (128, 128))
    logits = [torch.randint(-9, 9, (2, 3, *size), generator=generator) / 8 for size in scene.layout.sizes]
    maps = [torch.randn(2, 12, *size, generator=generator) for size in scene.layout.sizes]
    deltas = torch.cat([scene.layout.by_anchor(level).movedim(2, -1).flatten(1, 2) for level in maps], dim=1)
    flat = torch.cat([level.flatten(1) for level in logits], dim=1)
    limits = {"training": 200, "testing": 200}, {"training": 300, "testing": 300}
    oracle = RegionProposalNetwork(AnchorGenerator(((8,),)), rpn.head, 0.7, 0.3, 256, 0.5, *limits, 0.7)
    # as its forward does: the best of each level, then their boxes, then the filter, which ranks them once more
    first, kept, counts = 0, [], []
    for level in logits:
        index = level.flatten(1).topk(min(200, level[0].numel()), dim=1).indices
        kept.append(index + first)
        counts.append(index.shape[1])
        first += level[0].numel()
    chosen = torch.cat(kept, dim=1)
    boxes = rpn.coder.decode_single(deltas.gather(1, chosen[..., None].expand(-1, -1, 4)), scene.anchors[chosen])
    expected, _ = oracle.filter_proposals(boxes, flat.gather(1, chosen), sizes, counts)
    for found, wanted in zip(rpn.propose(Predictions(logits, maps), scene), expected, strict=True):
        assert torch.equal(found, wanted)


def detect(model: TwoStageDetector, logits: Tensor, deltas: Tensor, rois: list[Tensor]) -> list[Detections]:
    return model.box_heads[0].detect(RoIPredictions(logits, deltas), rois, [(100, 100)] * len(rois), model.detections)


def test_detections_worked_by_hand():
    model = build()
    rois = [torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [60, 60, 120, 90]]), torch.zeros(0, 4)]
    scores = torch.tensor([[0.9, 0.2, 0.01], [0.6, 0.7, 0.04], [0.01, 0.05, 0.3]])
    deltas = torch.zeros(3, 3, 4)
    deltas[0, 0, 0] = 1.0  # class 0 of the first RoI moves by 0.1 * 20 pixels
    first, second = detect(model, scores.logit(), deltas, rois)
    # class 0: the second RoI (IoU 0.9) falls to the first; class 1: the other way round; 0.05 is not above 0.05
    torch.testing.assert_close(first.scores, torch.tensor([0.9, 0.7, 0.3]))
    assert first.labels.tolist() == [0, 1, 2]
    assert first.candidate.tolist() == [0, 1, 2]
    torch.testing.assert_close(first.boxes, torch.tensor([[12.0, 10, 32, 30], [11, 10, 31, 30], [60, 60, 100, 90]]))
    assert second.boxes.shape == (0, 4)
    assert second.labels.dtype == torch.int64


def test_detections_are_capped():
    model = build(detections=DetectionSettings(limit=7))
    rois = torch.arange(20)[:, None] * torch.tensor([[5.0, 0, 5, 0]]) + torch.tensor([[0.0, 0, 4, 50]])
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    (found,) = detect(model, logits, torch.zeros(20, 3, 4), [rois])
    torch.testing.assert_close(found.scores, logits.sigmoid().flatten().sort(descending=True).values[:7])
