"""What may be asked of count and scatter in linear time: rows of other processes, NaN, masks, and no host sync.

R  rows      P  positives      M  logits
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from rank_sort_cases import INTERPRETED, Ranking, named_rankings, random_ranking
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton")
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from breakpoint_passes import DEVICE, examples_of, negatives_alone, scatter, weights_of

from rst.kernels import torch_breakpoints as portable
from rst.kernels import triton_breakpoints as breakpoints
from rst.kernels.targets import SparseTargets, flatten_examples
from rst.kernels.torch_step import pairwise_step

NAMED = named_rankings()


def test_rows_of_several_processes():
    """Rows may be everybody's positives: what each process counts adds up, and the scatter needs no positive here."""
    ranking = NAMED["typical"]
    rows, examples = examples_of(ranking)
    whole = breakpoints.count(rows, rows, examples, 0.5)
    places = [torch.arange(len(ranking.logits))[part::2] for part in (0, 1)]
    shares = [examples_of(Ranking(ranking.logits[place], ranking.targets[place])) for place in places]
    parts = [breakpoints.count(rows, own, share, 0.5) for own, share in shares]
    for total, *added in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(added), total, rtol=1e-15, atol=0)
    weights = weights_of(rows)
    gradient = scatter(weights, rows, examples, 0.5)
    for place, (_, share) in zip(places, shares, strict=True):
        assert torch.equal(scatter(weights, rows, share, 0.5), gradient[place.to(DEVICE)])

    alone = negatives_alone(ranking.logits[ranking.targets == 0])
    nobody = rows.new_zeros(0)
    masses = breakpoints.count(rows, nobody, alone, 0.5)
    assert torch.equal(masses.false_positives, whole.false_positives)
    assert masses.true_positives.abs().sum() == 0


@pytest.fixture(autouse=True)
def _unwritten_memory_is_nan():
    """Deterministic algorithms fill what torch.empty returns."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("rows", [[torch.inf], [-torch.inf], [torch.inf, -torch.inf], [2e30, torch.inf]])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_rows_without_a_finite_one(rows, delta):
    """Where their kinks are is for nobody to see: a finite logit is below plus infinity, however large."""
    rows = torch.tensor(rows, device=DEVICE)
    logits = torch.tensor([-1e29, -3.0, 0.0, 2.6, 3.0, 3.4, 50.0, 1e29, torch.inf, -torch.inf])
    examples = negatives_alone(logits)
    truth = pairwise_step(rows.clamp(-1e30, 1e30).double().cpu(), logits.clamp(-1e30, 1e30).double(), delta)
    masses = breakpoints.count(rows, rows.new_zeros(0), examples, delta)
    assert masses.false_positives.tolist() == truth.sum(1).tolist()
    weights = weights_of(rows)
    torch.testing.assert_close(scatter(weights, rows, examples, delta).cpu(), (weights.cpu() @ truth).float())


def test_no_rows():
    rows, examples = examples_of(Ranking(torch.randn(100), (torch.arange(100) % 3 == 0) * -1.0))
    assert [len(mass) for mass in breakpoints.count(rows, rows, examples, 0.5)] == [0, 0]
    none = torch.zeros(0, dtype=torch.float64, device=DEVICE)
    assert scatter(none, rows, examples, 0.5).abs().sum() == 0
    poisoned = scatter(none, rows, examples, 0.5, poison=torch.nan)
    assert torch.equal(poisoned.isnan().cpu(), torch.arange(100) % 3 != 0)


def test_poison_reaches_all_but_the_ignored():
    ranking = NAMED["typical"]
    rows, examples = examples_of(ranking)
    gradient = scatter(weights_of(rows), rows, examples, 0.5, poison=torch.nan).cpu()
    assert gradient[ranking.targets >= 0].isnan().all()
    assert gradient[ranking.targets < 0].abs().sum() == 0


@pytest.mark.parametrize("place", [0, 150, 299])
@pytest.mark.parametrize("target", [0.0, 0.5])
@pytest.mark.parametrize("others", ["spread out", "all NaN"])
def test_nan_reaches_every_mass(monkeypatch, place, target, others):
    monkeypatch.setattr(breakpoints, "BLOCK", 64)
    ranking = Ranking(torch.randn(300), (torch.arange(300) % 10 == 5) * 0.5)
    if others == "all NaN":
        ranking.logits.fill_(torch.nan)
    ranking.logits[place], ranking.targets[place] = torch.nan, target
    rows, examples = examples_of(ranking)
    for mass in breakpoints.count(rows, rows, examples, 0.5):
        assert mass.isnan().all()


def test_ignored_nan_reach_nothing(monkeypatch):
    monkeypatch.setattr(breakpoints, "BLOCK", 64)
    ranking = NAMED["typical"]
    rows, examples = examples_of(ranking)
    hidden = Ranking(ranking.logits.masked_fill(ranking.targets < 0, torch.nan), ranking.targets)
    _, others = examples_of(hidden)
    for one, other in zip(*(breakpoints.count(rows, rows, each, 0.5) for each in (examples, others)), strict=True):
        assert torch.equal(one, other)
    weights = weights_of(rows)
    assert torch.equal(scatter(weights, rows, others, 0.5), scatter(weights, rows, examples, 0.5))


def test_nan_among_the_rows_of_another_process():
    masses = breakpoints.count(
        torch.tensor([0.0, torch.nan], device=DEVICE),
        torch.zeros(1, device=DEVICE),
        negatives_alone(torch.randn(50)),
        0.5,
    )
    assert all(mass.isnan().all() for mass in masses)


@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_masked_positives_stay_positives(delta):
    """A mask over a positive takes it out of the negatives no second time, and leaves it among the positives."""
    ranking = random_ranking(70, 200, 30, delta)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    mask = (ranking.targets < 0).index_fill(0, index[::2], True).to(DEVICE)
    targets = SparseTargets(index.to(DEVICE), ranking.targets[index].to(DEVICE), mask)
    examples = flatten_examples([ranking.logits.to(DEVICE)], targets)
    rows, unmasked = examples_of(ranking)
    for one, other in zip(
        breakpoints.count(rows, rows, examples, delta), breakpoints.count(rows, rows, unmasked, delta), strict=True
    ):
        assert torch.equal(one, other)
    gradient, expected = (scatter(weights_of(rows), rows, each, delta) for each in (examples, unmasked))
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
def test_no_host_sync(name):
    ranking = NAMED[name]
    rows, examples = examples_of(ranking)
    out, poison = torch.cat(examples.levels), torch.zeros((), device=DEVICE)
    with no_host_sync():
        breakpoints.count(rows, rows, examples, ranking.delta)
        breakpoints.scatter_to_logits(weights_of(rows), rows, examples, ranking.delta, out, poison)
    with pytest.raises(AssertionError, match="waits for the device"), no_host_sync():
        portable.count(rows, rows, examples, ranking.delta)  # on a CPU it may


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
def test_memory_of_twenty_thousand_rows():
    """All tables of a pass together, of which a part is gone before the last is made: half of 16 MiB at most."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, generator=generator).to(DEVICE)
    examples = negatives_alone(torch.randn(1000, generator=generator))
    with counted_memory() as allocated:
        breakpoints.count(rows, rows, examples, 0.5)
    assert (1 << 20) < sum(allocated) < (8 << 20)
    out, poison, weights = examples.levels[0].clone(), torch.zeros((), device=DEVICE), weights_of(rows)
    with counted_memory() as allocated:
        breakpoints.scatter_to_logits(weights, rows, examples, 0.5, out, poison)
    assert (1 << 20) < sum(allocated) < (8 << 20)
