"""A detector, callbacks and data small enough to train by the dozen in the tests of the toolkit.

The detector is no good at detecting. It has what training has to cope with: several loss terms, random numbers drawn in
every step, parameters that move, weights that depend on the number of classes, statistics without a value.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from rst.data.samples import shapes

CLASSES = 6
TRAIN, VAL = 12, 4  # images


class TinyDetector(nn.Module):
    """Predicts one box and one score per class from the mean colours of an image."""

    def __init__(self, num_classes: int, poison: str | None, poison_call: int):
        super().__init__()
        self.num_classes = num_classes
        self.head = nn.Linear(3, 5 * num_classes)
        self.poison, self.poison_call, self.calls = poison, poison_call, 0
        self.statistics: dict[str, Tensor] = {}

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        features = torch.stack([image.mean((1, 2)) for image in images])  # (images, 3)
        output = self.head(features).unflatten(1, (self.num_classes, 5))  # (images, C, box and score)
        if not self.training:
            return [self._detections(row, image) for row, image in zip(output, images, strict=True)]
        assert targets is not None
        present = torch.zeros(len(images), self.num_classes)
        for row, target in zip(present, targets, strict=True):
            row[target["labels"]] = 1.0
        noise = torch.rand(present.shape)  # stands for a sampler
        losses = {
            "loss_roi_cls": nn.functional.binary_cross_entropy_with_logits(output[..., 4], present, weight=noise),
            "loss_roi_bbox": output[..., :4].square().mean(),
        }
        self.calls += 1
        stars = present[:, 3].sum()
        self.statistics = {
            "positives_roi": torch.tensor(float(sum(len(target["labels"]) for target in targets))),
            "spearman_roi": torch.where(stars > 0, noise.mean(), torch.nan),  # no value without a star
        }
        if self.poison and self.calls == self.poison_call:
            losses[self.poison] = losses[self.poison] * float("nan")
        return losses

    def _detections(self, output: Tensor, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        corners = output[:, :4].sigmoid().unflatten(1, (2, 2)).sort(dim=1).values  # (C, 2, xy)
        scores, order = output[:, 4].sigmoid().sort(descending=True)
        boxes = (corners * torch.tensor([width, height])).flatten(1)[order]
        return {"boxes": boxes, "labels": order, "scores": scores}


def tiny_detector(
    num_classes: int = CLASSES, *, weights: str | None = None, poison: str | None = None, poison_call: int = 0
) -> TinyDetector:
    """Make one.

    Args:
        num_classes: C.
        weights: must be None: a model that comes from a checkpoint must not ask for its initial weights.
        poison: name of a loss term that becomes NaN in the training step number `poison_call`, from 1.
        poison_call: see `poison`.
    """
    if weights is not None:
        raise ValueError(f"weights={weights!r} are not there")
    return TinyDetector(num_classes, poison, poison_call)


class KillAt(Callback):
    """Kills its process like the machine would, after so many optimiser steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class InterruptAt(KillAt):
    """Does what Ctrl-C does, after so many optimiser steps."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class PoisonGradients(KillAt):
    """Makes the gradients of one step NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pass

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.step:
            pl_module.model.head.weight.grad.mul_(float("nan"))


class RecordParameters(Callback):
    """Saves each process's parameters at the end of the training, as `parameters_<rank>.pt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.model.state_dict(), Path(self.folder) / f"parameters_{trainer.global_rank}.pt")


def prepare_data(folder: Path) -> Path:
    """A few small images of shapes; `folder` itself is returned."""
    shapes.prepare(folder, train=TRAIN, val=VAL, side=64)
    return folder


def training_arguments(data: Path, output: Path, *more: str) -> list[str]:
    """The arguments of `rst` for 2 epochs of 6 steps with the tiny detector; later ones override earlier ones."""
    return [
        "train",
        *("--output", str(output)),
        *("--model", "tiny_detection.tiny_detector"),
        *(f"--data.{split}_annotations={data}/annotations/{split}.json" for split in ("train", "val")),
        *(f"--data.{split}_images={data}/{split}" for split in ("train", "val")),
        *("--data.images_per_batch", "2", "--data.short_sides", "[32,40]", "--data.max_side", "64"),
        *("--data.workers", "0"),
        *("--optimizer.lr", "0.1", "--schedule.warmup_iterations", "3", "--schedule.milestones", "[1]"),
        *("--checkpoints.every_n_train_steps", "4"),
        *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
        *more,
    ]


def early_stopping(**arguments: Any) -> str:
    """Lightning's callback as a value of `--trainer.callbacks`."""
    return json.dumps({"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": arguments})
