"""Logistic scaling of a ranking detector's logits (Platt, 1999), so that its scores mean something.

N  logits of the batch    P  positives of the batch    K  logits that are looked at
"""

import torch
from torch import Tensor, nn

from rst.kernels import gather_levels

from .contract import Classification

# So many logits of a batch are looked at: every n-th, all of a small batch.
LOOKED_AT = 1 << 17
# A ranking that is worse than chance does not turn scores round.
LEAST_SCALE = 0.1
# A Newton step changes scale and shift by this at most, in logits: far from the optimum it can overshoot.
LONGEST_STEP = 2.0


class ScoreScaling(nn.Module):
    """Scale and shift that make the score of each logit the best guess of its quality, which is 0 for a negative.

    A ranking sees differences of logits alone, and their order more than their size: its gradients sum to zero, so a
    common shift stays where initialisation put it, and with the usual prior all scores stay near 0.01. The order of
    detections, and so average precision, does not depend on scale and shift; a threshold does. No gradient reaches
    them and none comes from them: a training step is the same with and without.

    They are fitted by logistic regression, one Newton step for each training step, with a unit normal prior of the
    scale around 1. In data-parallel training those of the first process count, as is usual for buffers.

    Args:
        momentum: weight of a step, as that of the running means of batch normalisation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("shift", torch.zeros((), dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """The logits of any shape, scaled and shifted, in float32."""
        return logits.float() * self.scale + self.shift

    @torch.no_grad()
    def update(
        self,
        ranked: Classification,
        quality: Tensor,  # (P,) in [0, 1]
    ) -> None:
        """One training step. Without a positive, or where a number is not finite, nothing changes."""
        if not len(quality):
            return
        positives = ranked.positive_logits().double()  # (P,)
        others, weights = _others(ranked)  # (K,) each
        logits = torch.cat([positives, others])
        weights = torch.cat([torch.ones_like(positives), weights])
        score = (logits * self.scale + self.shift).sigmoid()
        # of the sum of cross-entropies, by scale and by shift
        slope = weights * score
        by_scale = (slope * logits).sum() - (quality.double() * positives).sum() + (self.scale - 1)
        by_shift = slope.sum() - quality.double().sum()
        curve = slope * (1 - score)
        scale_scale, scale_shift = (curve * logits * logits).sum() + 1, (curve * logits).sum()
        shift_shift = curve.sum() + 1e-6  # it cannot be 0
        determinant = scale_scale * shift_shift - scale_shift * scale_shift
        step = torch.stack(
            [
                by_scale * shift_shift - by_shift * scale_shift,
                by_shift * scale_scale - by_scale * scale_shift,
            ]
        ) / determinant.clamp(min=1e-12)
        step = step * (LONGEST_STEP / step.abs().amax().clamp(min=LONGEST_STEP)) * self.momentum
        step = torch.where(step.isfinite().all(), step, 0.0)
        self.scale.copy_((self.scale - step[0]).clamp(min=LEAST_SCALE))
        self.shift.copy_(self.shift - step[1])


def _others(ranked: Classification) -> tuple[Tensor, Tensor]:
    """Every n-th logit, float64, and how many it stands for: 0 for a positive and for an ignored one."""
    levels = [level.detach() for level in ranked.logits]
    total = sum(level.numel() for level in levels)
    every = -(-total // LOOKED_AT)
    places = torch.arange(0, total, every, device=ranked.index.device)
    weights = torch.full(places.shape, float(every), dtype=torch.float64, device=places.device)
    own = ranked.index // every
    # a positive that is not among the places changes nothing: it multiplies by 1
    factor = torch.where(ranked.index % every == 0, 0.0, 1.0).double()
    weights = weights.scatter_reduce(0, own, factor, "prod")
    if ranked.ignore is not None:
        weights = weights * (~gather_levels(list(ranked.ignore), places)).double()
    return gather_levels(levels, places).double(), weights
