"""The equations with a P x R matrix: the loop, vectorised.

M  logits    P  positives    R  visible negatives (at most delta below some positive)
"""

import torch
from torch import Tensor

from .equations import MASS_FLOOR, Outcome, among_positives, step

MATRICES = 3  # P x R in float32, alive at once: H and its temporaries


def dense_matrix(logits: Tensor, targets: Tensor, delta: float = 0.5) -> Outcome:
    """O(P (P + R)) time and memory, in a dozen operator calls."""
    is_positive = targets > 0
    positives, quality = logits[is_positive], targets[is_positive]
    count = len(positives)
    relevant = (targets == 0) & (logits >= positives.min() - delta)
    above = step(logits[relevant][None, :] - positives[:, None], delta)  # (P, R)
    false_positives = above.sum(1)
    among = among_positives(positives, quality, delta)
    ranking_error = false_positives / (among.rank + false_positives)
    outranked = false_positives > MASS_FLOOR
    weights = torch.where(outranked, ranking_error / false_positives.clamp(min=MASS_FLOOR), 0)

    gradient = torch.zeros_like(logits)
    gradient[relevant] = weights @ above / count
    gradient[is_positive] = (among.sorting_grad - torch.where(outranked, ranking_error, 0)) / count
    return Outcome(ranking_error.mean(), among.sorting_error.mean(), gradient)


def dense_matrix_bytes(positives: int, visible: int) -> int:
    """Bytes of the matrices that are alive at once; `visible` is R."""
    return MATRICES * 4 * positives * max(visible, positives)
