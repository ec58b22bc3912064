"""Arguments that rank_sort refuses, by name and value; and the backend that it chooses."""

import pytest
import torch
from rank_sort_cases import INTERPRETED, outcome, random_ranking

from rst.kernels import SparseTargets, rank_sort

LOGITS = torch.zeros(2, 3)
INDEX = torch.tensor([1, 4])
QUALITY = torch.tensor([0.5, 0.9])


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        ([], ValueError, "logits: the sequence of levels is empty"),
        (torch.zeros(3, dtype=torch.int64), TypeError, "logits: expected a float tensor, got torch.int64"),
        ([torch.zeros(3), 4], TypeError, r"logits\[1\]: expected a tensor, got int"),
        ([torch.zeros(3), torch.zeros(3).double()], ValueError, r"logits\[1\]: torch.float64 on cpu, but logits\[0\]"),
        ([torch.zeros(3), torch.zeros(3, device="meta")], ValueError, r"logits\[1\]: torch.float32 on meta"),
    ],
)
def test_logits(logits, error, message):
    with pytest.raises(error, match=message):
        rank_sort(logits, torch.zeros(3))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(3, 2), r"targets: shape \(3, 2\), but the logits have \(2, 3\)"),
        ([torch.zeros(2, 3)] * 2, "targets: 2 tensors for 1 levels"),
        (torch.zeros(2, 3, device="meta"), "targets: on meta, but the logits are on cpu"),
        (torch.full((2, 3), 1.5), r"targets: a quality of 1.5 is outside \[0, 1\]"),
        (SparseTargets(INDEX.int(), QUALITY), r"targets.index: expected \(P,\) int64, got \(2,\) torch.int32"),
        (SparseTargets(INDEX[None], QUALITY), r"targets.index: expected \(P,\) int64, got \(1, 2\)"),
        (SparseTargets(INDEX, QUALITY[:1]), r"targets.quality: expected \(2,\) float, got \(1,\)"),
        (SparseTargets(INDEX, INDEX), r"targets.quality: expected \(2,\) float, got \(2,\) torch.int64"),
        (SparseTargets(INDEX, QUALITY.to("meta")), "targets.quality: on meta, but the logits are on cpu"),
        (SparseTargets(INDEX + 2, QUALITY), "targets.index: 6 is outside the 6 logits"),
        (SparseTargets(INDEX - 2, QUALITY), "targets.index: -1 is outside the 6 logits"),
        (SparseTargets(INDEX * 0 + 3, QUALITY), "targets.index: 3 occurs more than once"),
        (SparseTargets(INDEX, -QUALITY), "targets.quality: a quality of -0.9 is outside"),
        (SparseTargets(INDEX, QUALITY, torch.zeros(6, dtype=torch.bool)), r"targets.ignore: shape \(6,\)"),
        (SparseTargets(INDEX, QUALITY, torch.zeros(2, 3)), "targets.ignore: expected bool, got torch.float32"),
    ],
)
def test_targets(targets, message):
    with pytest.raises(ValueError, match=message):
        rank_sort(LOGITS, targets)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([4], "targets: expected a tensor, got int"),
        (SparseTargets([1], QUALITY), "targets.index: expected a tensor, got list"),  # type: ignore
        (SparseTargets(INDEX, 0.5), "targets.quality: expected a tensor, got float"),  # type: ignore
    ],
)
def test_targets_that_are_no_tensors(targets, message):
    with pytest.raises(TypeError, match=message):
        rank_sort(LOGITS, targets)


@pytest.mark.parametrize("delta", [-0.1, float("nan"), float("inf"), 1e-21, 1e21, 5e-324, "0.5", None])
def test_delta(delta):
    with pytest.raises(ValueError, match=r"delta: expected 0, or a number from 1e-20 to 1e\+20, got"):
        rank_sort(LOGITS, LOGITS, delta=delta)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: expected 'auto', 'triton', 'torch' or 'reference', got 'cuda'"):
        rank_sort(LOGITS, LOGITS, backend="cuda")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes CPU tensors")
def test_triton_needs_a_gpu():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="backend: 'triton' needs logits on a GPU"):
        rank_sort(LOGITS, LOGITS, backend="triton")


def test_auto_takes_torch_on_a_cpu():
    ranking = random_ranking(0, 500, 20)
    auto, torch_only = outcome(ranking, "auto"), outcome(ranking, "torch")
    assert auto[:2] == torch_only[:2]
    assert torch.equal(auto[2], torch_only[2])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.bfloat16])
def test_dense_labels_of_any_real_dtype(dtype):
    labels = torch.tensor([1, 0, 1, 0])
    logits = torch.tensor([0.1, 0.3, -0.2, 0.0])
    expected = rank_sort(logits, labels.float())
    assert rank_sort(logits, labels.to(dtype)) == expected


@pytest.mark.parametrize("form", ["dense", "levels", "sparse", "sparse levels"])
def test_devices_without_float64_are_ranked_on_the_cpu(monkeypatch, form):
    ranking = random_ranking(0, 600, 20)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    halves = list((ranking.targets < 0).split(300))
    targets = {
        "dense": ranking.targets,
        "levels": list(ranking.targets.split(300)),
        "sparse": SparseTargets(index, ranking.targets[index], ranking.targets < 0),
        "sparse levels": SparseTargets(index, ranking.targets[index], halves),
    }[form]
    logits = list(ranking.logits.split(300)) if "levels" in form else ranking.logits
    expected = rank_sort(logits, targets, backend="torch")
    monkeypatch.setattr("rst.kernels.arguments.NO_FLOAT64", {"cpu"})
    assert rank_sort(logits, targets, backend="torch") == expected


def test_the_rounding_of_an_iou_is_no_error():
    rank_sort(torch.zeros(1), torch.tensor([1.0000002]))


def test_memory_beyond_inputs_and_gradient_does_not_grow_with_the_logits():
    """The gradient is the only tensor of the size of the logits; measured at the allocator."""
    size = 1 << 22
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    index = torch.arange(0, size, size // 64)
    targets = SparseTargets(index, torch.full((len(index),), 0.7))

    peak = _peak_allocation(lambda: sum(rank_sort(logits, targets)).backward())
    gradient = size * 4
    assert peak - gradient < gradient, f"{peak / 2**20:.0f} MiB at the peak, the gradient included"


def _peak_allocation(work) -> int:
    """Bytes of tensors at the peak of `work`, from the allocations and releases that the profiler records."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0, "the profiler recorded no allocation"
    return peak
