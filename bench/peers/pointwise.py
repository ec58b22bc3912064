"""Losses of one logit at a time: the cost of classification without ranking.

M  logits
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from .equations import Outcome


def sigmoid_focal(logits: Tensor, labels: Tensor) -> Outcome:
    """torchvision's focal loss (Lin et al., ICCV 2017; alpha 0.25, gamma 2) of labels 0 or 1 (M,)."""
    leaf = logits.detach().requires_grad_()
    return _outcome(sigmoid_focal_loss(leaf, labels, reduction="sum"), leaf)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Outcome:
    """torch's binary cross-entropy of labels 0 or 1 (M,)."""
    leaf = logits.detach().requires_grad_()
    return _outcome(F.binary_cross_entropy_with_logits(leaf, labels, reduction="sum"), leaf)


def quality_focal(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Outcome:
    """Quality focal loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 2), as autograd differentiates it.

    |y - sigmoid(s)|^beta BCE(s, y) for `targets` (M,): the IoU of a positive, 0 of a negative. Few operators more than
    its definition has; it ignores nothing.
    """
    leaf = logits.detach().requires_grad_()
    entropy = F.binary_cross_entropy_with_logits(leaf, targets, reduction="none")
    return _outcome(((targets - leaf.sigmoid()).abs().pow(beta) * entropy).sum(), leaf)


def _outcome(value: Tensor, leaf: Tensor) -> Outcome:
    value.backward()
    assert leaf.grad is not None
    return Outcome(value.detach(), torch.zeros_like(value), leaf.grad)
