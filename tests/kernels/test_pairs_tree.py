"""The tree over pairs of many positives: the sums of all pairs, for any logits, in memory of the size of the positives.

R  positives      s  logits      y  qualities
"""

import pytest
import torch
from pair_trees import DEVICE, TREES, every_tree, triton_only
from rank_sort_cases import INTERPRETED
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rst.kernels import reference_passes, torch_pairs, torch_pairs_tree

if INTERPRETED or torch.cuda.is_available():
    from rst.kernels import triton_pairs_tree

DELTAS = [0.5, 0.0] if INTERPRETED else [0.5, 0.0, 1e-3, 4.0]


def cases(size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> (s, y), (R,) each."""
    generator = torch.Generator().manual_seed(size)
    logits, quality = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
    infinite = logits.clone()
    infinite[::7], infinite[3::11] = torch.inf, -torch.inf
    return {
        "random": (logits, quality),
        "ties": ((logits * 4).round() / 4, (quality * 5).ceil() / 5),
        "equal logits": (torch.full_like(logits, 0.7), quality),
        "equal qualities": (logits, torch.full_like(quality, 0.5)),
        "qualities in a tiny range": (logits, 0.5 + quality * 1e-6),
        "logits in a tiny range": (logits * 1e-5, quality),
        "huge logits": (logits * 1e8, quality),
        "far logits": (torch.where(logits > 0, 1e30, logits), quality),
        "infinite logits": (infinite, quality),
        "all infinite": (torch.full_like(logits, torch.inf), quality),
        "evenly spaced": (torch.linspace(-3, 3, size), quality),
        "right order": (quality * 10, quality),
        "wrong order": (-quality, quality),
    }


def every_sum(module, logits: Tensor, quality: Tensor, delta: float) -> list[Tensor]:
    """All results of the three passes in float64 on the CPU, for values of both signs."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(len(logits), generator=generator).to(logits)
    values = torch.randn(len(logits), generator=generator).to(logits)
    sums = [
        *module.sorting_sums(logits, quality, delta),
        module.sorting_demotion(spread, logits, quality, delta),
        module.weigh_positives(values, logits, delta),
    ]
    assert [total.dtype for total in sums[:5]] == [logits.dtype] * 5
    assert sums[5].dtype == torch.float64
    return [total.double().cpu() for total in sums]


def assert_no_worse(tree, logits: Tensor, quality: Tensor, delta: float, device: str, relative: float) -> None:
    """Against the dense sums in float64: no worse than the dense sums in the tested dtype plus a margin, L1 norms."""
    truth = every_sum(reference_passes, logits.double(), quality.double(), delta)
    yardstick = every_sum(reference_passes, logits, quality, delta)
    got = every_sum(tree, logits.to(device), quality.to(device), delta)
    for number, (total, exact, dense) in enumerate(zip(got, truth, yardstick, strict=True)):
        allowed = (dense - exact).abs().sum() + relative * exact.abs().sum() + 1e-12
        assert (total - exact).abs().sum() <= allowed, number
    for total in got[:4]:
        assert (total >= 0).all()


@every_tree
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("size", [1, 2, 3, 40, 1000])
def test_equals_the_dense_sums(pairs, tree, device, size, delta):
    for name, (logits, quality) in cases(size).items():
        if INTERPRETED and size != 40 and name not in ("random", "ties", "infinite logits"):
            continue  # for time
        assert_no_worse(tree, logits, quality, delta, device, 1e-7)


@every_tree
@pytest.mark.parametrize("name", ["random"] if INTERPRETED else ["random", "ties"])
def test_equals_the_dense_sums_of_many(pairs, tree, device, name):
    assert_no_worse(tree, *cases(5000)[name], 0.5, device, 1e-7)


@pytest.mark.skipif(INTERPRETED, reason="Triton's is for float32")
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("size", [1, 3, 40, 1000])
def test_float64_is_summed_in_float64(size, delta):
    for logits, quality in cases(size).values():
        exact = logits.double() + 1e-9 * torch.rand(size, dtype=torch.float64), quality.double()
        assert_no_worse(torch_pairs_tree, *exact, delta, "cpu", 1e-11)


@pytest.mark.skipif(INTERPRETED, reason="visits 400 million pairs")
@pytest.mark.parametrize("name", ["random", "ties"])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_equals_the_visits_of_all_pairs_of_20000(monkeypatch, name, delta):
    monkeypatch.setattr(torch_pairs, "MANY", 20_000)
    logits, quality = cases(20_000)[name]
    got, expected = (every_sum(module, logits, quality, delta) for module in (torch_pairs_tree, torch_pairs))
    for total, other in zip(got, expected, strict=True):
        assert (total - other).abs().sum() <= 1e-6 * other.abs().sum()


@pytest.mark.skipif(not INTERPRETED, reason="compares with torch's on the CPU")
def test_both_trees_agree_on_10000():
    logits, quality = cases(10_000)["ties"]
    got, expected = (
        every_sum(module, logits, quality, 0.5) for module in (TREES[f"triton-{DEVICE}"][1], torch_pairs_tree)
    )
    for total, other in zip(got, expected, strict=True):
        assert (total - other).abs().sum() <= 1e-7 * other.abs().sum()


@every_tree
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_nothing_missorted_is_exactly_zero(pairs, tree, device, delta):
    quality = torch.rand(300, generator=torch.Generator().manual_seed(0)).to(device)
    logits = quality.argsort().argsort() * 1.0  # 2 delta apart
    _, missorted, deficit, _ = tree.sorting_sums(logits, quality, delta)
    assert missorted.tolist() == deficit.tolist() == [0.0] * 300
    assert tree.sorting_demotion(quality, logits, quality, delta).tolist() == [0.0] * 300


@every_tree
def test_same_bits_every_time(pairs, tree, device):
    if tree is torch_pairs_tree and device == "cuda":
        pytest.skip("torch.cumsum is not deterministic there")
    logits, quality = (part.to(device) for part in cases(1000)["ties"])
    first, second = (every_sum(tree, logits, quality, 0.5) for _ in range(2))
    assert all(torch.equal(*both) for both in zip(first, second, strict=True))


@every_tree
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_nan_does_not_crash(pairs, tree, device, delta):
    logits, quality = cases(40)["random"]
    logits[3], quality[5] = torch.nan, torch.nan
    every_sum(tree, logits.to(device), quality.to(device), delta)
    every_sum(tree, torch.full((3,), torch.nan, device=device), torch.rand(3, device=device), delta)


@every_tree
def test_a_value_that_does_not_count_leaves_no_rounding_error(pairs, tree, device):
    """In prefix sums from the lowest positive it would."""
    logits, values = torch.tensor([0.0, 10, 20, 30]), torch.tensor([1.0, 2, 4, 1])
    if tree is torch_pairs_tree:
        values[0] = 1e20
    weighed = tree.weigh_positives(values.to(device), logits.to(device), 0.5)
    assert weighed[1:].tolist() == [6.0, 3.0, 0.5]


@pytest.mark.skipif(INTERPRETED, reason="the dispatch of the torch backend")
def test_more_positives_than_the_crossover_take_the_tree(monkeypatch):
    pairs, tree, device = torch_pairs, torch_pairs_tree, "cpu"
    monkeypatch.setattr(pairs, "MANY", 3)
    calls = []
    names = "sorting_sums", "sorting_demotion", "weigh_positives"
    for name in names:
        monkeypatch.setattr(tree, name, lambda *arguments, name=name: calls.append(name))
    for size in (3, 4):
        ones = torch.ones(size, device=device)
        pairs.sorting_sums(ones, ones, 0.5)
        pairs.sorting_demotion(ones, ones, ones, 0.5)
        pairs.weigh_positives(ones, ones, 0.5)
        assert calls == (list(names) if size > 3 else [])


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, Tensor):
                self.size = max(self.size, part.numel() * part.element_size())
        return out


