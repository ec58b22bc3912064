"""ATSS assignment against a slow, plain restatement of its rule, anchor by anchor; and worked cases."""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from rst.detectors.assignment.adaptive import AdaptiveAssigner
from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.assignment.scene import IGNORED, NEGATIVE, Scene
from rst.detectors.geometry.boxes import paired_iou
from rst.detectors.geometry.ground_truth import GroundTruth
from rst.detectors.geometry.layout import padded_sizes

STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Case:
    """A batch without its pixels."""

    sizes: list[tuple[int, int]]  # height and width of each image
    scales: list[float]
    strides: tuple[int, ...]
    truths: list[Tensor]
    candidates_per_level: int = 9

    def scene(self) -> Scene:
        height, width = (max(sides) for sides in zip(*padded_sizes(self.sizes), strict=True))
        maps = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        truth = GroundTruth(self.truths, [torch.zeros(len(boxes), dtype=torch.int64) for boxes in self.truths])
        return AnchorGenerator(self.strides, self.scales, (1.0,)).scene(maps, self.sizes, (height, width), truth)

    def matched(self) -> list[list[int]]:
        return AdaptiveAssigner(self.candidates_per_level).match(self.scene(), None).tolist()

    def restated(self) -> list[list[int]]:
        scene = self.scene()
        layout, anchors = scene.layout, scene.anchors
        cells: list[np.ndarray] = []  # of each level: (anchors, 4) of y, x, anchor of the cell and number
        first = 0
        for height, width in layout.sizes:
            a, y, x = np.indices((layout.anchors, height, width)).reshape(3, -1)
            cells.append(np.stack([y, x, a, first + np.arange(len(y))], 1))
            first += len(y)
        result, seen = [], 0
        for (height, width), truths in zip(scene.extents, self.truths, strict=True):
            owner, overlap_of = [NEGATIVE] * first, [-1.0] * first
            for g, box in enumerate(truths):
                candidates = []
                for stride, of_level in zip(self.strides, cells, strict=True):
                    inside = of_level[(of_level[:, :2] * stride < [height, width]).all(1)]
                    centre = (0.5 * (box[:2] + box[2:])).flip(0).numpy()  # float32, as the distances are
                    y, x = ((inside[:, :2] * stride).astype(np.float32) - centre).T
                    nearest = np.lexsort((inside[:, 2], inside[:, 1], inside[:, 0], y * y + x * x))
                    candidates += inside[nearest[: self.candidates_per_level], 3].tolist()
                overlaps = paired_iou(anchors[candidates], box).tolist()
                mean = math.fsum(overlaps) / len(overlaps)
                variance = math.fsum((v - mean) ** 2 for v in overlaps) / max(len(overlaps) - 1, 1)
                for number, overlap in zip(candidates, overlaps, strict=True):
                    centre = 0.5 * (anchors[number, :2] + anchors[number, 2:])
                    margin = torch.cat([centre - box[:2], box[2:] - centre]).min()
                    if overlap >= mean + math.sqrt(variance) and margin > 0.01 and overlap > overlap_of[number]:
                        owner[number], overlap_of[number] = seen + g, overlap
            seen += len(truths)
            result.append(owner)
        return result


