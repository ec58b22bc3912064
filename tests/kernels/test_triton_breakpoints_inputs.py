"""The passes by breakpoints on unusual inputs: positives of other processes, NaN, masks; without any host sync.

R  positives of all processes      P  positives of one process      M  logits
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from rank_sort_cases import INTERPRETED, Ranking, named_rankings, random_ranking
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton")
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from breakpoint_passes import DEVICE, count, negatives_alone, of_positives, prepared, scatter, weights_of

from rst.kernels import average_precision, rank_sort
from rst.kernels import triton_breakpoints as breakpoints
from rst.kernels import triton_tally as tally
from rst.kernels.targets import SparseTargets, build_ranking
from rst.kernels.torch_step import pairwise_step

NAMED = named_rankings()


def test_positives_of_several_processes():
    """The counts of the processes add up to that of one, and a process without a positive can count and scatter."""
    ranking = NAMED["typical"]
    places = [torch.arange(len(ranking.logits))[part::2] for part in (0, 1)]
    shares = [prepared(Ranking(ranking.logits[place], ranking.targets[place])) for place in places]
    # the caller's order of the whole is that of the processes
    order = torch.cat([place[share.index.cpu()] for place, share in zip(places, shares, strict=True)]).to(DEVICE)
    made = prepared(ranking)
    made = replace(made, index=order, quality=ranking.targets.to(DEVICE)[order])
    whole = count(made, 0.5)
    parts = [count(shares[0], 0.5, [], [shares[1]]), count(shares[1], 0.5, [shares[0]])]
    for total, *added in zip(whole[:3], *(part[:3] for part in parts), strict=True):
        torch.testing.assert_close(sum(added), total, rtol=1e-15, atol=0)
    weights = weights_of(made)
    gradient = scatter(weights, made, 0.5)
    found = scatter(weights, shares[1], 0.5, [shares[0]])
    assert torch.equal(found, gradient[places[1].to(DEVICE)])

    alone = negatives_alone(ranking.logits[ranking.targets == 0])
    masses = count(alone, 0.5, [made])
    assert torch.equal(masses.false_positives, whole.false_positives)
    assert masses.true_positives.abs().sum() == 0


@pytest.mark.parametrize("infinite", [[torch.inf], [-torch.inf], [torch.inf, -torch.inf], [2e30, torch.inf]])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_positives_without_a_finite_one(infinite, delta):
    """The positions of their kinks must not show: a finite logit is below plus infinity, however large it is."""
    positives = torch.tensor(infinite, device=DEVICE)
    logits = torch.tensor([-1e29, -3.0, 0.0, 2.6, 3.0, 3.4, 50.0, 1e29, torch.inf, -torch.inf])
    made = negatives_alone(logits)
    truth = pairwise_step(positives.clamp(-1e30, 1e30).double().cpu(), logits.clamp(-1e30, 1e30).double(), delta)
    others = [of_positives(positives)]
    assert count(made, delta, others).false_positives.tolist() == truth.sum(1).tolist()
    weights = weights_of(others[0])
    torch.testing.assert_close(scatter(weights, made, delta, others).cpu(), (weights.cpu() @ truth).float())


def test_no_positives():
    made = prepared(Ranking(torch.randn(100), (torch.arange(100) % 3 == 0) * -1.0))
    assert [mass.shape for mass in count(made, 0.5)[:3]] == [(0,), (0,), ()]
    none = torch.zeros(0, dtype=torch.float64, device=DEVICE)
    assert scatter(none, made, 0.5).abs().sum() == 0
    poisoned = scatter(none, made, 0.5, poison=torch.nan)
    assert torch.equal(poisoned.isnan().cpu(), torch.arange(100) % 3 != 0)


def test_poison_reaches_all_but_the_ignored():
    ranking = NAMED["typical"]
    made = prepared(ranking)
    gradient = scatter(weights_of(made), made, 0.5, poison=torch.nan).cpu()
    assert gradient[ranking.targets >= 0].isnan().all()
    assert gradient[ranking.targets < 0].abs().sum() == 0


@pytest.mark.parametrize("place", [0, 150, 299])
@pytest.mark.parametrize("target", [0.0, 0.5])
@pytest.mark.parametrize("others", ["spread out", "all NaN"])
def test_nan_reaches_every_mass(monkeypatch, place, target, others):
    for module in (breakpoints, tally):
        monkeypatch.setattr(module, "BLOCK", 64)
    ranking = Ranking(torch.randn(300), (torch.arange(300) % 10 == 5) * 0.5)
    if others == "all NaN":
        ranking.logits.fill_(torch.nan)
    ranking.logits[place], ranking.targets[place] = torch.nan, target
    for mass in count(prepared(ranking), 0.5)[:3]:
        assert mass.isnan().all()


def test_ignored_nan_reach_nothing(monkeypatch):
    for module in (breakpoints, tally):
        monkeypatch.setattr(module, "BLOCK", 64)
    ranking = NAMED["typical"]
    hidden = prepared(Ranking(ranking.logits.masked_fill(ranking.targets < 0, torch.nan), ranking.targets))
    made = prepared(ranking)
    masses = (count(each, 0.5)[:3] for each in (made, hidden))
    for one, other in zip(*masses, strict=True):
        assert torch.equal(one, other)
    weights = weights_of(made)
    assert torch.equal(scatter(weights, hidden, 0.5), scatter(weights, made, 0.5))


def test_nan_among_the_positives_of_another_process():
    others = [of_positives(torch.tensor([0.0, torch.nan]))]
    for mass in count(negatives_alone(torch.randn(50)), 0.5, others)[:3]:
        assert mass.isnan().all()


@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_masked_positives_stay_positives(delta):
    """A mask over a positive takes it out of the negatives no second time, and leaves it among the positives."""
    ranking = random_ranking(70, 200, 30, delta)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    mask = (ranking.targets < 0).index_fill(0, index[::2], True).to(DEVICE)
    targets = SparseTargets(index.to(DEVICE), ranking.targets[index].to(DEVICE), mask)
    masked, unmasked = build_ranking([ranking.logits.to(DEVICE)], targets), prepared(ranking)
    masses = (count(each, delta)[:3] for each in (masked, unmasked))
    for one, other in zip(*masses, strict=True):
        assert torch.equal(one, other)
    gradient, expected = (scatter(weights_of(each), each, delta) for each in (masked, unmasked))
    assert gradient[mask].abs().sum() == 0
    assert torch.equal(gradient[~mask], expected[~mask])


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Refuses the operators that make the host wait for a device, or whose result has a shape that data decides."""

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero", "equal")
            assert not name.startswith(waits), f"{name} waits for the device"
            assert not name.startswith("index") or all(
                place is None or place.dtype != torch.bool for place in (args[1] if name == "index" else ())
            ), "an index by a mask waits for the device"
            return func(*args, **(kwargs or {}))

    with Refuse():
        yield


