"""Every loss on every float dtype and memory layout: only the stated roundings change a result.

P  positives
"""

import pytest
import torch
from every_loss import errors_of, every_backend, every_loss, outcome, outside_of_backends, weighted_rank_sort
from rank_sort_cases import INTERPRETED, Ranking, named, random_ranking
from torch import Tensor, nn

from rst.kernels import SparseTargets, alrp
from rst.kernels.targets import build_ranking

DTYPES = [torch.float16, torch.bfloat16] + ([] if INTERPRETED else [torch.float32, torch.float64])


def rankings() -> dict[str, Ranking]:
    few = {
        "crowded": random_ranking(72, 300, 20, spread=1e-2, lift=0.0),  # most differences are lost in the rounding
        "hard step": random_ranking(73, 300, 20, 0.0, spread=20.0),  # bfloat16 has eighths and quarters from 16 to 64
    }
    if INTERPRETED:
        return few
    return few | {
        "typical": random_ranking(70, 600, 40),
        "ties": random_ranking(71, 600, 40, ties=0.25),
        "large": random_ranking(74, 600, 40, spread=300.0),
        "three positives": random_ranking(75, 600, 3),
    }


@every_backend
@every_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", rankings())
def test_equals_the_float64_equations_of_the_same_rounded_logits(backend, device, loss, dtype, name):
    """Half precision only rounds the logits before, and the gradient after."""
    if backend.startswith("triton") and dtype == torch.float64:
        pytest.skip("Triton computes in float32")
    ranking = rankings()[name].to(dtype)
    if dtype == torch.bfloat16:
        assert len(ranking.logits.unique()) < 0.9 * len(ranking.logits), "hardly any ties"
    value, gradient = outcome(loss, ranking, backend, device)
    truth, true_gradient = outcome(loss, ranking.to(torch.float64), "reference")
    yardstick, yardstick_gradient = outcome(loss, ranking.to(torch.float32), "reference")
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    assert abs(value.double() - truth) <= (yardstick.double() - truth).abs() + 2e-7
    error = (gradient.double() - true_gradient).abs()
    # to nearest: half a unit in the last place, of a normal or a subnormal number; Triton's interpreter cuts off
    units = 1.0 if INTERPRETED and dtype == torch.bfloat16 else 0.5
    limits = torch.finfo(dtype)
    rounding = units * limits.eps * (true_gradient.abs() + limits.smallest_normal)
    computing = (yardstick_gradient.double() - true_gradient).abs().sum() + 1e-6 * true_gradient.abs().sum()
    assert (error - 1.001 * rounding).clamp(min=0).sum() <= computing


