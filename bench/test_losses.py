"""Forward and backward of the Rank & Sort loss beside the published per-positive loop, and beside focal loss.

Each contender is checked against the float64 truth before it is timed. Ratios are made of medians from one session on
one machine: `make bench` writes them to a report.
"""

from functools import lru_cache

import pytest
from peers import Outcome, per_positive_loop
from shapes import SHAPES, STAGES, Sample, Stage, sample
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


@lru_cache(maxsize=1)  # the parameters below change the shape and the stage last
def prepared(shape: str, stage: Stage) -> tuple[Sample, Outcome]:
    """A ranking and its exact outcome: the loop in float64, which tests/kernels holds to the dense equations."""
    data = sample(SHAPES[shape], stage)
    return data, per_positive_loop(data.logits.double(), data.dense.double())


@pytest.mark.parametrize("contender", [*CONTENDERS, "sigmoid focal loss"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark, shape, stage, contender):
    data, truth = prepared(shape, stage)
    benchmark.group = f"{shape}, {stage}"
    benchmark.extra_info.update(contender=contender, shape=shape, stage=stage, logits=len(data.logits))
    if contender == "sigmoid focal loss":
        benchmark.pedantic(focal, args=(data,), rounds=7, warmup_rounds=1)
        return
    run = CONTENDERS[contender]
    outcome = run(data)
    error = float((outcome.gradient - truth.gradient).abs().sum() / truth.gradient.abs().sum())
    assert error < 1e-5, f"not reported: the gradient's relative error is {error:.1e}"
    for part in ("ranking", "sorting"):
        assert abs(float(getattr(outcome, part) - getattr(truth, part))) < 1e-5, f"not reported: {part}"
    benchmark.extra_info["relative_error"] = error
    slow = contender == "per-positive loop" and SHAPES[shape].positives >= 1000
    benchmark.pedantic(run, args=(data,), rounds=3 if slow else 7, warmup_rounds=0 if slow else 1)
