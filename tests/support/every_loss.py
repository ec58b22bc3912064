"""The four losses behind one signature, for tests of all losses.

P  positives
"""

import pytest
import torch
from rank_sort_cases import INTERPRETED, Ranking, backends_here, named
from torch import Tensor

from rst.kernels import alrp, average_precision, rank_sort, ranking_loss

BACKENDS = [pair for pair in backends_here() if pair[0] != "reference"]
every_backend = pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=["-".join(pair) for pair in BACKENDS])
# For code before and after the backend: interpreted kernels take seconds and would show nothing new.
outside_of_backends = pytest.mark.skipif(INTERPRETED, reason="the same for every backend, and tested with torch's")


def score(counts) -> Tensor:
    """A score of our own, which reads the qualities too."""
    return counts.false_positives / (counts.false_positives + counts.true_positives) + 0.1 * counts.quality


def weighted_rank_sort(logits, targets, error, **more) -> Tensor:
    """Both parts, told apart by their weights."""
    loss = rank_sort(logits, targets, **more)
    return loss.ranking + 2 * loss.sorting


# name -> loss (logits, targets, localisation errors (P,)) -> ()
LOSSES = {
    "rank_sort": weighted_rank_sort,
    "average_precision": lambda logits, targets, error, **more: average_precision(logits, targets, **more),
    "alrp": lambda logits, targets, error, **more: sum(alrp(logits, targets, error, **more)),
    "ranking_loss": lambda logits, targets, error, **more: ranking_loss(score, logits, targets, **more),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def errors_of(ranking: Ranking) -> Tensor:
    """A localisation error (P,) for each positive, exact in any dtype."""
    count = int((ranking.targets > 0).sum())
    return torch.randint(0, 65, (count,), generator=torch.Generator().manual_seed(5)) / 64


def outcome(loss, ranking: Ranking, backend: str, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(value, gradient) in the dtypes that the loss gives them, on the CPU."""
    logits = ranking.logits.clone().to(device).requires_grad_()
    error = errors_of(ranking).to(device)
    value = loss(logits, ranking.targets.to(device), error, delta=ranking.delta, **named(backend))
    value.backward()
    assert logits.grad is not None
    return value.detach().cpu(), logits.grad.cpu()
