"""The launch budget of the losses on Triton, whatever the number of levels, positives and segments. No GPU is needed.

P  positives
"""

import itertools
from collections import Counter

import pytest
import torch
from rank_sort_cases import INTERPRETED
from torch import Tensor

from rst.kernels import SparseTargets, alrp, average_precision, rank_sort, ranking_loss

pytest.importorskip("triton")
if not INTERPRETED:
    pytest.skip("counts interpreted kernels", allow_module_level=True)

from launches import counted_launches

SIZE = 4096
LOSSES = {
    "rank_sort": rank_sort,
    "average_precision": average_precision,
    "alrp": alrp,
    # the score's own operators would be counted, so it has none
    "ranking_loss": lambda logits, targets, **more: ranking_loss(
        lambda counts: counts.quality, logits, targets, **more
    ),
}
# Launches of forward and backward, as counted here, before there was a budget: one level; five levels and a mask.
BEFORE = {
    "breakpoints": {
        "rank_sort": "48 and 25, 124 and 29",
        "average_precision": "34 and 16, 110 and 20",
        "alrp": "68 and 20, 179 and 24",
        "ranking_loss": "26 and 16, 102 and 20",
    },
    "tiled": {
        "rank_sort": "51 and 25, 127 and 29",
        "average_precision": "37 and 16, 113 and 20",
        "alrp": "71 and 20, 182 and 24",
        "ranking_loss": "29 and 16, 105 and 20",
    },
}
# At most so many now.
BUDGETS = {
    "breakpoints": {"rank_sort": (8, 3), "average_precision": (7, 3), "alrp": (9, 3), "ranking_loss": (8, 3)},
    "tiled": {"rank_sort": (6, 2), "average_precision": (5, 2), "alrp": (7, 2), "ranking_loss": (6, 2)},
}
CASES = list(itertools.product((0, 1, 40, 2000), (1, 5), (False, True), (None, 4)))


@pytest.mark.parametrize("algorithm", BUDGETS)
@pytest.mark.parametrize("name", LOSSES)
def test_launches_of_every_loss(monkeypatch, capsys, name, algorithm):
    """The same launches for one level and five, with and without a mask, for one ranking and four."""
    seen = {case: launches_of(monkeypatch, name, algorithm, *case) for case in CASES}
    with capsys.disabled():
        print(f"\n{name}, {algorithm}: {BEFORE[algorithm][name]} launches before", end="")
        for part, names in zip(("forward", "backward"), seen[40, 5, True, 4], strict=True):
            counts = Counter(names).items()
            listed = ", ".join(f"{number} x {each}" if number > 1 else each for each, number in counts)
            print(f"\n{name}, {algorithm}, {part}: {len(names)} launches: {listed}", end="")
    for case, launches in seen.items():
        for part, names, most in zip(("forward", "backward"), launches, BUDGETS[algorithm][name], strict=True):
            assert len(names) <= most, (part, case, names)
        if case[0]:
            assert launches == seen[case[0], 1, False, None], case


def test_one_part_alone(monkeypatch):
    """The sorting part alone needs a zero for the negatives, no launch more."""
    logits, targets, _ = inputs(40, 1, masked=False)
    loss = rank_sort(logits, targets, backend="triton", algorithm="breakpoints")
    with counted_launches(monkeypatch) as launches:
        torch.autograd.grad(loss.sorting, logits, torch.ones(()))
    assert len(launches.names) <= 5, launches.names


@pytest.mark.parametrize("levels", [16, 17, 40])
def test_sixteen_levels_are_one_launch(monkeypatch, levels):
    logits, targets, _ = inputs(40, levels, masked=True)
    with counted_launches(monkeypatch) as launches:
        rank_sort(logits, targets, backend="triton", algorithm="breakpoints")
    for kernel in ("gather_kernel", "tally_kernel"):
        assert launches.names.count(kernel) == -(-levels // 16)


def inputs(positives: int, levels: int, *, masked: bool) -> tuple[list[Tensor], SparseTargets, Tensor]:
    """Logits, targets and localisation errors (P,)."""
    generator = torch.Generator().manual_seed(0)
    sizes = [SIZE // 2 // levels // 4 * 4] * (levels - 1)
    sizes.append(SIZE - sum(sizes))
    logits = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    masks = [torch.rand(size, generator=generator) < 0.2 for size in sizes] if masked else None
    index = torch.randperm(SIZE, generator=generator)[:positives]
    quality, error = torch.rand(2, positives, generator=generator)
    return logits, SparseTargets(index, quality, masks), error.clone().requires_grad_()


def launches_of(
    monkeypatch, name: str, algorithm: str, positives: int, levels: int, masked: bool, segments: int | None
) -> tuple[list[str], list[str]]:
    """What forward and backward launch, in order."""
    logits, targets, error = inputs(positives, levels, masked=masked)
    more = {"localisation_error": error} if name == "alrp" else {}
    with counted_launches(monkeypatch) as forward:
        loss = LOSSES[name](logits, targets, backend="triton", algorithm=algorithm, segments=segments, **more)
    parts = [loss] if isinstance(loss, Tensor) else list(loss)
    upstream = [torch.ones_like(part) for part in parts]
    with counted_launches(monkeypatch) as backward:
        torch.autograd.grad(parts, [*logits, *([error] if name == "alrp" else [])], upstream)
    return forward.names, backward.names
