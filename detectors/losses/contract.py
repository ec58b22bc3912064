"""What a head hands over and what a loss makes of it: the contract between the detectors and their losses.

    P  positives of the batch    N  candidates of the batch (anchors, RoIs)    K  outputs per candidate    C  classes

A head fills in a `HeadOutputs`; a `DetectionLoss` turns it into named terms, and statistics beside them. All terms are
float32 scalars, attached to the graph even where there is no positive, so that every parameter has a gradient (of zero)
in every step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rst.kernels import SparseTargets, gather_levels

from ..geometry.boxes import BoxCoder, paired_iou


@dataclass(frozen=True)
class HeadOutputs:
    """One head's predictions for one batch, next to what they should be."""

    logits: Sequence[Tensor]  # parts (pyramid levels) of any shape that form one problem
    ignore: Sequence[Tensor] | None  # bool, shapes of `logits`: neither positive nor negative; None: nothing is ignored
    index: Tensor  # (P,) int64, the positives' own logits in the concatenation of the raveled `logits`
    rows: Tensor  # (P, K) all logits of the positives' candidates, detached
    deltas: Tensor  # (P, 4) float32 predicted box codes
    references: Tensor  # (P, 4) float32 boxes that the codes refer to
    truths: Tensor  # (P, 4) float32 matched ground truth, in the frame of the references
    coder: BoxCoder
    centerness: Tensor | None = (
        None  # (P,) logits of a head that predicts how central its anchor is; None: there is none
    )

    @cached_property
    def boxes(self) -> Tensor:
        """The predicted boxes of the positives, (P, 4)."""
        return self.coder.decode_single(self.deltas, self.references)

    @cached_property
    def quality(self) -> Tensor:
        """IoU of each predicted box with its ground truth, (P,), detached: the labels of a ranking that sorts."""
        return paired_iou(self.boxes.detach(), self.truths)

    @property
    def targets(self) -> SparseTargets:
        """The positives with their IoU, as a ranking loss takes them."""
        return SparseTargets(self.index, self.quality, self.ignore)

    def positive_logits(self) -> Tensor:
        """The positives' own logits, (P,), detached."""
        return gather_levels([part.detach() for part in self.logits], self.index)

    def negatives(self, background: int = 0) -> Tensor:
        """How many logits are neither positive nor ignored, (), those of a `background` output left out."""
        logits = sum(part.numel() for part in self.logits)
        logits -= logits // self.rows.shape[1] * background
        count = torch.full((), logits - len(self.index), device=self.index.device)
        return count if self.ignore is None else count - torch.stack([part.sum() for part in self.ignore]).sum()


class HeadLosses(NamedTuple):
    """What a `DetectionLoss` returns."""

    terms: dict[str, Tensor]  # to be added, by short name ("rank", "cls", "bbox")
    statistics: dict[str, Tensor]  # of `head_statistics`


class DetectionLoss(ABC):
    """A classification and a box loss that belong together."""

    background: ClassVar[int] = 0  # outputs of the classifier beyond the classes; 1 for a softmax, the last one

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] of the classes, (N, C) float32, from logits (N, C + background)."""
        return logits.float().sigmoid()

    @abstractmethod
    def __call__(self, outputs: HeadOutputs) -> HeadLosses:
        """The terms, and what they tell besides."""


def refuse(loss: str, reason: str, **options: Any) -> None:
    """ValueError for the first of `options` that is not None: switches that `loss` does not have, for that reason."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} does not go with loss={loss!r}, {reason}")
