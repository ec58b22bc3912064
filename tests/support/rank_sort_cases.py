"""Rankings and backends for the tests, and the definition of "exact".

    M  logits      P  positives

Truth is the dense equations in float64; the yardstick is the same equations in the tested dtype. A backend passes where
its error is no larger than the yardstick's plus a stated margin.
"""

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rst.kernels import rank_sort

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def backends_here() -> list[tuple[str, str]]:
    """(backend, device) pairs that can run in this process, Triton's with its algorithm; interpreted, Triton alone."""
    triton = ["triton tiled", "triton breakpoints"]
    if INTERPRETED:
        return [(name, "cpu") for name in triton]
    here = [("reference", "cpu"), ("torch", "cpu")]
    if torch.cuda.is_available():
        here += [(name, "cuda") for name in ["reference", "torch", *triton]]
    return here


def named(backend: str) -> dict[str, str]:
    """The arguments that choose a backend of `BACKENDS`."""
    name, _, algorithm = backend.partition(" ")
    return {"backend": name, "algorithm": algorithm or "auto"}


BACKENDS = backends_here()


@dataclass(frozen=True)
class Ranking:
    """Logits and dense targets of one ranking."""

    logits: Tensor  # (M,)
    targets: Tensor  # (M,) > 0 quality, 0 negative, -1 ignored
    delta: float = 0.5

    def to(self, dtype: torch.dtype) -> "Ranking":
        """The same with other logits' precision."""
        return replace(self, logits=self.logits.to(dtype))


def random_ranking(
    seed: int,
    size: int,
    positives: int,
    delta: float = 0.5,
    *,
    spread: float = 1.5,
    ties: float = 0.0,
    lift: float = 0.5,
) -> Ranking:
    """Normal logits, positives higher by `lift`, a tenth ignored; `ties` rounds logits and qualities to a grid."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator) * spread
    targets = torch.zeros(size)
    targets[torch.rand(size, generator=generator) < 0.1] = -1
    place = torch.randperm(size, generator=generator)[:positives]
    targets[place] = torch.rand(positives, generator=generator).clamp(min=0.01)
    logits[place] += lift
    if ties:
        logits = (logits / ties).round() * ties
        targets = torch.where(targets > 0, (targets * 5).ceil() / 5, targets)
    return Ranking(logits, targets, delta)


def named_rankings() -> dict[str, Ranking]:
    """The shapes and the corners that a ranking loss meets."""
    # interpreted: the tiled count still has several programs in each direction
    few = 600 if INTERPRETED else 20_000
    # more than two chunks of the torch backend, which the interpreter does not run
    many = 700 if INTERPRETED else 600_001
    return {
        "several chunks": random_ranking(20, many, 12),
        "several chunks, few in sight": random_ranking(21, many, 12, lift=8.0),
        "several chunks, two positives": random_ranking(22, many, 2, lift=8.0),
        "several chunks, crowded kinks": random_ranking(23, many, 40, spread=1e-5),
        "typical": random_ranking(0, 777, 23),
        "odd and large": random_ranking(1, few + 7, 129),
        "hard step": random_ranking(2, 701, 31, 0.0),
        "wide step": random_ranking(3, 701, 31, 4.0),
        "narrow step": random_ranking(4, 701, 31, 1e-3),
        "ties": random_ranking(5, 600, 40, ties=0.25),
        "ties, hard step": random_ranking(6, 600, 40, 0.0, ties=0.25),
        "initialisation": random_ranking(7, 900, 50, spread=1e-2),
        "far apart": random_ranking(8, 900, 50, spread=100.0),
        "one positive": random_ranking(9, 500, 1),
        "three positives": random_ranking(10, 500, 3),
        "four positives": random_ranking(11, 500, 4),
        "all positive": random_ranking(12, 60, 60),
        "positives alone": Ranking(torch.linspace(-2, 2, 37), torch.linspace(1, 0.1, 37)),
        "one positive alone": Ranking(torch.tensor([0.3]), torch.tensor([0.6])),
        "equal logits": Ranking(torch.full((300,), 0.7), random_ranking(13, 300, 20).targets),
        "equal logits, hard step": Ranking(torch.full((300,), 0.7), random_ranking(13, 300, 20).targets, 0.0),
        "equal qualities": Ranking(torch.randn(200).sort().values, (torch.arange(200) % 5 == 0) * 0.5),
        "separated": Ranking(torch.linspace(5, -5, 100), (torch.arange(100) < 10) * torch.linspace(1, 0.5, 100)),
        "reversed": Ranking(torch.linspace(-5, 5, 100), (torch.arange(100) < 10) * torch.linspace(0.5, 1, 100)),
        "outlying positive": _with(random_ranking(14, 500, 30), positive=-1e4),
        "outlying negative": _with(random_ranking(15, 500, 30), negative=1e30),
        "huge logits": _scaled(random_ranking(16, 300, 20), 1e8),
        "infinite negatives": _with(random_ranking(17, 500, 30), negative=torch.inf, another=-torch.inf),
        "infinite positives": _with(random_ranking(18, 500, 30), positive=torch.inf, other=-torch.inf),
        "infinite positives, hard step": _with(random_ranking(18, 500, 30, 0.0), positive=torch.inf, other=-torch.inf),
        "infinities of both": _with(
            random_ranking(19, 500, 30), positive=torch.inf, other=-torch.inf, negative=torch.inf, another=-torch.inf
        ),
        "one infinite positive": Ranking(
            torch.tensor([torch.inf, 1.0, torch.inf, -torch.inf]), torch.tensor([0.5, 0.0, 0.0, 0.0])
        ),
    }


def outcome(ranking: Ranking, backend: str, device: str = "cpu", weights: tuple[float, float] = (1, 1)):
    """(ranking, sorting, gradient), on the CPU in float64, of the weighted sum of both parts."""
    logits = ranking.logits.detach().clone().to(device).requires_grad_()
    loss = rank_sort(logits, ranking.targets.to(device), delta=ranking.delta, **named(backend))
    (weights[0] * loss.ranking + weights[1] * loss.sorting).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == logits.dtype
    return loss.ranking.double().item(), loss.sorting.double().item(), logits.grad.double().cpu()


def assert_exact(got, ranking: Ranking, weights: tuple[float, float] = (1, 1), value=2e-7, relative=1e-6) -> None:
    """Errors against the float64 truth, no larger than those of the dense equations plus the margins.

    `value` is absolute; `relative` is the L1 norm of the gradient's error over the L1 norm of the gradient.
    """
    truth = outcome(ranking.to(torch.float64), "reference", weights=weights)
    yardstick = outcome(ranking, "reference", weights=weights)
    for part in (0, 1):
        allowed = abs(yardstick[part] - truth[part]) + value
        assert abs(got[part] - truth[part]) <= allowed, (part, got[part], truth[part], allowed)
    norm = truth[2].abs().sum()
    allowed = (yardstick[2] - truth[2]).abs().sum() + relative * norm + 1e-9
    error = (got[2] - truth[2]).abs().sum()
    assert error <= allowed, (float(error / norm), float(allowed / norm))


def _with(ranking: Ranking, positive=None, other=None, negative=None, another=None) -> Ranking:
    logits = ranking.logits.clone()
    places = (ranking.targets > 0).nonzero()[:2, 0].tolist() + (ranking.targets == 0).nonzero()[:2, 0].tolist()
    for place, value in zip(places, (positive, other, negative, another), strict=True):
        if value is not None:
            logits[place] = value
    return replace(ranking, logits=logits)


def _scaled(ranking: Ranking, factor: float) -> Ranking:
    return replace(ranking, logits=ranking.logits * factor)
