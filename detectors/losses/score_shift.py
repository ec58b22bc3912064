"""A common shift of all logits, so that the scores of a ranking detector mean something.

P  positives of the batch
"""

import torch
from torch import Tensor, nn

# Shares are kept this far from 0 and 1, whose log-odds are infinite.
MARGIN = 1e-4


class ScoreShift(nn.Module):
    """The shift with which the mean score of the positives is their mean quality.

    A ranking sees differences of logits alone: its gradients sum to zero, so a common shift stays where initialisation
    put it, and with the usual prior all scores stay near 0.01. The order of detections, and so average precision, does
    not depend on the shift; a threshold does. No gradient reaches it and none comes from it: a training step is the
    same with and without it.

    It is a running mean over training steps, as those of batch normalisation. In data-parallel training the first
    process's counts, as is usual for buffers.

    Args:
        momentum: weight of a step; the first steps count alike, as in a mean over so few.
    """

    shift: Tensor
    steps: Tensor

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("shift", torch.zeros((), dtype=torch.float32))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """The logits of any shape, shifted, in float32."""
        return logits.float() + self.shift

    @torch.no_grad()
    def update(
        self,
        logits: Tensor,  # (P,) any float, the positives' own
        quality: Tensor,  # (P,) in [0, 1]
    ) -> None:
        """One training step. Without a positive, or where a logit or the quality is not finite, nothing changes."""
        if not len(logits):
            return
        shifted = logits.double() + self.shift
        wanted = torch.logit(quality.double().mean(), MARGIN)
        # the difference of log-odds: exact at once for positives of one logit, and 0 where the means are equal
        change = wanted - (_log_mean(shifted.sigmoid()) - _log_mean((-shifted).sigmoid()))
        steps = self.steps + 1
        weight = (1 / steps).clamp(min=self.momentum)
        is_finite = change.isfinite()
        self.shift += torch.where(is_finite, weight * change, 0.0).to(self.shift.dtype)
        self.steps.copy_(torch.where(is_finite, steps, self.steps))


def _log_mean(shares: Tensor) -> Tensor:
    """The logarithm of the mean; the smallest normal number stands for 0."""
    return shares.mean().clamp(min=torch.finfo(shares.dtype).tiny).log()
