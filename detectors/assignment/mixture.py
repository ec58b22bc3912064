"""Mixtures of two Gaussians, fitted to many small one-dimensional samples at once.

    G  samples    K  values of a sample, some of which may be absent

Scikit-learn fits one sample after another, on the CPU. Here all samples of a batch go through expectation maximisation
together, on their device, in float64, and nothing waits for that device: a sample that has converged keeps its
parameters, so steps after the last one change nothing, and end where the host happens to know it. The result is that of
scikit-learn's `GaussianMixture` (a test compares thousands), with its stopping rule.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry.transfers import Asked

MOST_STEPS = 100
STEPS_PER_LOOK = 4  # a look costs as much as one of a step's operators, on a GPU as three
TOLERANCE = 1e-3  # a sample has converged when its mean log-likelihood changes by less
LEAST_VARIANCE = 1e-5  # added to every variance (published code of PAA)
# Keeps a component of no weight from a division by zero, as scikit-learn does.
_LEAST_COUNT = 10 * torch.finfo(torch.float64).eps


class Mixture(NamedTuple):
    """Of each value what the mixture of its sample says; where a value is absent, nothing meaningful."""

    in_first: Tensor  # (G, K) bool: the component that began at the lowest value is at least as likely as the other
    log_likelihood: Tensor  # (G, K) float64, under both


class _Parameters(NamedTuple):
    """Of both components, (2, G, 1) float64 each."""

    weight: Tensor
    mean: Tensor
    variance: Tensor

    def log_densities(self, values: Tensor) -> Tensor:
        """Weighted, (2, G, K)."""
        scale = self.weight.log() - 0.5 * (2 * math.pi * self.variance).log()
        return scale - 0.5 * (values - self.mean).square() / self.variance


@torch.no_grad()
def fit_mixtures(
    values: Tensor,  # (G, K) finite, any float dtype
    there: Tensor,  # (G, K) bool: the values that a sample has
) -> Mixture:
    """Fits a mixture to each sample, from its lowest and its highest value as means and unit variances.

    The outcome of a sample does not depend on the others, nor on values that are absent.
    """
    x, present = torch.where(there, values.double(), 0), there.double()
    count = present.sum(1).clamp(min=1)  # (G,)
    lowest = x.masked_fill(~there, torch.inf).amin(1).nan_to_num(posinf=0)
    highest = x.masked_fill(~there, -torch.inf).amax(1).nan_to_num(neginf=0)
    mean = torch.stack((lowest, highest))[..., None]
    now = _Parameters(torch.full_like(mean, 0.5), mean, torch.ones_like(mean))
    before = torch.full_like(count, -torch.inf)
    converged = torch.zeros_like(count, dtype=torch.bool)
    all_converged = Asked()
    for step in range(1, MOST_STEPS + 1):
        densities = now.log_densities(x)
        likelihood = torch.logaddexp(densities[0], densities[1])  # (G, K)
        shares = (densities - likelihood).exp() * present  # (2, G, K)
        fitted = _fit(x, shares)
        now = _Parameters(*(torch.where(converged[:, None], a, b) for a, b in zip(now, fitted, strict=True)))
        bound = (likelihood * present).sum(1) / count
        converged = converged | ((bound - before).abs() < TOLERANCE)
        before = bound
        if step % STEPS_PER_LOOK == 0 and all_converged.is_true(converged.all()):
            break
    densities = now.log_densities(x)
    return Mixture(densities[0] >= densities[1], torch.logaddexp(densities[0], densities[1]))


def _fit(
    x: Tensor,  # (G, K) float64
    shares: Tensor,  # (2, G, K): of each value, in each component; 0 where it is absent
) -> _Parameters:
    count = shares.sum(2, keepdim=True) + _LEAST_COUNT
    mean = (shares * x).sum(2, keepdim=True) / count
    # E[x^2] - mean^2 without its cancellation; the last part is what `_LEAST_COUNT` adds to it
    variance = (shares * (x - mean).square()).sum(2, keepdim=True) / count + _LEAST_COUNT / count * mean.square()
    return _Parameters(count / count.sum(0), mean, variance + LEAST_VARIANCE)
