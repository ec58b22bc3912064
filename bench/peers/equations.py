"""Shared by the ranking peers: H, the smallest mass that makes an update, and the sorting part over the positives.

P  positives    M  logits    x_ij  s_j - s_i
"""

from typing import NamedTuple

import torch
from torch import Tensor

# No update where a positive has (almost) no logits above it: its error cannot be distributed (published code).
MASS_FLOOR = 1e-10


class Outcome(NamedTuple):
    """Values of both parts and the gradient of their sum. A pointwise loss has one value; the other is 0."""

    ranking: Tensor  # ()
    sorting: Tensor  # ()
    gradient: Tensor  # (M,)


def step(difference: Tensor, delta: float) -> Tensor:
    """H of section 4 of the Rank & Sort paper, as published: a ramp over [-delta, delta], or [x >= 0] for delta 0."""
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    return torch.clamp(difference / (2 * delta) + 0.5, min=0, max=1)


class AmongPositives(NamedTuple):
    """Sums over the P x P pairs of positives."""

    rank: Tensor  # (P,) rank+, the self pair counting H(0)
    sorting_error: Tensor  # (P,) S
    sorting_grad: Tensor  # (P,) Identity Update of the sum of S


def among_positives(positives: Tensor, quality: Tensor, delta: float) -> AmongPositives:
    """Equations 7, 8 and 12 among the positives (P,) with all their pairs at once."""
    above = step(positives[None, :] - positives[:, None], delta)  # (P, P) H(x_ij)
    rank = above.sum(1)
    inverted = 1 - quality
    current = (above @ inverted) / rank
    rightly = above * (quality[None, :] >= quality[:, None])
    error = current - (rightly @ inverted) / rightly.sum(1)
    missorted = above - rightly
    mass = missorted.sum(1)
    spread = torch.where(mass > MASS_FLOOR, error / mass.clamp(min=MASS_FLOOR), 0)
    gradient = spread @ missorted - torch.where(mass > MASS_FLOOR, error, 0)
    return AmongPositives(rank, error, gradient)
