"""Everything that is timed: rst, the published ways to rank, and the pointwise losses, behind one call.

M  logits    P  positives    R  visible negatives (at most delta below some positive)
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

from cuda_graph import capture_obstacle, replayed
from device import ON_GPU, matrix_bound
from peers import (
    Outcome,
    binary_cross_entropy,
    bucketed,
    bucketed_bytes,
    compiled_sigmoid_focal,
    compiler_obstacle,
    dense_matrix,
    dense_matrix_bytes,
    per_positive_loop,
    quality_focal,
    sigmoid_focal,
)
from shapes import Sample

from rst.kernels import rank_sort

Kind = Literal["exact", "approximate", "pointwise"]

OURS = "rst, sparse targets"
OURS_DENSE = "rst, dense targets"
PORTABLE = "rst portable"
LOOP = "per-positive loop"
BUCKETED = "bucketed"
MATRIX = "dense matrix"
FOCAL = "sigmoid focal loss"
COMPILED_FOCAL = "sigmoid focal loss, compiled"
GRAPH = "rst, in a CUDA graph"
# Beyond this the loop takes more than about ten seconds on a CPU, and is left out: a report should take minutes
CPU_LOOP_PAIRS = 2_300_000_000


@dataclass(frozen=True)
class Contender:
    """A way to compute a loss and its gradient.

    `kind`: an "exact" contender that differs from the truth is not reported. The error of an "approximate" one is
    reported. A "pointwise" one is another loss. `obstacle` returns why a sample is left out, or None. It also compiles
    or captures what has to be, so that no time contains that. `static`: the gradient is the same memory every time.
    """

    kind: Kind
    run: Callable[[Sample], Outcome]
    gpu_only: bool = False
    obstacle: Callable[[Sample], str | None] = lambda data: None
    static: bool = False


def _ours(data: Sample, form: Literal["sparse", "dense"], **arguments: Any) -> Outcome:
    logits = data.logits.detach().requires_grad_()
    loss = rank_sort(logits, data.sparse if form == "sparse" else data.dense, **arguments)
    (loss.ranking + loss.sorting).backward()
    assert logits.grad is not None
    return Outcome(loss.ranking.detach(), loss.sorting.detach(), logits.grad)


def _too_many_pairs(data: Sample) -> str | None:
    if ON_GPU or data.pairs <= CPU_LOOP_PAIRS:
        return None
    return f"{data.pairs / 1e9:.1f} billion pairs; on a CPU it is timed up to {CPU_LOOP_PAIRS / 1e9:.1f} billion"


def _too_large(size: int) -> str | None:
    bound = matrix_bound()
    return None if size <= bound else f"its matrices take {size / 2**30:.1f} GiB; the bound is {bound / 2**30:.1f} GiB"


CONTENDERS: dict[str, Contender] = {
    OURS: Contender("exact", lambda data: _ours(data, "sparse")),
    OURS_DENSE: Contender("exact", lambda data: _ours(data, "dense")),
    "rst breakpoints (Triton)": Contender(
        "exact", lambda data: _ours(data, "sparse", backend="triton", algorithm="breakpoints"), gpu_only=True
    ),
    "rst tiled (Triton)": Contender(
        "exact", lambda data: _ours(data, "sparse", backend="triton", algorithm="tiled"), gpu_only=True
    ),
    # on a CPU `auto` chooses it: there it is the first row
    PORTABLE: Contender("exact", lambda data: _ours(data, "sparse", backend="torch"), gpu_only=True),
    LOOP: Contender("exact", lambda data: per_positive_loop(data.logits, data.dense), obstacle=_too_many_pairs),
    MATRIX: Contender(
        "exact",
        lambda data: dense_matrix(data.logits, data.dense),
        obstacle=lambda data: _too_large(dense_matrix_bytes(len(data.sparse.index), data.visible)),
    ),
    BUCKETED: Contender(
        "approximate",
        lambda data: bucketed(data.logits, data.dense),
        obstacle=lambda data: _too_large(bucketed_bytes(len(data.sparse.index))),
    ),
    FOCAL: Contender("pointwise", lambda data: sigmoid_focal(data.logits, data.labels)),
    COMPILED_FOCAL: Contender(
        "pointwise",
        lambda data: compiled_sigmoid_focal(data.logits, data.labels),
        obstacle=lambda data: compiler_obstacle(data.logits, data.labels),
    ),
    "binary cross-entropy": Contender("pointwise", lambda data: binary_cross_entropy(data.logits, data.labels)),
    "quality focal loss": Contender("pointwise", lambda data: quality_focal(data.logits, data.dense)),
    # of the shapes in test_cuda_graph.py alone
    GRAPH: Contender(
        "exact",
        lambda data: replayed(data, lambda: _ours(data, "sparse")),
        gpu_only=True,
        obstacle=lambda data: capture_obstacle(data, lambda: _ours(data, "sparse")),
        static=True,
    ),
}

HERE = [name for name, contender in CONTENDERS.items() if (ON_GPU or not contender.gpu_only) and name != GRAPH]


def exact_outcome(data: Sample) -> Outcome:
    """The truth, in float64: the linear-time passes in torch operators, where the sample is.

    tests/kernels/test_peers.py compares it with the dense equations, and `loop_difference` with the loop.
    """
    sparse = type(data.sparse)(data.sparse.index, data.sparse.quality.double())
    logits = data.logits.double().requires_grad_()
    loss = rank_sort(logits, sparse, backend="torch")
    (loss.ranking + loss.sorting).backward()
    assert logits.grad is not None
    return Outcome(loss.ranking.detach(), loss.sorting.detach(), logits.grad)


def loop_difference(data: Sample, truth: Outcome) -> float:
    """Relative L1 distance of `truth` from the loop's gradient in float64."""
    loop = per_positive_loop(data.logits.double(), data.dense.double())
    return relative_error(truth, loop)


def relative_error(outcome: Outcome, truth: Outcome) -> float:
    """L1 norm of the gradient's error over the L1 norm of the gradient; 0 where both are 0."""
    error = outcome.gradient.to(truth.gradient.dtype).to(truth.gradient.device) - truth.gradient
    return float(error.abs().sum() / truth.gradient.abs().sum().clamp(min=1e-30))


def value_error(outcome: Outcome, truth: Outcome) -> float:
    """The larger absolute error of the two parts' values; NaN if either is NaN."""
    errors = [abs(float(outcome.ranking - truth.ranking)), abs(float(outcome.sorting - truth.sorting))]
    return sum(errors) if any(isnan(error) for error in errors) else max(errors)
