"""The box loss of a head whose classifier is a sigmoid: GIoU, how positives are weighted, how tasks are balanced.

    P  positives of the batch    K  outputs per candidate

The switches of Table 9 of the Rank & Sort paper are the fields of `BoxLoss`; every loss of Table 2 has one, but for
aLRP, which ranks box errors itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ..geometry.boxes import paired_giou
from .contract import HeadLosses, HeadOutputs
from .statistics import head_statistics

# Below this sum of weights a weighted mean is divided by 1 instead (published code).
WEIGHT_FLOOR = 1e-10
# A box loss below float32's resolution of a GIoU is rounding; balancing must not blow it up.
BALANCE_FLOOR = 1e-6

TaskBalance = Literal["value", "magnitude"] | float


@dataclass(frozen=True)
class BoxLoss:
    """GIoU loss of the positives beside a classification loss.

    Args:
        weighting: what a positive counts in the mean: "uniform", 1; "score", its highest score over all classes (paper,
            section 5.2); "centerness", how central its anchor is (ATSS with its auxiliary head).
        balance: the factor lambda of the box loss (paper, section 5.2): "value" gives it the value of the
            classification loss in each step; "magnitude" makes the L1 norms of the gradients with respect to
            the head's two outputs equal; a number is the factor itself.
        shared: divide by the mean over the processes of the sums of the weights, as the score-based detectors do. A
            ranking loss ranks within its process, and so averages there.

    Raises:
        ValueError: for an unknown balance, or a factor that is not above 0.
    """

    weighting: Literal["uniform", "score", "centerness"] = "score"
    balance: TaskBalance = "value"
    shared: bool = False

    def __post_init__(self) -> None:
        names, value = ("value", "magnitude"), self.balance
        positive = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
        if value not in names and not positive:
            raise ValueError(f"task_balance={value!r} is neither 'value' nor 'magnitude' nor a number above 0")

    def switched(self, score_weighting: bool | None, task_balance: TaskBalance | None) -> "BoxLoss":
        """The same with another weighting or balance, where one is given."""
        switched = self
        if score_weighting is not None:
            switched = replace(switched, weighting="score" if score_weighting else "uniform")
        return switched if task_balance is None else replace(switched, balance=task_balance)

    def beside(self, classification: dict[str, Tensor], outputs: HeadOutputs, weight: float = 1.0) -> HeadLosses:
        """The terms of a head: those of the classification (their sum is what boxes are balanced to) and of the boxes.

        Args:
            classification: its terms by name, () each.
            outputs: of the head.
            weight: of all terms.
        """
        errors = 1 - paired_giou(outputs.boxes, outputs.truths)
        weights, auxiliary = self._weights(outputs)
        bbox = weighted_mean(errors, weights, self.shared)
        factor = self._factor(torch.stack(list(classification.values())).sum(), bbox, outputs)
        terms = {**classification, "bbox": factor * bbox, **auxiliary}
        return HeadLosses(
            {name: weight * term for name, term in terms.items()},
            head_statistics(outputs.negatives(), outputs.positive_logits(), outputs.quality, balance=factor),
        )

    def _weights(self, outputs: HeadOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The weight of each positive, (P,), and the term of the auxiliary head that learns it."""
        if self.weighting == "centerness":
            assert outputs.centerness is not None
            weights = centerness(outputs.references, outputs.truths)
            entropy = F.binary_cross_entropy_with_logits(outputs.centerness.float(), weights, reduction="sum")
            return weights, {"centerness": entropy / positives_of_a_process(outputs)}
        if self.weighting == "score":
            return score_weights(outputs.rows), {}
        return torch.ones_like(outputs.truths[:, 0]), {}

    def _factor(self, classification: Tensor, bbox: Tensor, outputs: HeadOutputs) -> Tensor:
        if self.balance == "value":
            return balance_factor(bbox, classification)
        if self.balance == "magnitude":
            if not bbox.requires_grad:
                raise ValueError("task_balance='magnitude' compares gradients and cannot do without: not in no_grad")
            norm = gradient_norm(bbox, [outputs.deltas])
            return balance_factor(norm, gradient_norm(classification, outputs.logits))
        return torch.full_like(bbox.detach(), self.balance)


def weighted_mean(
    losses: Tensor,  # (P,) float32
    weights: Tensor,  # (P,) float32
    shared: bool = False,
) -> Tensor:
    """() the mean of the losses; `shared`: over the mean of the processes' sums of weights."""
    total = weights.sum()
    total = process_mean(total) if shared else total
    return (weights * losses).sum() / torch.where(total < WEIGHT_FLOOR, 1.0, total)


def score_weights(rows: Tensor) -> Tensor:
    """(P,) the highest sigmoid score over all classes, from logits (P, K); detached."""
    return rows.detach().float().sigmoid().amax(dim=1)


def balance_factor(
    loss: Tensor,  # ()
    reference: Tensor,  # ()
) -> Tensor:
    """The detached factor that gives `loss` the value of `reference`: lambda of task balancing (paper, section 5.2)."""
    return reference.detach() / loss.detach().clamp(min=BALANCE_FLOOR)


def gradient_norm(loss: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """() L1 norm of the gradient of `loss` with respect to `inputs` together; no parameter's gradient is touched."""
    gradients = torch.autograd.grad(loss, list(inputs), retain_graph=True)
    return torch.stack([gradient.abs().sum(dtype=torch.float32) for gradient in gradients]).sum()


def centerness(
    anchors: Tensor,  # (P, 4), the centre of each inside its ground truth
    truths: Tensor,  # (P, 4)
) -> Tensor:
    """(P,) in [0, 1]: 1 where an anchor's centre is its ground truth's, 0 at the border (FCOS, ICCV 2019, Eq. 3)."""
    centre = 0.5 * (anchors[:, :2] + anchors[:, 2:])
    before, behind = centre - truths[:, :2], truths[:, 2:] - centre  # left and top, right and bottom
    ratios = torch.minimum(before, behind) / torch.maximum(before, behind)
    return ratios.clamp(0, 1).prod(dim=1).sqrt()


def positives_of_a_process(outputs: HeadOutputs) -> Tensor:
    """() float32: the mean over the processes of their numbers of positives, at least 1."""
    count = torch.full((), float(len(outputs.index)), device=outputs.index.device)
    return process_mean(count).clamp(min=1)


@torch.no_grad()
def process_mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes of a distributed training; the value itself outside of one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
