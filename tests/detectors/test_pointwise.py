"""Focal and quality focal loss against dense statements of both, and what they do at their edges."""

import pytest
import torch
from head_outputs import boxes_of_height, head_outputs
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from rst.detectors import HeadOutputs
from rst.detectors.losses.pointwise import Focal, PointwiseLoss, QualityFocal, negative_sum

LOSSES = pytest.mark.parametrize("loss", [Focal(), QualityFocal()], ids=["focal", "qfl"])
SHAPES = [(2, 6, 3, 5), (2, 6, 2, 2)]
INDEX = torch.tensor([3, 40, 100, 181, 203])  # the last two in the second level


def outputs(levels: list[Tensor], ignore: list[Tensor] | None, index: Tensor = INDEX) -> HeadOutputs:
    """Positives whose predicted boxes overlap their truths by 0.2, 0.4 ... 1."""
    return head_outputs(levels, index, boxes_of_height(*range(2, 2 * len(index) + 1, 2)), ignore=ignore)


def levels(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [(3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in SHAPES]


def densely(loss: PointwiseLoss, maps: list[Tensor], ignore: list[Tensor] | None) -> Tensor:
    """The same with a target for every logit."""
    flat = torch.cat([level.double().flatten() for level in maps])
    quality = torch.arange(1, len(INDEX) + 1, dtype=torch.float64) / 5
    if isinstance(loss, Focal):
        truth = torch.zeros_like(flat)
        truth[INDEX] = 1
        losses = sigmoid_focal_loss(flat, truth, alpha=0.25, gamma=2)
    else:
        score = torch.zeros_like(flat)
        score[INDEX] = quality
        entropy = F.binary_cross_entropy_with_logits(flat, score, reduction="none")
        losses = entropy * (score - flat.sigmoid()).abs() ** 2
    kept = torch.ones_like(flat, dtype=torch.bool)
    if ignore is not None:
        kept = ~torch.cat([mask.flatten() for mask in ignore])
    return losses[kept].sum() / len(INDEX)


@LOSSES
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_dense_statement(loss: PointwiseLoss, masked: bool):
    maps, twins = levels(), levels()
    ignore = None
    if masked:
        ignore = [torch.zeros(shape, dtype=torch.bool) for shape in SHAPES]
        ignore[0][1, :, 2] = True
        ignore[0].view(-1)[INDEX[:3]] = False  # a positive is never ignored
    got = loss(outputs(maps, ignore)).terms["cls"]
    expected = densely(loss, twins, ignore)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    got.backward()
    expected.backward()
    for level, twin in zip(maps, twins, strict=True):
        torch.testing.assert_close(level.grad, twin.grad, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_negatives_is_the_derivative():
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for gamma in (1.5, 2.0):
        given = logits.clone().requires_grad_()
        negative_sum(given, None, gamma).backward()
        twin = logits.double().requires_grad_()
        (twin.sigmoid() ** gamma * F.softplus(twin)).sum().backward()
        torch.testing.assert_close(given.grad, twin.grad.float())


@LOSSES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss: PointwiseLoss, dtype: torch.dtype):
    maps = levels(dtype)
    exact = [level.detach().float().requires_grad_() for level in maps]
    got, expected = (loss(outputs(given, None)).terms["cls"] for given in (maps, exact))
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    got.backward()
    assert all(level.grad is not None and level.grad.dtype == dtype for level in maps)


@LOSSES
def test_large_and_infinite_logits_of_negatives(loss: PointwiseLoss):
    maps = [torch.tensor([[[[-torch.inf, -200.0, 0.0, 60.0]]]], requires_grad=True)]
    term = loss(outputs(maps, None, torch.tensor([2]))).terms["cls"]
    term.backward()
    assert term.item() == pytest.approx(loss.negative_weight * 60, rel=0.01)
    assert maps[0].grad is not None
    assert maps[0].grad.isfinite().all()
    assert maps[0].grad.flatten()[:2].tolist() == [0, 0]


@LOSSES
def test_a_nan_is_not_hidden_unless_it_is_ignored(loss: PointwiseLoss):
    level = torch.tensor([[0.0, torch.nan, 1.0]], requires_grad=True)
    mask = torch.tensor([[False, True, False]])
    assert loss(outputs([level], None, torch.tensor([0]))).terms["cls"].isnan()
    term = loss(outputs([level], [mask], torch.tensor([0]))).terms["cls"]
    term.backward()
    assert term.isfinite()
    assert level.grad is not None
    assert level.grad[0, 1] == 0


@LOSSES
def test_without_positives_the_negatives_count_as_if_there_were_one(loss: PointwiseLoss):
    maps = levels()
    terms = loss(outputs(maps, None, torch.zeros(0, dtype=torch.int64))).terms
    expected = loss.negative_weight * sum(negative_sum(level, None, 2.0) for level in maps)
    torch.testing.assert_close(terms["cls"], expected)
    assert terms["bbox"].item() == 0
