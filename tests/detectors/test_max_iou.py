"""The matcher against the paper's assigner restated as loops; what a sampler leaves of a match."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.assignment.max_iou import MaxIoUAssigner, MaxIoUMatcher, match_batch
from rst.detectors.assignment.sampling import SampledAssigner, subsample
from rst.detectors.assignment.scene import IGNORED, NEGATIVE
from rst.detectors.geometry.ground_truth import GroundTruth


def restated(iou: Tensor, positive: float, negative: float, low_quality: bool, min_positive: float) -> list[int]:
    result = []
    for n in range(iou.shape[1]):
        column = iou[:, n].tolist()
        best = max(column)
        result.append(column.index(best) if best >= positive else NEGATIVE if best < negative else IGNORED)
    if low_quality:
        for g in range(iou.shape[0]):
            row = iou[g].tolist()
            best = max(row)
            if best >= min_positive and best > 0:
                for n, value in enumerate(row):
                    if value == best:
                        result[n] = g
    return result


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(("positive", "negative", "min_positive"), [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.5, 0.4, 0.0)])
def test_against_loops_with_ties(positive: float, negative: float, min_positive: float, low_quality: bool):
    generator = torch.Generator().manual_seed(0)
    matcher = MaxIoUMatcher(positive, negative, low_quality=low_quality, min_positive_iou=min_positive)
    for case in range(60):
        shape = (1 + case % 5, 1 + (7 * case) % 40)
        iou = torch.randint(0, 11, shape, generator=generator).double() / 10  # eleven values: many ties
        if case % 3 == 0:
            iou *= 0.5  # rows whose best is below every threshold
        assert matcher(iou).tolist() == restated(iou, positive, negative, low_quality, min_positive), iou


def test_an_object_below_min_positive_iou_takes_nothing():
    iou = torch.tensor([[0.29, 0.1, 0.0], [0.0, 0.0, 0.31]])
    assert MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3)(iou).tolist() == [NEGATIVE, NEGATIVE, 1]


def test_a_tie_is_taken_from_the_candidates_own_best():
    # Candidate 0 overlaps object 1 more, but it is the best one of object 0.
    iou = torch.tensor([[0.4, 0.0], [0.75, 0.8]])
    assert MaxIoUMatcher(0.7, 0.3, low_quality=True, min_positive_iou=0.3)(iou).tolist() == [0, 1]


def test_no_object_and_no_candidates():
    matcher = MaxIoUMatcher(0.7, 0.3, low_quality=True)
    assert matcher(torch.zeros(0, 4)).tolist() == [NEGATIVE] * 4
    assert matcher(torch.zeros(2, 0)).tolist() == []


def test_objects_count_through_the_batch():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    nothing = torch.zeros(0, 4)
    matches = match_batch(MaxIoUMatcher(0.5, 0.5), [boxes, boxes, boxes], [boxes, nothing, boxes.flip(0)])
    assert [m.tolist() for m in matches] == [[0, 1], [NEGATIVE, NEGATIVE], [3, 2]]


def test_sampler_keeps_matches_in_place():
    torch.manual_seed(0)
    matches = [torch.tensor([5, NEGATIVE, IGNORED, 0, NEGATIVE, NEGATIVE, 7, NEGATIVE]), torch.tensor([NEGATIVE] * 3)]
    for _ in range(20):
        sampled = subsample(BalancedPositiveNegativeSampler(4, 0.5), matches)
        for before, after in zip(matches, sampled, strict=True):
            assert ((after == before) | (after == IGNORED)).all()
        assert [(s >= 0).sum() for s in sampled] == [2, 0]
        assert [(s == NEGATIVE).sum() for s in sampled] == [2, 3]


def test_no_sampler_changes_nothing():
    matches = [torch.tensor([0, NEGATIVE, IGNORED])]
    assert subsample(None, matches) is matches


def test_assigners_match_the_anchors_of_each_image_and_sample_outside_of_its_padding():
    sizes = [(32, 32), (64, 64)]  # the first has 4 x 4 of the 8 x 8 cells
    truth = GroundTruth([torch.tensor([[4.0, 4, 20, 20]])] * 2, [torch.tensor([0])] * 2)
    scene = AnchorGenerator((8,), (2.0,), (1.0,)).scene([(8, 8)], sizes, (64, 64), truth)
    assigner = MaxIoUAssigner(MaxIoUMatcher(0.3, 0.3))
    match = assigner(scene)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4, :4] = True
    assert torch.equal(match[0] != IGNORED, inside.flatten())
    assert (match[0] == 0).nonzero().tolist() == [[9], [10], [17], [18]]
    assert (match[1] == 1).nonzero().tolist() == [[9], [10], [17], [18]]
    torch.manual_seed(0)
    sampled = SampledAssigner(assigner, BalancedPositiveNegativeSampler(12, 0.25))(scene)
    assert ((sampled == match) | (sampled == IGNORED)).all()
    assert (sampled >= 0).sum(1).tolist() == [3, 3]
    assert (sampled == NEGATIVE).sum(1).tolist() == [9, 9]
