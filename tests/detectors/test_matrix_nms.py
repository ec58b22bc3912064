"""Points NMS and matrix NMS against plain restatements, their memory at ten thousand, and what is made of an image."""

import math
from typing import Any

import pytest
import torch
from largest import Largest
from torch import Tensor

from rst.detectors import MaskDetectionSettings
from rst.detectors.detections import matrix_nms as module
from rst.detectors.detections.matrix_nms import matrix_nms, points_nms
from rst.detectors.detections.select_masks import select_masks


def ellipses(count: int, seed: int = 0, side: int = 24) -> Tensor:
    """(count, side, side) bool, around 6 places, so that they overlap."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(6, 2, generator=generator)[torch.arange(count) % 6] * side
    centre = (place + torch.randn(count, 2, generator=generator))[:, :, None, None]
    radius = (2 + 5 * torch.rand(count, 2, generator=generator))[:, :, None, None]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    offset = (torch.stack((x, y)) - centre) / radius
    return offset.square().sum(1) <= 1


def restated(masks: Tensor, labels: Tensor, sigma: float) -> list[float]:
    """Mask by mask, from the best on."""

    def iou(i: int, j: int) -> float:
        either = int((masks[i] | masks[j]).sum())
        return int((masks[i] & masks[j]).sum()) / either if either else 0.0

    better = [[i for i in range(j) if labels[i] == labels[j]] for j in range(len(masks))]
    largest = [max((iou(i, j) for i in better[j]), default=0.0) for j in range(len(masks))]
    return [
        min((math.exp(-sigma * (iou(i, j) ** 2 - largest[i] ** 2)) for i in better[j]), default=1.0)
        for j in range(len(masks))
    ]


@pytest.mark.parametrize("sigma", [2.0, 0.5])
@pytest.mark.parametrize("at_once", [200, 700, 2**24])
def test_matrix_nms_against_the_restatement(monkeypatch: pytest.MonkeyPatch, at_once: int, sigma: float):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", at_once)
    for seed in range(3):
        masks = ellipses(40, seed)
        masks[7] = False  # an empty one
        masks[20] = masks[2]  # the same twice
        labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(seed))
        got = matrix_nms(masks, labels, sigma)
        expected = torch.tensor(restated(masks, labels, sigma)).clamp(max=1)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        assert got.min() < 0.9


def test_a_suppressed_mask_suppresses_less():
    masks = torch.zeros(3, 1, 10, dtype=torch.bool)
    masks[0, 0, :6] = masks[1, 0, 1:7] = masks[2, 0, 4:10] = True
    together, alone = (matrix_nms(some, torch.zeros(len(some), dtype=torch.int64)) for some in (masks, masks[1:]))
    assert together[2] > alone[1]
    assert matrix_nms(masks, torch.arange(3)).tolist() == [1, 1, 1], "classes do not meet"
    assert matrix_nms(masks[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_no_count(dtype: torch.dtype):
    masks, labels = ellipses(12, side=400), torch.zeros(12, dtype=torch.int64)
    exact = matrix_nms(masks, labels)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(matrix_nms(masks, labels), exact)


def test_memory_is_bounded_at_ten_thousand_masks():
    """Neither a matrix of 10,000 x 10,000 nor the masks as floats of more than the bound."""
    masks = ellipses(10_000, side=14)
    with Largest() as largest:
        factors = matrix_nms(masks, torch.zeros(10_000, dtype=torch.int64))
    assert factors.shape == (10_000,)
    assert largest.numbers <= module.NUMBERS_AT_ONCE


def test_points_nms_against_the_restatement():
    scores = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 2, 2] = scores[0, 0, 2, 3] = 2.0  # equals stay
    expected = torch.zeros_like(scores)
    for image in range(2):
        for label in range(3):
            plane = scores[image, label]
            for row in range(7):
                for column in range(7):
                    around = plane[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
                    if plane[row, column] == around.max():
                        expected[image, label, row, column] = plane[row, column]
    assert torch.equal(points_nms(scores), expected)
    assert (expected == 2).sum() == 2


FEATURES = torch.stack(
    [torch.full((4, 6), 1.0), torch.linspace(-9, 9, 6).expand(4, 6), torch.linspace(-9, 9, 4)[:, None].expand(4, 6)]
)
RIGHT, LEFT, BELOW = [0.0, 1, 0], [0.0, -1, 0], [0.0, 0, 1]
NOWHERE, WEAK = [-9.0, 0, 0], [0.0, 0.05, 0]


def select(scores: list[list[float]], kernels: list[list[float]], **settings: Any) -> Any:
    least = torch.zeros(len(kernels), dtype=torch.int64)
    chosen = MaskDetectionSettings(**settings)
    return select_masks(torch.tensor(scores), torch.tensor(kernels), FEATURES, least, (14, 22), chosen)


def test_masks_are_enlarged_cut_and_boxed():
    found = select([[0.9, 0.0], [0.0, 0.8]], [RIGHT, BELOW])
    assert found.masks.shape == (2, 14, 22)
    assert found.boxes.tolist() == [[12, 0, 22, 14], [0, 8, 22, 14]]
    assert found.labels.tolist() == [0, 1]
    assert found.candidate.tolist() == [0, 1]
    assert found.masks[0, :, 12:].all()
    assert not found.masks[0, :, :12].any()


def test_scores_are_products_of_score_maskness_and_suppression():
    found = select([[0.9], [0.8], [0.7]], [RIGHT, RIGHT, LEFT])
    probabilities = torch.linspace(-9, 9, 6)[3:].sigmoid()
    maskness = probabilities.mean().item()
    assert found.scores.tolist() == pytest.approx([0.9 * maskness, 0.7 * maskness, 0.8 * maskness * math.exp(-2)])
    assert found.candidate.tolist() == [0, 2, 1]
    assert select([[0.9], [0.8], [0.7]], [RIGHT, RIGHT, LEFT], update_threshold=0.2).candidate.tolist() == [0, 2]
    assert select([[0.9], [0.8]], [RIGHT, RIGHT], sigma=1e-9).scores.tolist() == pytest.approx(
        [0.9 * maskness, 0.8 * maskness]
    )


def test_two_classes_of_a_cell_share_its_mask_and_do_not_suppress_each_other():
    found = select([[0.9, 0.5]], [RIGHT])
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.masks[0], found.masks[1])
    assert found.scores[1] / found.scores[0] == pytest.approx(5 / 9)


def test_what_is_left_out():
    assert len(select([[0.9], [0.1]], [RIGHT, LEFT], score_threshold=0.1).scores) == 1
    assert len(select([[0.9], [0.8], [0.7]], [RIGHT, LEFT, BELOW], limit=2).scores) == 2
    assert select([[0.6], [0.8], [0.7]], [RIGHT, LEFT, BELOW], pre_nms=1).candidate.tolist() == [1]
    empty = select([[0.9]], [NOWHERE])
    assert (empty.boxes.shape, empty.masks.shape, empty.scores.shape) == ((0, 4), (0, 14, 22), (0,))
    least = torch.tensor([12, 11])  # cells: the masks have 12, and must have more
    kernels = torch.tensor([RIGHT, LEFT])
    found = select_masks(torch.full((2, 1), 0.9), kernels, FEATURES, least, (14, 22), MaskDetectionSettings())
    assert found.candidate.tolist() == [1]
    in_padding = torch.zeros(3, 4, 6)
    in_padding[0], in_padding[0, :, 5] = -9.0, 9.0  # the last column, which an image of 18 pixels does not have
    found = select_masks(
        torch.full((1, 1), 0.9),
        torch.tensor([[1.0, 0, 0]]),
        in_padding,
        least[:1] * 0,
        (14, 18),
        MaskDetectionSettings(),
    )
    assert len(found.boxes) == 0


@pytest.mark.parametrize("cells_at_once", [1, 24, 2**25])
def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, cells_at_once: int):
    generator = torch.Generator().manual_seed(3)
    scores, kernels = torch.rand(60, 2, generator=generator), torch.randn(60, 3, generator=generator)
    given = (scores, kernels, FEATURES, torch.zeros(60, dtype=torch.int64), (14, 22), MaskDetectionSettings())
    expected = select_masks(*given)
    monkeypatch.setattr("rst.detectors.detections.select_masks.PIXELS_AT_ONCE", cells_at_once)
    found = select_masks(*given)
    assert len(found.boxes) > 5
    for name in ("candidate", "labels", "masks", "boxes"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_memory_of_an_image_is_bounded_by_the_best_and_not_by_the_cells(monkeypatch: pytest.MonkeyPatch):
    bound = 40_000
    monkeypatch.setattr("rst.detectors.detections.select_masks.PIXELS_AT_ONCE", bound)
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(8, 50, 60, generator=generator)
    kernels, scores = torch.randn(3872, 8, generator=generator), torch.rand(3872, 3, generator=generator)
    with Largest() as largest:
        found = select_masks(
            scores,
            kernels,
            features,
            torch.zeros(3872, dtype=torch.int64),
            (200, 240),
            MaskDetectionSettings(pre_nms=20),
        )
    assert len(found.boxes) > 10
    assert largest.numbers <= 100 * 200 * 240 < 3872 * 50 * 60, "the masks that are returned are the largest"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 2}, "detections.score_threshold=2 is not"),
        ({"update_threshold": -1}, "detections.update_threshold=-1 is not"),
        ({"mask_threshold": 1.5}, "detections.mask_threshold=1.5 is not"),
        ({"pre_nms": 0}, "detections.pre_nms=0 is not at least 1"),
        ({"limit": 2.5}, "detections.limit=2.5 is not a whole number"),
        ({"sigma": 0}, "detections.sigma=0 is not above 0"),
        ({"least_cells": (1, -1, 1, 1, 1)}, "detections.least_cells=-1 is not at least 0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        MaskDetectionSettings(**options)
