"""The defaults of the host program - device, dtype, determinism, autocast, gradients - change no bit of a loss."""

import pytest
import torch
from every_loss import LOSSES, errors_of, every_backend
from host_defaults import HOSTILE, default_dtype, under_hostile_defaults
from rank_sort_cases import INTERPRETED, Ranking, named, random_ranking

from rst.kernels import SelfBalance, SparseTargets, alrp, gather_levels
from rst.kernels.alrp import AlrpLoss

RANKINGS = [random_ranking(90, 400, 30, ties=0.25), random_ranking(91, 300, 2), random_ranking(92, 300, 20, 0.0)]
HERE = RANKINGS[:1] if INTERPRETED else RANKINGS
NAMES = ["rank_sort", "alrp"] if INTERPRETED else list(LOSSES)


def outcomes(ranking: Ranking, backend: str, device: str):
    """Calls that give every loss of dense and of sparse, padded, segmented targets; their inputs are made here."""
    index = (ranking.targets > 0).nonzero().squeeze(1)
    dense = ranking.targets.to(device)
    error = errors_of(ranking).to(device)
    sparse = SparseTargets(index.to(device), dense[index], dense < 0)
    padded = sparse.padded(len(index) + 5)
    padded_error = torch.cat([error, error.new_zeros(5)])
    logits = ranking.logits.to(device)
    one = torch.ones((), device=device)

    def call(loss, targets, error, **more):
        own = logits.detach().clone().requires_grad_()
        value = loss(own, targets, error, delta=ranking.delta, **more, **named(backend))
        (gradient,) = torch.autograd.grad(value, own, one.expand(value.shape))
        return value.detach(), gradient

    return [
        outcome
        for loss in (LOSSES[name] for name in NAMES)
        for outcome in (
            lambda loss=loss: call(loss, dense, error),
            lambda loss=loss: call(loss, padded, padded_error, segments=2),
        )
    ]


@every_backend
@under_hostile_defaults
def test_forward_and_backward(backend, device, hostile):
    for ranking in HERE:
        for outcome in outcomes(ranking, backend, device):
            expected = outcome()
            with hostile():
                got = outcome()
            for value, other in zip(got, expected, strict=True):
                assert (value.dtype, value.device) == (other.dtype, other.device)
                assert torch.equal(value, other)


@pytest.mark.skipif(INTERPRETED, reason="the same for every backend")
@pytest.mark.parametrize("name", ["another device", "float16"])
def test_in_a_compiled_graph(name):
    ranking = RANKINGS[0]
    logits = [ranking.logits.clone().requires_grad_() for _ in range(2)]
    torch.compiler.reset()
    LOSSES["rank_sort"](logits[0], ranking.targets, None).backward()
    step = torch.compile(LOSSES["rank_sort"], fullgraph=True, backend="aot_eager")
    with HOSTILE[name]():
        step(logits[1], ranking.targets, None).backward()
    assert torch.equal(logits[0].grad, logits[1].grad)


@pytest.mark.skipif(INTERPRETED, reason="the same for every backend")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_self_balance_counts_in_float32(dtype):
    """Steps beyond 2048 cannot be counted in float16, and 256 not in bfloat16."""
    with default_dtype(dtype):
        balance = SelfBalance(start=50.123456, window=3000).to(dtype)
    assert {buffer.dtype for buffer in balance.buffers()} == {torch.float32}
    assert balance.weight.item() == pytest.approx(50.123456, rel=1e-7)
    parts = AlrpLoss(torch.tensor(0.7), torch.tensor(0.1))
    for _ in range(2500):
        balance(parts)
    balance.half().float().double()
    assert balance.steps.item() == 2500
    for _ in range(500):
        balance(parts)
    assert balance.weight.item() == pytest.approx(8.0, rel=1e-4)
    moved = balance.to("meta")
    assert moved.weight.device.type == "meta"
    assert moved.weight.dtype == torch.float32


@pytest.mark.skipif(INTERPRETED, reason="the same for every backend")
@under_hostile_defaults
def test_what_surrounds_a_loss(hostile):
    levels = [torch.arange(5.0), torch.arange(7.0)]
    index = torch.tensor([1, 6, 11])
    logits, targets = torch.arange(4.0), torch.tensor([0.5, 0.0, 0.5, 0.0])
    error = torch.zeros(2)
    expected = gather_levels(levels, index), alrp(logits, targets, error)
    with hostile():
        got = gather_levels(levels, index), alrp(logits, targets, error)
    assert torch.equal(got[0], expected[0])
    assert all(torch.equal(value, other) for value, other in zip(got[1], expected[1], strict=True))
