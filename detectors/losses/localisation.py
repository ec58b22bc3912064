"""The localisation losses of a head whose classifier is a sigmoid: how positives are weighted, how tasks are balanced.

    P  positives of the batch    T  positives that have a task    K  outputs per candidate

The switches of Table 9 of the Rank & Sort paper are the fields of `Localisation`. Every loss of Table 2 has one, except
aLRP, which ranks box errors itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .contract import HeadLosses, HeadOutputs, head_losses
from .tasks import Auxiliary, Task

# Below this sum weights have vanished. A weighted mean is then divided by 1 instead (published code), unless the
# weights are scores of a ranking, see `vanished_weights`.
WEIGHT_FLOOR = 1e-10
# A localisation loss below float32's resolution of a GIoU is rounding; balancing must not magnify it.
BALANCE_FLOOR = 1e-6

TaskBalance = Literal["value", "magnitude"] | float


class LocalisationTerms(NamedTuple):
    """What `Localisation` returns, by name of the task."""

    terms: dict[str, Tensor]  # () each
    balance: dict[str, Tensor]  # () each, detached: the factor lambda of each balanced task


@dataclass(frozen=True)
class Localisation:
    """Weighted means of the tasks' errors, balanced against a classification loss.

    Args:
        weighting: what a positive counts in the mean: "uniform", 1; "score", its highest score over all classes (paper,
            section 5.2); "centerness", how central its anchor is (ATSS with its auxiliary head); "iou", its quality,
            the IoU of its predicted box (PAA with its own). A ranking does not see a shift of all logits, so scores may
            vanish in float32; unless `shared`, their ratios then weigh on.
        balance: the factor lambda of each task (paper, section 5.2): "value" gives the task the value of the
            classification loss in each step; "magnitude" makes the L1 norms of the gradients with respect to
            the two outputs of the head equal; a number is the factor itself.
        shared: divide by the mean of the sums of the weights over the processes, as score-based detectors do. A
            ranking loss ranks within its process, and so averages there.

    Raises:
        ValueError: for an unknown balance, or a factor that is not above 0.
    """

    weighting: Literal["uniform", "score", "centerness", "iou"] = "score"
    balance: TaskBalance = "value"
    shared: bool = False

    def __post_init__(self) -> None:
        names, value = ("value", "magnitude"), self.balance
        positive = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
        if value not in names and not positive:
            raise ValueError(f"task_balance={value!r} is neither 'value' nor 'magnitude' nor a number above 0")

    def switched(self, score_weighting: bool | None, task_balance: TaskBalance | None) -> "Localisation":
        """The same with another weighting or balance, where one is given."""
        switched = self
        if score_weighting is not None:
            switched = replace(switched, weighting="score" if score_weighting else "uniform")
        return switched if task_balance is None else replace(switched, balance=task_balance)

    def losses(
        self,
        outputs: HeadOutputs,
        classification: Mapping[str, Tensor],  # () each
        weight: float = 1.0,
    ) -> HeadLosses:
        """The losses of a head from its classification terms, to whose sum the tasks are balanced."""
        terms, balance = self(outputs, torch.stack(list(classification.values())).sum())
        return head_losses(outputs, classification, terms, balance=balance, weight=weight)

    def __call__(
        self,
        outputs: HeadOutputs,
        classification: Tensor,  # ()
    ) -> LocalisationTerms:
        """One term for each task, balanced to the value of the classification loss."""
        weights = self._weights(outputs)
        terms, balance = {}, {}
        for name, task in outputs.tasks.items():
            if task.balanced:
                own = task.weights(weights)
                if self.weighting == "score" and not self.shared:
                    own = torch.where(own.sum() < WEIGHT_FLOOR, vanished_weights(task, outputs), own)
                mean = weighted_mean(task.errors, own, self.shared)
                balance[name] = self._factor(mean, task, classification, outputs)
                terms[name] = balance[name] * mean
            else:
                terms[name] = task.errors.sum() / positives_of_a_process(outputs)
        return LocalisationTerms(terms, balance)

    def _weights(self, outputs: HeadOutputs) -> Tensor:
        """The weight of each positive, (P,) float32, detached."""
        candidates = outputs.classification.candidate_logits
        if self.weighting == "score":
            return score_weights(candidates)
        if self.weighting == "centerness":
            auxiliary = outputs.tasks["centerness"]
            assert isinstance(auxiliary, Auxiliary)
            return auxiliary.truths
        if self.weighting == "iou":
            return outputs.quality.clamp(min=WEIGHT_FLOOR)  # where no box overlaps its object, all count alike
        return candidates.new_ones(len(candidates), dtype=torch.float32)

    def _factor(self, mean: Tensor, task: Task, classification: Tensor, outputs: HeadOutputs) -> Tensor:
        if self.balance == "value":
            return balance_factor(mean, classification)
        if self.balance == "magnitude":
            if not mean.requires_grad:
                raise ValueError("task_balance='magnitude' compares gradients: it does not work under no_grad")
            norm = gradient_norm(mean, [task.output])
            return balance_factor(norm, gradient_norm(classification, outputs.classification.logits))
        return torch.full_like(mean.detach(), self.balance)


def weighted_mean(
    losses: Tensor,  # (T,) float32
    weights: Tensor,  # (T,) float32
    shared: bool = False,
) -> Tensor:
    """() the mean of the losses; `shared`: over the mean of the processes' sums of weights."""
    total = weights.sum()
    total = process_mean(total) if shared else total
    return (weights * losses).sum() / torch.where(total < WEIGHT_FLOOR, 1.0, total)


def score_weights(
    candidate_logits: Tensor,  # (P, K)
) -> Tensor:
    """(P,) float32: the highest sigmoid score of each positive over all classes; detached."""
    return candidate_logits.detach().float().sigmoid().amax(dim=1)


def vanished_weights(task: Task, outputs: HeadOutputs) -> Tensor:
    """(T,) float32: what `score_weights` tend to as all logits fall together, up to a factor: a softmax over positives.

    Without it the mean of the errors would be 0 however large they are, and nothing would train the task any more.
    """
    highest = task.select(outputs.classification.candidate_logits.detach().float().amax(dim=1))
    if task.counted is not None:
        highest = highest.masked_fill(~task.counted, -torch.inf)
    return highest.softmax(dim=0).nan_to_num(0)  # NaN where none counts


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


def positives_of_a_process(outputs: HeadOutputs) -> Tensor:
    """() float32: the mean over the processes of their numbers of positives, at least 1."""
    index = outputs.classification.index
    count = torch.full((), len(index), dtype=torch.float32, device=index.device)
    return process_mean(count).clamp(min=1)


@torch.no_grad()
def process_mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes of a distributed training; the value itself outside of one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
