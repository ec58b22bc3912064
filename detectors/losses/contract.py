"""What a head hands over and what a loss makes of it: the contract between the heads and their losses.

    P  positives of the batch    N  candidates of the batch (anchors, RoIs)    K  outputs per candidate    C  classes

A head fills in `HeadOutputs`: what is ranked, what is localised, and which task labels the ranking. A `DetectionLoss`
computes the terms, and `head_losses` puts them together. All terms are float32 scalars, attached to the graph even
where there is no positive, so that every parameter has a gradient (of zero) in every step.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rst.kernels import SparseTargets, gather_levels

from .classifiers import Classifier, Sigmoid
from .statistics import head_statistics
from .tasks import Task

NO_BALANCE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Classification:
    """What is ranked: the logits of one head for one batch, and which of them are positives."""

    logits: Sequence[Tensor]  # levels of any shape that form one problem
    ignore: Sequence[Tensor] | None  # bool, shapes of `logits`: neither positive nor negative; None: nothing is ignored
    index: Tensor  # (P,) int64, the positives' own logits in the concatenation of the raveled `logits`
    candidate_logits: Tensor  # (P, K) all logits of the positives' candidates, detached

    def positive_logits(self) -> Tensor:
        """The positives' own logits, (P,), detached."""
        return gather_levels([level.detach() for level in self.logits], self.index)

    def negatives(self, background: int = 0) -> Tensor:
        """How many logits are neither positive nor ignored, (), without those of `background` outputs."""
        logits = sum(level.numel() for level in self.logits)
        logits -= logits // self.candidate_logits.shape[1] * background
        count = self.index.new_full((), logits - len(self.index))
        return count if self.ignore is None else count - torch.stack([level.sum() for level in self.ignore]).sum()


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """The predictions of one head for one batch, beside what they should be.

    Args:
        classification: what is ranked.
        tasks: what is localised, by short name ("bbox", "mask"): the name of its term.
        labelled_by: the task whose quality labels the ranking.

    Raises:
        ValueError: where that task does not exist, or does not cover every positive.
    """

    classification: Classification
    tasks: Mapping[str, Task]
    labelled_by: str = "bbox"

    def __post_init__(self) -> None:
        if self.labelled_by not in self.tasks:
            raise ValueError(f"labelled_by={self.labelled_by!r} is not one of the tasks {', '.join(self.tasks)}")
        positives = len(self.classification.index)
        for name, task in self.tasks.items():
            covered = positives if task.kept is None else len(task.kept)
            if len(task.output) != covered:
                raise ValueError(f"tasks[{name!r}] has {len(task.output)} predictions for {covered} positives")
        if self.tasks[self.labelled_by].kept is not None:
            raise ValueError(f"labelled_by={self.labelled_by!r}: a task of only some positives cannot label all")

    def beside(self, name: str, task: Task) -> "HeadOutputs":
        """The same with one more task."""
        return replace(self, tasks={**self.tasks, name: task})

    @property
    def quality(self) -> Tensor:
        """The labels of the positives, (P,) in [0, 1], detached."""
        return self.tasks[self.labelled_by].quality

    @property
    def targets(self) -> SparseTargets:
        """The positives with their quality, as a ranking loss takes them."""
        return SparseTargets(self.classification.index, self.quality, self.classification.ignore)


class HeadLosses(NamedTuple):
    """What a `DetectionLoss` returns."""

    terms: dict[str, Tensor]  # () float32 each, to be added, by short name ("rank", "cls", "bbox")
    statistics: dict[str, Tensor]  # of `head_statistics`


class DetectionLoss(nn.Module, ABC):
    """A classification loss and the localisation losses beside it. It sees `HeadOutputs` and returns `HeadLosses`."""

    classifier: ClassVar[Classifier] = Sigmoid()  # which kind of classifier it trains

    @abstractmethod
    def forward(self, outputs: HeadOutputs) -> HeadLosses:
        """The terms and the statistics of one head; implementations end in `head_losses`."""


def head_losses(
    outputs: HeadOutputs,
    classification: Mapping[str, Tensor],
    localisation: Mapping[str, Tensor],
    *,
    weight: float = 1.0,
    balance: Mapping[str, Tensor] = NO_BALANCE,
    scores: Tensor | None = None,
    background: int = 0,
) -> HeadLosses:
    """Puts the terms of a head together and adds its statistics.

    Args:
        outputs: of the head.
        classification: its terms by name, () each.
        localisation: one term for each task, () each, by the name of the task.
        weight: of all terms.
        balance: the factor that a task was balanced with, () each, by the name of the task. It goes to the statistics:
            as "balance" for the task that labels the ranking, as "balance_NAME" for another.
        scores: (P,) what the correlation with the quality is computed from; None: the positives' own logits.
        background: outputs of the classifier beyond its classes.

    Raises:
        ValueError: where a task has no term, or a term no task.
    """
    if localisation.keys() != outputs.tasks.keys():
        raise ValueError(f"terms of {list(localisation)} for the tasks {list(outputs.tasks)}: each task needs its own")
    ranked = outputs.classification
    factors = {}
    for name, factor in balance.items():
        key = "balance" if name == outputs.labelled_by else f"balance_{name}"
        # the factor of a term without a positive means nothing
        factors[key] = factor.where(outputs.tasks[name].any_counted(), torch.nan)
    return HeadLosses(
        {name: weight * term for name, term in {**classification, **localisation}.items()},
        head_statistics(
            ranked.negatives(background),
            ranked.positive_logits() if scores is None else scores,
            outputs.quality,
            **factors,
        ),
    )
