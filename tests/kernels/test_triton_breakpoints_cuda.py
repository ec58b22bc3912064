"""What only a GPU can show of the breakpoints algorithm: capture in a CUDA graph, and streams.

M  logits      P  positives
"""

import pytest
import torch
from rank_sort_cases import INTERPRETED
from torch import Tensor

from rst.kernels import SparseTargets, rank_sort

pytestmark = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA GPU")

SIZE, POSITIVES = 300_000, 500


def step(logits: Tensor, targets: SparseTargets) -> tuple[Tensor, Tensor, Tensor]:
    """(ranking, sorting, gradient) of one forward and backward."""
    loss = rank_sort(logits, targets, backend="triton", algorithm="breakpoints")
    (gradient,) = torch.autograd.grad(loss.ranking + loss.sorting, logits)
    return loss.ranking.detach(), loss.sorting.detach(), gradient


def inputs(seed: int) -> tuple[Tensor, SparseTargets]:
    generator = torch.Generator("cuda").manual_seed(seed)
    logits = torch.randn(SIZE, device="cuda", generator=generator) - 3
    index = torch.randperm(SIZE, device="cuda", generator=generator)[:POSITIVES]
    logits[index] += seed
    quality = torch.rand(POSITIVES, device="cuda", generator=generator)
    ignore = torch.rand(SIZE, device="cuda", generator=generator) < 0.05
    return logits.requires_grad_(), SparseTargets(index, quality, ignore)


def copy_into(logits: Tensor, targets: SparseTargets, others: tuple[Tensor, SparseTargets]) -> None:
    assert targets.ignore is not None
    with torch.no_grad():
        logits.copy_(others[0])
    targets.index.copy_(others[1].index)
    targets.quality.copy_(others[1].quality)
    targets.ignore.copy_(others[1].ignore)


def test_a_captured_graph_replays_on_other_inputs():
    logits, targets = inputs(0)
    warming = torch.cuda.Stream()
    warming.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warming):
        for _ in range(3):
            step(logits, targets)
    torch.cuda.current_stream().wait_stream(warming)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(logits, targets)
    for seed in range(1, 5):
        others = inputs(seed)
        copy_into(logits, targets, others)
        for part in captured:
            part.fill_(torch.nan)
        graph.replay()
        for got, expected in zip(captured, step(*others), strict=True):
            assert torch.equal(got, expected)


def test_all_work_is_on_the_stream_of_the_caller():
    """On a stream that is still busy with the inputs: work on any other stream would read them too early."""
    others = inputs(1)
    expected = step(*others)
    logits, targets = inputs(2)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        copy_into(logits, targets, others)
        got = step(logits, targets)
    side.synchronize()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
