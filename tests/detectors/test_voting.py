"""Score voting against a plain restatement, candidate by candidate; its memory; where nothing votes."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rst.detectors import DetectionSettings, select_detections
from rst.detectors.detections import voting
from rst.detectors.detections.voting import ScoreVoting


def candidates(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes around 12 objects, scores, labels of 3 classes, and 20 kept ones."""
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(12, 2, generator=generator)
    objects = torch.cat((corner, corner + 5 + 60 * torch.rand(12, 2, generator=generator)), dim=1)
    around = torch.arange(count) % 12
    boxes = objects[around] + 2 * torch.rand(count, 4, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    return boxes, torch.rand(count, generator=generator), labels, torch.randperm(count, generator=generator)[:20]


def restated(boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    voted = []
    for k in kept.tolist():
        total, weights = torch.zeros(4, dtype=torch.float64), 0.0
        for j in range(len(boxes)):
            iou = float(box_iou(boxes[k : k + 1], boxes[j : j + 1]))
            if labels[j] == labels[k] and iou > 0.01:
                weight = float(scores[j]) * math.exp(-((1 - iou) ** 2) / 0.025)
                total, weights = total + weight * boxes[j].double(), weights + weight
        voted.append(total / weights)
    return torch.stack(voted).float()


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
def test_votes_against_the_restatement(monkeypatch, at_once: int):
    monkeypatch.setattr(voting, "AT_ONCE", at_once)
    given = candidates(200)
    got = ScoreVoting()(*given)
    torch.testing.assert_close(got, restated(*given), rtol=1e-5, atol=1e-3)
    assert not torch.allclose(got, given[0][given[3]], atol=0.1), "the votes move the boxes"


def test_a_candidate_without_neighbours_of_its_class_keeps_its_box():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 70, 70]])
    labels, scores, kept = torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.8, 1e-30]), torch.tensor([0, 1, 2])
    torch.testing.assert_close(ScoreVoting()(boxes, scores, labels, kept), boxes)


def test_it_stands_behind_suppression_and_limit_and_changes_no_score():
    boxes, scores, *_ = candidates(300)
    every = torch.stack((scores, scores.flip(0)), dim=1)
    settings = DetectionSettings(0.05, 0.6, 15)
    plain, refined = (
        select_detections(every, lambda candidate, label: boxes[candidate], (90, 120), settings, refine=refine)
        for refine in (None, ScoreVoting())
    )
    for field in ("scores", "labels", "candidate"):
        assert torch.equal(getattr(plain, field), getattr(refined, field))
    assert len(refined.boxes) == 15
    assert not torch.allclose(plain.boxes, refined.boxes, atol=0.1)
    assert (refined.boxes[:, :2] >= 0).all(), "means of clipped boxes are inside"
    assert (refined.boxes[:, 2:] <= torch.tensor([120, 90])).all()


def test_nothing_kept_and_nothing_there():
    boxes, scores, labels, kept = candidates(5)
    assert ScoreVoting()(boxes, scores, labels, kept[:0]).shape == (0, 4)
    assert ScoreVoting()(boxes[:0], scores[:0], labels[:0], kept[:0]).shape == (0, 4)


def test_memory_is_bounded_at_ten_thousand_candidates(monkeypatch):
    """However many are kept, a million pairs are looked at together."""
    boxes, scores, labels, _ = candidates(10_000)
    largest = []
    overlaps = voting.pairwise_iou

    def watched(truths: Tensor, others: Tensor) -> Tensor:
        largest.append(len(truths) * len(others))
        return overlaps(truths, others)

    monkeypatch.setattr(voting, "pairwise_iou", watched)
    kept = torch.arange(300)
    assert ScoreVoting()(boxes, scores, labels, kept).shape == (300, 4)
    assert max(largest) <= voting.AT_ONCE
    assert sum(largest) == 300 * 10_000
