"""The coder's clamp and its inverse; overlaps against numbers worked by hand."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from rst.detectors.geometry.boxes import BoxCoder, paired_giou, paired_iou, pairwise_iou, to_unit_frame

STD = (0.1, 0.1, 0.2, 0.2)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * 40), dim=1)


def test_decode_worked_by_hand():
    # Reference 20 wide, 10 high, centred at (10, 5); dx 1 std = 2 px right, dh = 5 stds = factor e.
    (box,) = BoxCoder(STD).decode_single(torch.tensor([[1.0, -1.0, 0.0, 5.0]]), torch.tensor([[0.0, 0, 20, 10]]))
    half = 5 * math.e
    torch.testing.assert_close(box, torch.tensor([2.0, 4 - half, 22, 4 + half]))


def test_decode_inverts_encode():
    coder, truth, reference = BoxCoder(STD), random_boxes(50, 0), random_boxes(50, 1)
    torch.testing.assert_close(coder.decode_single(coder.encode_single(truth, reference), reference), truth)


@pytest.mark.parametrize("std", [STD, (1.0, 1.0, 1.0, 1.0)])
@pytest.mark.parametrize(("delta", "factor"), [(100.0, 1000 / 16), (-100.0, 16 / 1000)])
def test_size_is_clamped_on_both_sides(std: tuple[float, ...], delta: float, factor: float):
    deltas = torch.tensor([[0.0, 0, delta, delta]], requires_grad=True)
    box = BoxCoder(std).decode_single(deltas, torch.tensor([[-10.0, -1, 10, 1]]))
    torch.testing.assert_close(box, factor * torch.tensor([[-10.0, -1, 10, 1]]))
    box.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad[0, 2:].tolist() == [0, 0]


def test_decode_broadcasts_over_classes():
    coder, reference = BoxCoder(STD), random_boxes(7, 2)
    deltas = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(3))
    together = coder.decode_single(deltas, reference[:, None])
    for c in range(3):
        torch.testing.assert_close(together[:, c], coder.decode_single(deltas[:, c], reference))


@pytest.mark.parametrize(
    ("first", "second", "iou", "giou"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0, 1.0),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        ([0, 0, 1, 1], [2, 0, 3, 1], 0.0, -1 / 3),  # apart by one side: union 2 of an enclosing 3
        ([0, 0, 4, 4], [1, 1, 3, 3], 1 / 4, 1 / 4),  # inside: the enclosing box is the union
        ([0, 0, 0, 0], [0, 0, 2, 2], 0.0, 0.0),  # a point in the corner
        ([5, 5, 5, 5], [5, 5, 5, 5], 0.0, 0.0),  # both a point: floors, not 0 / 0
    ],
)
def test_overlaps_worked_by_hand(first: list[float], second: list[float], iou: float, giou: float):
    a = torch.tensor([first], dtype=torch.float32, requires_grad=True)
    b = torch.tensor([second], dtype=torch.float32)
    assert paired_iou(a, b).item() == pytest.approx(iou, abs=1e-6)
    overlap = paired_giou(a, b)
    assert overlap.item() == pytest.approx(giou, abs=1e-6)
    overlap.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_paired_overlaps_are_the_diagonal_of_all_pairs():
    a, b = random_boxes(40, 4), random_boxes(40, 5)
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())
    torch.testing.assert_close(paired_giou(a, b), generalized_box_iou(a, b).diagonal())


@pytest.mark.parametrize(("truths", "candidates"), [(7, 40), (1, 1), (0, 5), (5, 0)])
def test_all_pairs_are_those_of_torchvision(truths: int, candidates: int):
    a, b = random_boxes(truths, 12), random_boxes(candidates, 13)
    kept = a.clone(), b.clone()
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


def test_all_pairs_without_area_are_zero():
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert pairwise_iou(point, torch.cat((point, random_boxes(1, 0)))).tolist() == [[0, 0]]


def test_iou_of_a_box_with_itself_never_exceeds_one():
    boxes = random_boxes(2000, 6) * 1.37
    assert paired_iou(boxes, boxes).max() <= 1


def test_unit_frame_keeps_overlaps():
    a, b, anchors = random_boxes(40, 7), random_boxes(40, 8), random_boxes(40, 9)
    torch.testing.assert_close(to_unit_frame(anchors, anchors), torch.tensor([[-0.5, -0.5, 0.5, 0.5]]).expand(40, 4))
    in_frame = to_unit_frame(a, anchors), to_unit_frame(b, anchors)
    torch.testing.assert_close(paired_giou(*in_frame), paired_giou(a, b), rtol=1e-4, atol=1e-5)


def test_unit_frame_is_decoding_on_a_unit_anchor():
    coder, truth, anchors = BoxCoder(STD), random_boxes(20, 10), random_boxes(20, 11)
    unit = torch.tensor([[-0.5, -0.5, 0.5, 0.5]]).expand(20, 4)
    decoded = coder.decode_single(coder.encode_single(truth, anchors), unit)
    torch.testing.assert_close(to_unit_frame(truth, anchors), decoded, rtol=1e-4, atol=1e-5)
