"""H, the smoothed step between two logits, in torch operators. `triton_step.py` is the same for Triton.

s  logits      x = s_j - s_i      delta  half-width of the smoothing, in logits
"""

import torch
from torch import Tensor

# No update where a positive has (almost) no mass above it: its error cannot be distributed (published code).
MASS_FLOOR = 1e-10


def step(difference: Tensor, delta: float) -> Tensor:
    """H(x) of section 4: clamp(x / 2 delta + 1/2, 0, 1) for delta > 0, [x >= 0] for delta == 0; NaN stays NaN."""
    if delta > 0:
        return (difference / (2 * delta) + 0.5).clamp(0, 1)
    return torch.where(difference.isnan(), difference, (difference >= 0).to(difference.dtype))


def self_pair(delta: float) -> float:
    """H(0), which a positive adds to its own rank."""
    return 0.5 if delta > 0 else 1.0


def pairwise_step(lower: Tensor, upper: Tensor, delta: float) -> Tensor:
    """H(upper_j - lower_i) as a matrix (len(lower), len(upper)); two equal infinities are a tie, not a NaN."""
    difference = upper[None, :] - lower[:, None]
    tie = (upper[None, :] == lower[:, None]) & upper.isinf()[None, :]
    return step(difference.masked_fill_(tie, 0), delta)


def replace_infinities(logits: Tensor, positives: Tensor, delta: float) -> Tensor:
    """The logits in the dtype of `positives`, finite, and with the same H against every one of them.

    A finite logit more than 2 delta away from every finite positive may be moved closer without a change of H. This
    leaves room outside for the infinite ones. Without an infinite positive only the dtype changes: the kinks of finite
    positives have defined distances.
    """
    logits = logits.to(positives.dtype)
    if not positives.isinf().any():
        return logits
    # room for the infinite ones even beside the largest numbers, which then count as equal
    most = torch.finfo(positives.dtype).max / 16
    logits = torch.where(logits.isinf(), logits, logits.clamp(-most, most))
    finite = positives[positives.isfinite()].clamp(-most, most)
    low, high = (finite.min(), finite.max()) if len(finite) else (positives.new_zeros(()), positives.new_zeros(()))
    # relative as well as absolute: the room must survive the rounding of large logits
    room = (low.abs() + high.abs()) * 1e-3 + max(2 * delta, 1.0)
    moved = logits.clamp(low - room, high + room)
    moved = torch.where(logits == torch.inf, high + 3 * room, moved)
    return torch.where(logits == -torch.inf, low - 3 * room, moved)