@every_tree
@pytest.mark.parametrize("size", [500, 5000])
def test_memory_grows_with_the_positives_alone(pairs, tree, device, size):
    logits, quality = (part.to(device) for part in cases(size)["random"])
    with Largest() as largest:
        tree.sorting_sums(logits, quality, 0.5)
        tree.sorting_demotion(quality, logits, quality, 0.5)
        tree.weigh_positives(quality, logits, 0.5)
    assert largest.size <= 32 * (size + 1)


def in_segments(sizes: list[int], padding: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(s, y, begin, end) of segments, with `padding` places without a positive after each, all NaN."""
    generator = torch.Generator().manual_seed(0)
    parts, place = [], 0
    for size in sizes:
        logits, quality = torch.randn(size, generator=generator).sort().values, torch.rand(size, generator=generator)
        parts.append((logits, quality, torch.full((size,), place), torch.full((size,), place + size)))
        place += size
        nan, nobody = torch.full((padding,), torch.nan), torch.full((padding,), place)
        parts.append((nan, nan, nobody, nobody))
        place += padding
    logits, quality, begin, end = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, quality, begin.int(), end.int()


@triton_only
@pytest.mark.parametrize("delta", [0.5, 0.0])
@pytest.mark.parametrize("broken", [None, 1e20, torch.inf, torch.nan])
def test_segments_do_not_see_each_other(delta, broken):
    logits, quality, begin, end = (part.to(DEVICE) for part in in_segments([5, 0, 40, 1, 17], padding=3))
    values = torch.randn(len(logits), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    values[begin == end] = torch.nan
    if broken is not None:  # the first segment
        values[:5] *= broken
        if broken != 1e20:
            logits[4] = quality[2] = torch.nan
    sums = triton_pairs_tree.sorting_sums_sorted(logits, quality, begin, end, delta)
    demotion = triton_pairs_tree.sorting_demotion_sorted(values, logits, quality, begin, end, delta)
    weighed = triton_pairs_tree.weigh_sorted(values, logits, begin, end, delta)
    everything = torch.cat([sums, demotion[None], weighed[None]])
    assert everything.dtype == torch.float32
    assert everything[:, begin == end].abs().sum() == 0
    for first in begin[begin < end].unique().tolist():
        if first == 0 and broken not in (None, 1e20):
            assert everything[4:, :5].isfinite().sum() == 0
            continue
        own = slice(first, int(end[first]))
        alone = [part[own].double().cpu() for part in (logits, quality, values)]
        expected = torch.stack(
            [
                *reference_passes.sorting_sums(*alone[:2], delta),
                reference_passes.sorting_demotion(alone[2], *alone[:2], delta),
                reference_passes.weigh_positives(alone[2], alone[0], delta),
            ]
        )
        scale = expected.abs().sum(1, keepdim=True)
        assert ((everything[:, own].cpu() - expected).abs() <= 2e-7 * scale + 1e-12).all()