def random_boxes(draw: random.Random, count: int, height: int, width: int) -> Tensor:
    """Boxes of every kind: anywhere, on the lattice (where distances tie), tiny, huge, across the border, repeated."""
    boxes: list[list[float]] = []
    for _ in range(count):
        kind = draw.choice(["any", "lattice", "tiny", "huge", "border", "same"])
        x, y = draw.uniform(0, width), draw.uniform(0, height)
        w, h = draw.uniform(1, width), draw.uniform(1, height)
        if kind == "lattice":
            x, y = 4.0 * draw.randrange(width // 4), 4.0 * draw.randrange(height // 4)
            w, h = 8.0 * draw.randint(1, 8), 8.0 * draw.randint(1, 8)
        elif kind == "tiny":
            w, h = draw.uniform(1e-3, 3), draw.uniform(1e-3, 3)
        elif kind == "huge":
            w, h = draw.uniform(1, 50) * width, draw.uniform(1, 50) * height
        elif kind == "border":
            x, y = draw.choice([0.0, float(width)]), draw.choice([0.0, float(height)])
        boxes.append(boxes[-1] if kind == "same" and boxes else [x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def random_case(draw: random.Random) -> Case:
    images, per_cell = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3, 4])
    strides = draw.choice([STRIDES, STRIDES[2:], STRIDES[-1:], (16, 64)])
    largest = draw.choice([24, 64, 130])
    sizes = [(draw.randint(8, largest), draw.randint(8, largest)) for _ in range(images)]
    return Case(
        sizes=sizes,
        scales=[draw.choice([2.0, 4.0, 8.0]) * 2 ** (k / per_cell) for k in range(per_cell)],
        strides=strides,
        truths=[random_boxes(draw, draw.choice([0, 1, 2, 5]), *size) for size in sizes],
        candidates_per_level=draw.choice([1, 2, 4, 9, 9, 9]),
    )


@pytest.mark.parametrize("seed", range(10))
def test_thousands_of_random_cases_against_the_restatement(seed: int):
    draw = random.Random(seed)
    positives = 0
    for number in range(200):
        case = random_case(draw)
        expected = case.restated()
        assert case.matched() == expected, f"case {number}: {case}"
        positives += sum(match >= 0 for image in expected for match in image)
    assert positives > 200


def test_one_anchor_per_level():
    truths = [torch.tensor([[0.0, 0, 8, 8], [-30, -30, 30, 30], [1, 1, 7, 7]])]
    case = Case([(8, 8)], [8.0], (32, 64, 128, 256, 512), truths)
    assert len(case.scene().anchors) == 5
    assert case.matched() == case.restated()
    # all five have their centre at (0, 0): outside the third, at the corner of the first
    assert set(case.matched()[0]) == {NEGATIVE, 1}


def test_a_single_candidate_is_its_own_threshold():
    case = Case([(16, 16)], [1.0], (128,), [torch.tensor([[-20.0, -20, 40, 40]])])
    assert case.matched() == [[0]], "published code has a standard deviation of NaN and finds nothing"


def test_equal_overlaps_are_all_positive():
    # four cells around the centre, all with the same overlap: mean + 0 is reached by each
    case = Case([(32, 32)], [2.0], (8,), [torch.tensor([[4.0, 4, 20, 20]])], candidates_per_level=4)
    matched = torch.tensor(case.matched()[0]).view(4, 4)
    assert (matched >= 0).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_equally_near_anchors_are_taken_by_row_column_and_scale():
    case = Case([(32, 32)], [2.0, 2.0], (8,), [torch.tensor([[4.0, 4, 20, 20]])], candidates_per_level=3)
    matched = torch.tensor(case.matched()[0]).view(2, 4, 4)
    assert (matched >= 0).nonzero().tolist() == [[0, 1, 1], [0, 1, 2], [1, 1, 1]]


def test_an_anchor_goes_to_the_larger_overlap_and_then_to_the_first():
    near, far = [0.0, 0, 16, 16], [2.0, 2, 18, 18]
    for order in ([near, far], [far, near]):
        case = Case([(32, 32)], [2.0], (8,), [torch.tensor(order)], candidates_per_level=1)
        assert case.matched()[0][5] == order.index(near)  # the anchor of cell (1, 1), (0, 0, 16, 16)
    case = Case([(32, 32)], [2.0], (8,), [torch.tensor([near, near])], candidates_per_level=1)
    assert set(case.matched()[0]) == {NEGATIVE, 0}


def test_padding_gives_no_candidates():
    # The first image ends after 32 of 64 rows: its nearest cells at the border are inside it all the same.
    truths = [torch.tensor([[4.0, 8, 28, 31.5]]), torch.tensor([[4.0, 8, 28, 31.5]])]
    case = Case([(32, 32), (64, 32)], [2.0], (8,), truths)
    layout = case.scene().layout
    first, second = torch.tensor(case.matched()).view(2, *layout.sizes[0])
    assert not (first[4:] >= 0).any()
    assert (first >= 0).sum() > 0
    assert case.matched() == case.restated()
    assert layout.images == len(second.unique()) == 2
    called = AdaptiveAssigner()(case.scene()).view(2, *layout.sizes[0])  # the padding is ignored, the rest as it was
    assert torch.equal(called[0], torch.where(torch.arange(8)[:, None] < 4, first, IGNORED))
    assert torch.equal(called[1], second)


def test_no_object_at_all():
    case = Case([(32, 32), (40, 16)], [4.0, 5.0, 6.3], STRIDES, [torch.zeros(0, 4)] * 2)
    assert {match for image in case.matched() for match in image} == {NEGATIVE}


def test_matching_waits_for_no_device():
    case = Case([(64, 64)], [4.0], STRIDES, [torch.tensor([[4.0, 8, 28, 31.5]])])
    scene = case.scene()
    with FakeTensorMode() as mode:  # it raises where a value is asked for
        truth = GroundTruth(
            *([mode.from_tensor(t) for t in given] for given in (scene.truth.boxes, scene.truth.labels))
        )
        AdaptiveAssigner()(replace(scene, anchors=mode.from_tensor(scene.anchors), truth=truth))
