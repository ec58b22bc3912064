"""A detector in training: its losses summed, checked and logged; its detections gathered and scored."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rst.evaluation import evaluate_detections, to_coco_results
from rst.evaluation.protocol import IouType
from rst.evaluation.results import given_up
from rst.evaluation.truth import read_ground_truth
from rst.training.callbacks import is_logging_step
from rst.training.checkpoints import MODEL_RECORD, check_fits
from rst.training.errors import ConfigError, NonFiniteError
from rst.training.gradients import gradient_norms, norm_names
from rst.training.monitors import PREFIXES
from rst.training.resuming import apply_optimizer
from rst.training.settings import OptimizerSettings, ScheduleSettings


class DetectionTraining(LightningModule):
    """Trains any detector that keeps to torchvision's contract.

    In training `model(images, targets)` returns a dict of 0-d tensors whose keys start with "loss_"; their sum is the
    objective. In evaluation `model(images)` returns a list of {"boxes", "labels", "scores"}, and "masks" from a
    detector that makes them: (n, H, W) bool for an image (3, H, W). Optional attributes of the model:

        statistics   dict of 0-d tensors about its last training step on this process, logged with the losses; NaN: this
                     step has no such value
        iou_types    what is validated, "bbox" and / or "segm"; ("bbox",) without it

    Every loss term and statistic is logged under its own name, the sum of the losses as "loss", the learning rate as
    "lr", all as means over the processes (of a statistic: over the processes that have it). The norm of all gradients
    before they are clipped is logged as "gradient_norm", that of a part of the model as "gradient_norm_NAME". The COCO
    metrics of the validation set (in [0, 1]) are logged as "val/AP", "val/AP50" and so on for boxes, as "val/segm_AP",
    ... for masks.

    The random numbers that a model draws in a training step (a sampler, dropout) depend on seed, step and process
    alone, so that a resumed run draws what the uninterrupted one would have drawn.

    Args:
        model: the detector, with its number of classes as the attribute `num_classes`.
        optimizer: settings of SGD.
        schedule: settings of the learning rate.
        annotations: the validation set's COCO file; without one nothing is scored.
        class_names: name of each label, stored in the checkpoints.
        category_ids: the annotations' category id of each label.
        config: the resolved configuration as YAML, stored in the checkpoints.
        seed: seed of the training steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerSettings | None = None,
        schedule: ScheduleSettings | None = None,
        *,
        annotations: Path | str | None = None,
        class_names: list[str] | None = None,
        category_ids: list[int] | None = None,
        config: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_settings = optimizer or OptimizerSettings()
        self.schedule_settings = schedule or ScheduleSettings()
        self.annotations = annotations
        self.class_names = list(class_names or [])
        self.category_ids = list(category_ids or [])
        self.config = config
        self.seed = seed
        wanted = set(getattr(model, "iou_types", ("bbox",)))
        self.iou_types: tuple[IouType, ...] = tuple(kind for kind in PREFIXES if kind in wanted)
        self.results: list[dict[str, Any]] = []  # COCO results of the last validation; complete on the first process
        self.metrics: dict[IouType, dict[str, float]] = {}
        self._results_of_image: dict[int, list[dict[str, Any]]] = {}
        self.logged: list[str] = []  # names of what training steps log, after the first step
        self._resumed = False  # whether today's optimiser settings are yet to replace those of a checkpoint
        self._shift = 0.0  # see ScheduleSettings.build
        if not wanted or not wanted <= set(PREFIXES):
            raise ConfigError(f"iou_types of the model must be some of {list(PREFIXES)}, got {sorted(wanted)}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ConfigError(
                f"model.num_classes is {self.num_classes}, but the annotations have {len(self.class_names)} "
                f"categories ({', '.join(self.class_names[:5])}{', ...' if len(self.class_names) > 5 else ''})"
            )

    @property
    def num_classes(self) -> int:
        return int(self.model.num_classes)  # pyright: ignore[reportArgumentType] - nn.Module types attributes loosely

    @property
    def main_metric(self) -> str:
        """The metric that judges a checkpoint unless the settings name another: AP, of boxes if they are validated."""
        return f"val/{PREFIXES[self.iou_types[0]]}AP"

    # ---- training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer_settings.build(self.model)
        scheduler = self.schedule_settings.build(optimizer, self._steps_per_epoch, lambda: self._shift)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def _steps_per_epoch(self) -> float:
        batches = self.trainer.num_training_batches  # infinity until the loader exists
        return batches if math.isinf(batches) else math.ceil(batches / self.trainer.accumulate_grad_batches)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not self._resumed:
            return
        self._resumed = False
        done = self.current_epoch * self._steps_per_epoch() + batch_idx // self.trainer.accumulate_grad_batches
        self._shift = self.global_step - done
        fresh = self.optimizer_settings.build(self.model)
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        apply_optimizer(self.trainer.optimizers[0], fresh, scheduler)

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Any]]], batch_idx: int) -> Tensor:
        images, targets = batch
        self._seed_step(batch_idx)
        losses: dict[str, Tensor] = self.model(images, targets)
        total = torch.stack(list(losses.values())).sum()

        terms, statistics = self._over_processes(losses | {"loss": total}, getattr(self.model, "statistics", {}))
        if not self.logged:
            self.logged = [*terms, *statistics, "lr", *norm_names(self.model)]
        if not all(map(math.isfinite, terms.values())):
            raise NonFiniteError(self._not_finite(terms, targets))
        if is_logging_step(self.trainer):
            logged = terms | statistics | {"lr": self._learning_rate()}
            self.log_dict(logged, on_step=True, on_epoch=False, batch_size=len(images))
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Here the gradients are accumulated, averaged over the processes and rid of a scaler's factor, and not clipped.
        # They stay tensors: reading one here would wait for the backward pass.
        if is_logging_step(self.trainer):
            self.log_dict(gradient_norms(self.model), on_step=True, on_epoch=False, batch_size=1)

    def _over_processes(
        self, terms: dict[str, Tensor], statistics: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Means of both over the processes; of a statistic over the processes that have it, NaN if none has."""
        # One reduction per step. It gives the means to log, and a loss that is not finite on one process stops all of
        # them: if one stopped alone, the others would wait for its gradients.
        values = torch.stack([value.detach().float() for value in (*terms.values(), *statistics.values())])
        losses, found = values.split([len(terms), len(statistics)])
        present = found.isfinite()
        values = torch.cat([losses, found.where(present, 0.0), present.float()])
        numbers = self.trainer.strategy.reduce(
            values, reduce_op="mean"
        ).tolist()  # the only synchronisation of the step
        shares = numbers[len(terms) + len(statistics) :]
        means = zip(numbers[len(terms) :], shares, strict=False)
        over_present = [mean / share if share else math.nan for mean, share in means]
        return dict(zip(terms, numbers, strict=False)), dict(zip(statistics, over_present, strict=True))

    def _seed_step(self, batch_idx: int) -> None:
        seed = _step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        # Not torch.manual_seed: without a GPU it stores every call, to repeat it once a GPU is initialised.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _not_finite(self, logged: dict[str, float], targets: list[dict[str, Any]]) -> str:
        terms = ", ".join(f"{name} = {value}" for name, value in logged.items() if not math.isfinite(value))
        images = ", ".join(str(target.get("image_id", "?")) for target in targets)
        return (
            f"{terms} at step {self.global_step} (epoch {self.current_epoch + 1}; image ids on process "
            f"{self.global_rank}: {images}; learning rate {self._learning_rate():.3g}). {self._advice()}"
        )

    def _advice(self) -> str:
        remedies = ["a lower --optimizer.lr", "a longer --schedule.warmup_iterations"]
        remedies += [] if self.trainer.gradient_clip_val else ["--trainer.gradient_clip_val 5"]
        remedies += [] if self.trainer.precision.startswith("32") else ["--trainer.precision 32-true"]
        return f"Usual remedies: {', '.join(remedies)}. Nothing of it was saved: the last checkpoint is sound."

    def _learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    # ---- evaluation

    def check_truth(self) -> None:
        """DataError where a validation could not read its ground truth, as it would say after the first epoch."""
        for kind in self.iou_types if self.annotations is not None else ():
            read_ground_truth(Path(self.annotations), kind)  # pyright: ignore[reportArgumentType] - not None here

    def on_validation_epoch_start(self) -> None:
        self._results_of_image = {}

    def validation_step(self, batch: tuple[list[Tensor], list[dict[str, Any]]], batch_idx: int) -> None:
        images, targets = batch
        # Plain numbers and run lengths are kept, never tensors: memory grows by kilobytes per image.
        for detection, target in zip(given_up(self.model(images)), targets, strict=True):
            results = to_coco_results([detection], [target], self.category_ids)
            self._results_of_image[int(target["image_id"])] = results

    def on_validation_epoch_end(self) -> None:
        # Keyed by image: a sampler that fills up the last batch of a process repeats images.
        merged: dict[int, list[dict[str, Any]]] = {}
        for part in _gather_to_first(self._results_of_image):
            merged.update(part)
        self.results = [result for image_id in sorted(merged) for result in merged[image_id]]
        self._results_of_image = {}
        if self.annotations is None:
            return
        scored = self.trainer.is_global_zero and not self.trainer.sanity_checking
        file = Path(self.annotations)
        metrics: dict[IouType, dict[str, float]] = {}
        for kind in self.iou_types if scored else ():
            metrics[kind] = evaluate_detections(file, self.results, kind)
        self.metrics = self.trainer.strategy.broadcast(metrics, src=0)
        for kind, numbers in self.metrics.items():
            self.log_dict({f"val/{PREFIXES[kind]}{name}": value for name, value in numbers.items()}, batch_size=1)

    # ---- checkpoints: what a later command must know to use the weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A finite loss can have non-finite gradients. The next step would notice, but this checkpoint would already be
        # corrupt.
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise NonFiniteError(
                    f"parameter {name} is no longer finite after step {self.global_step - 1}, though that step's loss "
                    f"was. {self._advice()}"
                )
        checkpoint[MODEL_RECORD] = {
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "config": self.config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(self.model, checkpoint, self.trainer.ckpt_path or "checkpoint")
        self._resumed = True


def _step_seed(seed: int, epoch: int, batch: int, process: int) -> int:
    """A seed in [0, 2^63) that differs between neighbouring runs, epochs, batches and processes."""
    state = 0
    for number in (seed, epoch, batch, process):  # splitmix64's mixing, once per number
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1


def _gather_to_first(value: Any) -> list[Any]:
    """The values of all processes in their order, on the first process; an empty list on the others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    first = torch.distributed.get_rank() == 0
    gathered = [None] * torch.distributed.get_world_size() if first else None
    torch.distributed.gather_object(value, gathered, dst=0)
    return gathered or []
