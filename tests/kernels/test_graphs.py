"""`graphed_loss`: a loss in a CUDA graph. What needs a GPU runs there; the rest with a stand-in for the capture.

P  positives
"""

import functools

import pytest
import torch
from every_loss import outside_of_backends
from rank_sort_cases import INTERPRETED
from segment_cases import Call, call
from torch import Tensor

from rst.kernels import RankSortLoss, SparseTargets, average_precision, graphed_loss, rank_sort

on_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA GPU")


def targets_of(whole: Call) -> SparseTargets:
    return SparseTargets(whole.index, whole.quality, whole.masks).padded(32)


@pytest.fixture
def no_capture(monkeypatch):
    """Calls instead of a capture, and logits that seem to be on a GPU."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda function, examples: function)
    monkeypatch.setattr("rst.kernels.graphs.as_levels", OnGpu)


class OnGpu(list):
    """Levels whose first one says that it is on a GPU."""

    def __init__(self, logits) -> None:
        super().__init__([logits] if isinstance(logits, torch.Tensor) else logits)

    def __getitem__(self, place):
        return type("Level", (), {"device": torch.device("cuda")})


@outside_of_backends
@pytest.mark.usefixtures("no_capture")
@pytest.mark.parametrize("segments", [None, 3])
@pytest.mark.parametrize("loss", [rank_sort, average_precision])
def test_equals_the_loss(loss, segments):
    loss = functools.partial(loss, segments=segments, backend="torch")
    first, second = call([60, 90], 20, "cpu"), call([60, 90], 25, "cpu")
    graphed = graphed_loss(loss, first.levels, targets_of(first))
    got, expected = (each(second.levels, targets_of(second)) for each in (graphed, loss))
    assert type(got) is type(expected)
    for part, truth in zip(*([each] if isinstance(each, Tensor) else each for each in (got, expected)), strict=True):
        assert torch.equal(part, truth)


@outside_of_backends
@pytest.mark.usefixtures("no_capture")
def test_inputs_that_are_not_those_of_the_capture():
    whole = call([60, 90], 20, "cpu")
    targets = targets_of(whole)
    graphed = graphed_loss(functools.partial(rank_sort, backend="torch"), whole.levels, targets)
    with pytest.raises(ValueError, match=r"targets.index: captured with \(32,\) torch.int64, got \(40,\) torch.int64"):
        graphed(whole.levels, targets.padded(40))
    with pytest.raises(
        ValueError, match=r"logits\[1\]: captured with \(90,\) torch.float32, got \(90,\) torch.float16"
    ):
        graphed([whole.levels[0], whole.levels[1].half()], targets)
    with pytest.raises(ValueError, match=r"captured with .*targets.ignore\[1\]; got .*targets.valid$"):
        graphed(whole.levels, SparseTargets(whole.index, whole.quality).padded(32))


@outside_of_backends
def test_needs_a_gpu():
    whole = call([60], 5, "cpu")
    with pytest.raises(ValueError, match="logits: a CUDA graph needs a CUDA device, got cpu"):
        graphed_loss(rank_sort, whole.levels[0], targets_of(whole))


@on_gpu
@pytest.mark.parametrize("segments", [None, 3])
def test_a_captured_graph_replays_on_ragged_ground_truth(segments):
    loss = functools.partial(rank_sort, segments=segments)
    first = call([6000, 9000], 20, "cuda")
    levels = [level.requires_grad_() for level in first.levels]
    graphed = graphed_loss(loss, levels, targets_of(first))
    for positives in (1, 32, 0, 17):
        other = call([6000, 9000], positives, "cuda")
        outcomes = []
        for each in (graphed, loss):
            levels = [level.clone().requires_grad_() for level in other.levels]
            parts = each(levels, targets_of(other))
            assert isinstance(parts, RankSortLoss)
            (parts.ranking.sum() + 2 * parts.sorting.sum()).backward()
            outcomes.append([*(part.detach().clone() for part in parts), *(level.grad.clone() for level in levels)])
        for got, expected in zip(*outcomes, strict=True):
            assert torch.equal(got, expected)
