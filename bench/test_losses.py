"""Forward and backward of the Rank & Sort loss beside the published per-positive loop, and beside focal loss.

Each contender is checked against the dense equations in float64 before it is timed. Ratios are made of medians from one
run on one machine: the session's summary prints them, and `make bench` keeps them.
"""

import pytest
from peers import Outcome, per_positive_loop
from shapes import SHAPES, STAGES, Sample, sample
from torchvision.ops import sigmoid_focal_loss

from rst.kernels import rank_sort


def ours(data: Sample, targets) -> Outcome:
    logits = data.logits.detach().requires_grad_()
    loss = rank_sort(logits, targets)
    (loss.ranking + loss.sorting).backward()
    assert logits.grad is not None
    return Outcome(loss.ranking.detach(), loss.sorting.detach(), logits.grad)


def focal(data: Sample) -> None:
    logits = data.logits.detach().requires_grad_()
    sigmoid_focal_loss(logits, (data.dense > 0).float(), reduction="sum").backward()


CONTENDERS = {
    "rst, sparse targets": lambda data: ours(data, data.sparse),
    "rst, dense targets": lambda data: ours(data, data.dense),
    "per-positive loop": lambda data: per_positive_loop(data.logits, data.dense),
}


def error_against_truth(outcome: Outcome, data: Sample) -> float:
    """L1 norm of the gradient's error over the L1 norm of the gradient, truth in float64 in blocks of positives."""
    truth = per_positive_loop(data.logits.double(), data.dense.double()).gradient
    return float((outcome.gradient - truth).abs().sum() / truth.abs().sum())


@pytest.fixture(scope="module")
def samples() -> dict[tuple[str, str], Sample]:
    return {}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contender", [*CONTENDERS, "sigmoid focal loss"])
def test_forward_and_backward(benchmark, samples, contender, shape, stage):
    if (shape, stage) not in samples:
        samples[shape, stage] = sample(SHAPES[shape], stage)
    data = samples[shape, stage]
    benchmark.group = f"{shape}, {stage}"
    benchmark.extra_info.update(contender=contender, shape=shape, stage=stage, logits=len(data.logits))
    if contender == "sigmoid focal loss":
        benchmark.pedantic(focal, args=(data,), rounds=7, warmup_rounds=1)
        return
    run = CONTENDERS[contender]
    if shape != "P=2000":  # the float64 loop takes too long there; tests/kernels checks such sizes
        error = error_against_truth(run(data), data)
        assert error < 1e-5, f"not reported: relative error {error:.1e}"
        benchmark.extra_info["relative_error"] = error
    slow = contender == "per-positive loop" and shape == "P=2000"
    benchmark.pedantic(run, args=(data,), rounds=3 if slow else 7, warmup_rounds=1)