@pytest.mark.parametrize("name", ["typical", "hard step", "infinities of both"])
def test_no_host_sync(monkeypatch, name):
    ranking = NAMED[name]
    index = (ranking.targets > 0).nonzero().squeeze(1)
    targets = SparseTargets(index.to(DEVICE), ranking.targets[index].to(DEVICE), (ranking.targets < 0).to(DEVICE))
    monkeypatch.setattr("rst.kernels.targets._may_read", lambda tensor: False)  # on a CPU it reads and checks values

    def step(backend: str) -> None:
        logits = ranking.logits.to(DEVICE).requires_grad_()
        algorithm = "breakpoints" if backend == "triton" else "auto"
        loss = rank_sort(logits, targets, delta=ranking.delta, backend=backend, algorithm=algorithm)
        torch.autograd.grad(list(loss), logits, [torch.ones_like(part) for part in loss])

    with no_host_sync():
        step("triton")
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        step("torch")  # on a CPU it may


@contextmanager
def counted_memory() -> Iterator[list[int]]:
    """Collects the bytes of every tensor that an operator allocates."""
    allocated: list[int] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            known = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)}
            for made in tree_leaves(result):
                if torch.is_tensor(made) and made.untyped_storage().data_ptr() not in known:
                    allocated.append(made.untyped_storage().nbytes())
            return result

    with Count():
        yield allocated


@pytest.mark.slow
def test_memory_of_twenty_thousand_positives():
    """All tables of a pass together, of which a part is gone before the last is made: 10 MiB at most."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(21_000, generator=generator).to(DEVICE).requires_grad_()
    targets = SparseTargets(torch.arange(20_000, device=DEVICE), torch.rand(20_000, generator=generator).to(DEVICE))
    with counted_memory() as allocated:
        loss = average_precision(logits, targets, backend="triton", algorithm="breakpoints")
    assert (1 << 20) < sum(allocated) < (10 << 20)
    with counted_memory() as allocated:
        loss.backward()
    assert sum(allocated) < (2 << 20)
