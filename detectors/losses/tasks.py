"""What a head localises besides its classification: boxes, masks, and what an auxiliary head predicts of them.

    P  positives of the batch    T  positives that have the task, P or fewer    h, w  cells of a mask

A task holds the predictions of the positives and their truths in one order. `kept` says which positives have the task.
It selects their weights too (`select`), so a weight cannot meet the error of another positive. `counted` says whose
errors train: a box that another part made of its own ground truth labels the ranking, but has nothing to regress.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.boxes import BoxCoder, paired_giou, paired_iou
from ..geometry.masks import paired_dice


class Task(ABC):
    """Predictions of the positives beside their truths.

    Attributes:
        kept: (T,) int64, the positives that have this task, by their place among the P. None: all of them, in order.
        counted: (T,) bool, whose errors count in the loss, its mean and its balance. None: all. The quality of the
            others labels the ranking all the same.
        balanced: whether the task is weighted and balanced against the classification. Otherwise its term is the sum of
            its errors over the number of positives, as for an auxiliary head.
    """

    kept: Tensor | None = None
    counted: Tensor | None = None
    balanced: ClassVar[bool] = True

    @property
    @abstractmethod
    def errors(self) -> Tensor:
        """The errors of the predictions, (T,) float32, 0 for a perfect one; they carry the gradient."""

    @property
    @abstractmethod
    def quality(self) -> Tensor:
        """How good the predictions are, (T,) in [0, 1], detached: the labels of a ranking that sorts."""

    @property
    @abstractmethod
    def output(self) -> Tensor:
        """The output of the head that `errors` come from: task_balance="magnitude" compares its gradients."""

    def select(
        self,
        of_positives: Tensor,  # (P, ...)
    ) -> Tensor:
        """The values that belong to `errors`, (T, ...), from values of all positives."""
        return of_positives if self.kept is None else of_positives[self.kept]

    def weights(
        self,
        of_positives: Tensor,  # (P,)
    ) -> Tensor:
        """The weights of `errors`, (T,), from weights of all positives: 0 where an error does not count."""
        own = self.select(of_positives)
        return own if self.counted is None else own.where(self.counted, 0)

    def any_counted(self) -> Tensor:
        """Whether any error counts, () bool, on the device of the outputs."""
        if self.counted is None:
            return torch.full((), len(self.output) > 0, dtype=torch.bool, device=self.output.device)
        return self.counted.any()


def _same_shape(task: Task, *names: str) -> None:
    """ValueError where tensors of a task differ in shape: broadcasting would hide it."""
    shapes = {name: tuple(getattr(task, name).shape) for name in names}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{type(task).__name__}: shapes differ: {shapes}")


@dataclass(frozen=True, eq=False)
class Boxes(Task):
    """Box regression: errors are 1 - GIoU, quality is the IoU."""

    deltas: Tensor  # (T, 4) float32 predicted box codes
    references: Tensor  # (T, 4) float32 boxes that the codes refer to
    truths: Tensor  # (T, 4) float32 ground truth, in the frame of the references
    coder: BoxCoder
    kept: Tensor | None = None
    counted: Tensor | None = None

    def __post_init__(self) -> None:
        _same_shape(self, "deltas", "references", "truths")
        if self.counted is not None and self.counted.shape != self.deltas.shape[:1]:
            raise ValueError(f"Boxes: counted has shape {tuple(self.counted.shape)} for {len(self.deltas)} boxes")

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted boxes, (T, 4), in the frame of the references."""
        return self.coder.decode_single(self.deltas, self.references)

    @cached_property
    def errors(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - a cached property is one
        return 1 - paired_giou(self.predicted, self.truths)

    @cached_property
    def quality(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return paired_iou(self.predicted.detach(), self.truths)

    @property
    def output(self) -> Tensor:
        return self.deltas

    def total_error(self) -> Tensor:
        """() the sum of the errors that count."""
        return (self.errors if self.counted is None else self.errors.where(self.counted, 0)).sum()

    def smooth_l1(self, beta: float) -> Tensor:
        """() smooth L1 loss of the deltas, summed; `beta` is the |error| of a delta at which it turns linear."""
        targets = self.coder.encode_single(self.truths, self.references)
        if self.counted is None:
            return F.smooth_l1_loss(self.deltas, targets, beta=beta, reduction="sum")
        return (
            F.smooth_l1_loss(self.deltas, targets, beta=beta, reduction="none").sum(dim=1).where(self.counted, 0).sum()
        )


class DiceTask(Task):
    """Mask prediction: errors are 1 - Dice, quality is the Dice coefficient (paper, section 5.1)."""

    @property
    @abstractmethod
    def dice(self) -> Tensor:
        """Dice coefficient of each predicted mask with its ground truth, (T,) float32 in [0, 1]."""

    @property
    def errors(self) -> Tensor:
        return 1 - self.dice

    @property
    def quality(self) -> Tensor:
        return self.dice.detach()


@dataclass(frozen=True, eq=False)
class Masks(DiceTask):
    """Masks of RoIs, in the frames of their boxes."""

    logits: Tensor  # (T, h, w) float, of the class of each ground truth
    truths: Tensor  # (T, h, w) in [0, 1]
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        _same_shape(self, "logits", "truths")

    @cached_property
    def dice(self) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - a cached property is one
        return paired_dice(self.logits.float().sigmoid(), self.truths.float())

    @property
    def output(self) -> Tensor:
        return self.logits

    def cross_entropy(self) -> Tensor:
        """() binary cross-entropy, the mean over all cells of all masks; 0 without any."""
        entropy = F.binary_cross_entropy_with_logits(self.logits.float(), self.truths.float(), reduction="sum")
        return entropy / max(self.logits.numel(), 1)


@dataclass(frozen=True, eq=False)
class MaskScores(Task):
    """The IoUs that an auxiliary head expects of the masks: errors are squares, of masks that meet their object."""

    predicted: Tensor  # (T,) float32
    truths: Tensor  # (T,) in [0, 1]
    kept: Tensor | None = None
    balanced: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _same_shape(self, "predicted", "truths")

    @property
    def errors(self) -> Tensor:
        return (self.predicted - self.truths).square().where(self.truths > 0, 0)

    @property
    def quality(self) -> Tensor:
        return 1 - (self.predicted.detach() - self.truths).abs().clamp(max=1)

    @property
    def output(self) -> Tensor:
        return self.predicted

    def mean_square(self) -> Tensor:
        """() the mean over the masks that meet their object; 0 without any."""
        return self.errors.sum() / (self.truths > 0).sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class Auxiliary(Task):
    """An auxiliary head, whose scores say how good a box is: errors are binary cross-entropies.

    ATSS predicts the `centerness` of its anchors, PAA the IoU of its predicted boxes.
    """

    logits: Tensor  # (P,)
    truths: Tensor  # (P,) in [0, 1], detached
    balanced: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _same_shape(self, "logits", "truths")

    @property
    def errors(self) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits.float(), self.truths, reduction="none")

    @property
    def quality(self) -> Tensor:
        return 1 - (self.logits.detach().float().sigmoid() - self.truths).abs()

    @property
    def output(self) -> Tensor:
        return self.logits


def centerness(
    anchors: Tensor,  # (P, 4), the centre of each inside its ground truth
    truths: Tensor,  # (P, 4)
) -> Tensor:
    """(P,) in [0, 1]: 1 where an anchor's centre is its ground truth's, 0 at the border (FCOS, ICCV 2019, Eq. 3)."""
    centre = 0.5 * (anchors[:, :2] + anchors[:, 2:])
    before, behind = centre - truths[:, :2], truths[:, 2:] - centre  # left and top, right and bottom
    ratios = torch.minimum(before, behind) / torch.maximum(before, behind)
    return ratios.clamp(0, 1).prod(dim=1).sqrt()
