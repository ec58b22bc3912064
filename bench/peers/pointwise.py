"""Losses of one logit at a time: the cost of classification without ranking.

M  logits
"""

import shutil
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from .equations import Outcome


def sigmoid_focal(logits: Tensor, labels: Tensor) -> Outcome:
    """torchvision's focal loss (Lin et al., ICCV 2017; alpha 0.25, gamma 2) of labels 0 or 1 (M,)."""
    leaf = logits.detach().requires_grad_()
    return _outcome(sigmoid_focal_loss(leaf, labels, reduction="sum"), leaf)


def compiled_sigmoid_focal(logits: Tensor, labels: Tensor) -> Outcome:
    """The same, forward and backward compiled by Inductor for this size: the honest rival.

    Its forward saves nothing but its inputs. So a logit costs 20 bytes: logit and label are read twice, the gradient is
    written. The first call for a size compiles, which takes seconds.
    """
    leaf = logits.detach().requires_grad_()
    return _outcome(_compiled_for(len(leaf))(leaf, labels), leaf)


@lru_cache(maxsize=1)
def _compiled_for(size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Compiled anew for each size: sizes known to the compiler give the fastest code. Forgets earlier sizes."""
    del size
    torch.compiler.reset()  # else the ninth size would be refused
    return torch.compile(_focal_sum, fullgraph=True, dynamic=False)


def _focal_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return sigmoid_focal_loss(logits, labels, reduction="sum")


def compiler_obstacle(logits: Tensor, labels: Tensor) -> str | None:
    """Compiles for this size; returns why that failed, or None."""
    if logits.device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "not compiled: no C++ compiler"
    try:
        with warnings.catch_warnings(action="ignore"):  # of tf32, which no loss uses, and of Inductor's own calls
            compiled_sigmoid_focal(logits, labels)
    except Exception as error:  # whatever a compiler raises: the row says so
        return f"not compiled: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


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