@outside_of_backends
@every_backend
@every_loss
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_a_head_under_autocast(backend, device, loss, half):
    """The logits come out of a matrix product in half precision; the loss takes them as they are, in float32."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(200, 6, generator=generator).to(device)
    targets = random_ranking(76, 200, 15).targets.to(device)
    error = errors_of(random_ranking(76, 200, 15)).to(device)
    torch.manual_seed(0)
    head = nn.Linear(6, 1).to(device)

    def gradients(inside: bool) -> tuple[Tensor, list[Tensor]]:
        head.zero_grad()
        with torch.autocast(device, dtype=half):
            logits = head(features)[:, 0]
            assert logits.dtype == half
            if inside:
                value = loss(logits, targets, error, **named(backend))
        if not inside:
            value = loss(logits, targets, error, **named(backend))
        value.backward()
        return value.detach(), [parameter.grad.clone() for parameter in head.parameters()]

    value, inside = gradients(True)
    expected, outside = gradients(False)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert all(torch.equal(mine, other) for mine, other in zip(inside, outside, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in inside)


@outside_of_backends
@every_backend
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_qualities_and_errors(backend, device, half):
    """They are widened too, and the gradient of the localisation errors has their dtype."""
    ranking = random_ranking(77, 300, 20)
    index = (ranking.targets > 0).nonzero()[:, 0]
    quality, error = ranking.targets[index].to(half), errors_of(ranking).to(half)
    got = []
    for dtype in (half, torch.float32):
        logits = ranking.logits.clone().to(device).requires_grad_()
        targets = SparseTargets(index.to(device), quality.to(device, dtype))
        mine = error.to(device, dtype).clone().requires_grad_()
        value = weighted_rank_sort(logits, targets, None, **named(backend))
        value = value + sum(alrp(logits, targets, mine, **named(backend)))
        value.backward()
        assert logits.grad is not None
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        got.append((value, logits.grad, mine.grad.float()))
    assert torch.equal(got[0][0], got[1][0])
    assert torch.equal(got[0][1], got[1][1])
    torch.testing.assert_close(got[0][2], got[1][2], rtol=torch.finfo(half).eps, atol=1e-7)


def layouts() -> dict[str, tuple]:
    """name -> (shape of the stored tensor, function that makes the view); the view is (2, 3, 8, 10)."""
    return {
        "transposed": ((10, 8, 3, 2), lambda stored: stored.permute(3, 2, 1, 0)),
        "strided": ((4, 3, 16, 30), lambda stored: stored[::2, :, 1::2, 2::3]),
        "channels last": ((2, 8, 10, 3), lambda stored: stored.permute(0, 3, 1, 2)),
        "expanded": ((2, 1, 8, 10), lambda stored: stored.expand(2, 3, 8, 10)),
        "offset": ((481,), lambda stored: stored[1:].view(2, 3, 8, 10)),
        "one of a pair": ((2, 3, 8, 10, 2), lambda stored: stored[..., 1]),
    }


@outside_of_backends
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("layout", layouts())
def test_kernels_get_contiguous_levels(form, layout):
    """They read from a pointer. The interpreter copies what is not contiguous, and so cannot show that it matters."""
    shape, look = layouts()[layout]
    logits, labels = look(torch.randn(shape)), look(torch.rand(shape)) - 0.1
    masks = labels < 0
    index = torch.stack([torch.arange(3), torch.arange(3)], 1)[:, 0]
    sparse = SparseTargets(index, torch.rand(3, 2)[:, 1], [masks, masks], torch.ones(3, 2).bool()[:, 0])
    ranking = build_ranking([logits, logits], sparse if form == "sparse" else [labels, labels])
    for tensor in (*ranking.levels, *ranking.ignores, ranking.index, ranking.quality, ranking.valid):
        assert tensor is None or tensor.is_contiguous()


@outside_of_backends
@every_backend
@every_loss
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("layout", layouts())
def test_memory_layouts(backend, device, loss, form, layout):
    """Views of logits, masks, dense targets, indices, qualities and errors give the same bits as copies."""
    shape, look = layouts()[layout]
    generator = torch.Generator().manual_seed(4)
    viewed = look(torch.rand(shape, generator=generator))
    targets = torch.where(viewed < 0.1, -1.0, 0.0).masked_fill(viewed > 0.9, 0.7)
    index = (targets.flatten() > 0).nonzero()[:, 0]
    quality, error = torch.rand(2, len(index), generator=generator)

    def run(strided: bool) -> tuple[Tensor, Tensor]:
        stored = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device).requires_grad_()
        logits = look(stored) if strided else look(stored).contiguous()
        if strided and layout != "offset":
            assert not logits.is_contiguous()
        if form == "sparse":
            masks = like(targets < 0, strided)
            what = SparseTargets(spread(index, strided), spread(quality, strided), masks)
        else:
            what = like(targets, strided)
        value = loss(logits, what, spread(error, strided), **named(backend))
        value.backward()
        assert stored.grad is not None
        return value.detach(), stored.grad

    def like(tensor: Tensor, strided: bool) -> Tensor:
        """The tensor on the device, in the layout of the logits if `strided`."""
        if not strided or layout in ("expanded", "offset"):
            return tensor.contiguous().to(device)
        stored = torch.empty(shape, dtype=tensor.dtype, device=device)
        look(stored).copy_(tensor)
        return look(stored)

    def spread(tensor: Tensor, strided: bool) -> Tensor:
        """The tensor (P,) on the device, with a gap between its values if `strided`."""
        tensor = tensor.to(device)
        return torch.stack([tensor, tensor.flip(0)], 1)[:, 0] if strided else tensor

    got, expected = run(True), run(False)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[1].abs().sum() > 0
