"""Fast suppression against a plain restatement, class by class and pair by pair; its memory; where nothing is there."""

import pytest
import torch
from largest import Largest
from torch import Tensor
from torchvision.ops import box_iou

from rst.detectors.detections import fast_nms
from rst.detectors.detections.fast_nms import FastNMS


def candidates(count: int, classes: int, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes around 12 objects, scores (of so many values, so that some are equal), labels."""
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(12, 2, generator=generator)
    objects = torch.cat((corner, corner + 5 + 60 * torch.rand(12, 2, generator=generator)), dim=1)
    boxes = objects[torch.randint(12, (count,), generator=generator)] + 6 * torch.rand(count, 4, generator=generator)
    scores = torch.rand(count, generator=generator)
    scores = scores if levels is None else (scores * levels).ceil() / levels
    return boxes, scores, torch.randint(classes, (count,), generator=generator), objects


def restated(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, per_class: int) -> list[int]:
    """Of each class the best, of which each goes that a better one overlaps by more, whatever became of that one."""
    kept = []
    for label in labels.unique().tolist():
        own = sorted((-float(scores[i]), i) for i in (labels == label).nonzero().flatten().tolist())[:per_class]
        numbers = [i for _, i in own]
        overlap = box_iou(boxes[numbers], boxes[numbers])
        kept += [(score, label, i) for place, (score, i) in enumerate(own) if not (overlap[:place, place] > iou).any()]
    return [i for *_, i in sorted(kept)]


@pytest.mark.parametrize("pairs", [1, 3000, 1 << 22])
@pytest.mark.parametrize("levels", [None, 7])
def test_against_the_restatement(monkeypatch, pairs: int, levels: int | None):
    monkeypatch.setattr(fast_nms, "PAIRS_AT_ONCE", pairs)
    for seed in range(20):
        boxes, scores, labels, _ = candidates(5 + 12 * seed, 1 + seed % 5, seed, levels)
        for iou, per_class in ((0.5, 200), (0.3, 10)):
            kept = FastNMS(per_class)(boxes, scores, labels, iou)
            assert kept.tolist() == restated(boxes, scores, labels, iou, per_class)


def test_a_suppressed_one_suppresses_too():
    """The second overlaps the first and the third; the usual suppression would keep the third."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 3, 10, 13], [0, 6, 10, 16]])
    assert FastNMS()(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long(), 0.5).tolist() == [0]


@pytest.mark.parametrize("classes", [80, 1203])
def test_ten_thousand_candidates_of_all_classes_are_bounded(classes: int):
    """Every candidate above the threshold in every class, as before the first step of a ranking."""
    boxes, *_ = candidates(10_000, 1)
    looked_at = 10_000 if classes == 80 else 250
    boxes = boxes[:looked_at].repeat_interleave(classes, dim=0)
    labels = torch.arange(classes).repeat(looked_at)
    scores = torch.rand(len(labels), generator=torch.Generator().manual_seed(1))
    with Largest() as largest:
        kept = FastNMS()(boxes, scores, labels, 0.5)
    assert (
        largest.numbers <= max(len(labels), 2 * fast_nms.PAIRS_AT_ONCE) < classes * 200**2 * (2 if classes > 80 else 3)
    )
    assert set(labels[kept].tolist()) == set(range(classes))
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)


def test_nothing_is_kept_of_nothing():
    assert FastNMS()(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).tolist() == []
    with pytest.raises(ValueError, match="nms_candidates=0 is not at least 1"):
        FastNMS(0)
