"""The folder of a run, and the Lightning Trainer that fills it.

RUN/heads.json                  names and titles of the model's heads, for curves and tables
RUN/config.yaml                 the resolved configuration, written when the first batch has shown that it works
RUN/metrics.csv                 every loss term of every step, gradient norms, lr, speed, memory; the validation's AP
RUN/tensorboard/                the same for TensorBoard
RUN/checkpoints/last.ckpt       where --resume goes on: every `every_n_train_steps` and at each epoch's end
RUN/checkpoints/best.ckpt       the highest AP on the validation set
RUN/checkpoints/epoch_*.ckpt    never overwritten, if `keep_every_n_epochs` is set
RUN/curves.png                  losses and AP over the steps
"""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from rst.files import require_writable, write_whole
from rst.training.callbacks import SpeedMonitor, progress_bar
from rst.training.checkpoints import AtomicCheckpointIO
from rst.training.errors import CheckpointError, ConfigError
from rst.training.loggers import build_loggers
from rst.training.monitors import is_error, listed
from rst.training.options import make_trainer
from rst.training.records import CURVES_FILE, METRICS_FILE


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are saved, besides the best and the one at each epoch's end.

    Args:
        every_n_train_steps: optimiser steps between two savings of last.ckpt; 0 for none within an epoch.
        keep_every_n_epochs: epochs between two checkpoints that are never overwritten; 0 for none.
        monitor: the metric of the validation that decides what the best checkpoint is: the highest, of oLRP and its
            parts the lowest. null: "val/AP", or "val/segm_AP" for a detector whose masks alone are evaluated.
    """

    every_n_train_steps: int = 500
    keep_every_n_epochs: int = 0
    monitor: str | None = None

    def __post_init__(self) -> None:
        for name in ("every_n_train_steps", "keep_every_n_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"checkpoints.{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def curves(self) -> Path:
        return self.path / CURVES_FILE

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFolder":
        """The run that a checkpoint file lies in."""
        return cls(checkpoint.resolve().parent.parent)

    def require_new(self) -> None:
        """Refuse to write into a folder that has something in it, or that cannot be made or written."""
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ConfigError(
                f"{self.path} is not empty: continue that run with `rst train --resume {self.path}`, "
                f"or choose another folder with --output"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; --output must name a folder")
        require_writable(self.path)

    def require_writable(self) -> None:
        """WriteError where the folder cannot be made or written to; nothing is left behind."""
        require_writable(self.path)

    def store_config(self, config: str, first_step: int = 0) -> None:
        """Write config.yaml; a resumed run with other settings keeps the earlier file under another name."""
        if self.config.is_file():
            former = self.config.read_bytes()
            if former.decode(errors="replace") != config:
                write_whole(self.path / f"config_until_step_{first_step}.yaml", former)
        write_whole(self.config, config)


def find_checkpoint(run_or_checkpoint: Path) -> Path:
    """The checkpoint file that `--resume RUN_OR_CKPT` means: the file itself, or the run's last one."""
    if run_or_checkpoint.is_dir():
        last = RunFolder(run_or_checkpoint).last
        if not last.is_file():
            raise CheckpointError(f"{last}: no such checkpoint; {run_or_checkpoint} was stopped before it saved one")
        return last
    if not run_or_checkpoint.is_file():
        raise CheckpointError(f"{run_or_checkpoint}: no such run or checkpoint")
    return run_or_checkpoint


def build_trainer(
    folder: RunFolder,
    checkpoints: CheckpointSettings,
    ema_decay: float | None,
    options: dict[str, Any],
    first_step: int = 0,
    record: Callback | None = None,
) -> Trainer:
    """Lightning's Trainer with this project's callbacks, loggers and checkpoint files.

    Args:
        folder: the run's folder.
        checkpoints: when to save.
        ema_decay: decay per optimiser step of the averaged weights, which are then validated and saved; None: no
            average.
        options: further arguments of Trainer; its callbacks, loggers and plugins are added to ours.
        first_step: the optimiser step that comes next, 0 unless resumed.
        record: a callback that comes before all others.

    Raises:
        ConfigError: for options that Lightning refuses, or cannot follow on the devices there are.
    """
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ConfigError(f"ema_decay must lie between 0 and 1 or be null, got {ema_decay}")
    silence_lightning()
    options = dict(options)
    callbacks = [*listed(record), *listed(options.pop("callbacks", None)), SpeedMonitor()]
    if ema_decay is not None:
        # Buffers (batch norm statistics) are copied, not averaged: integer ones cannot be.
        callbacks.append(EMAWeightAveraging(decay=ema_decay, use_buffers=False))
    if options.get("enable_progress_bar") is not False:
        callbacks.append(progress_bar())
    validates = options.get("limit_val_batches") != 0
    loggers = options.pop("logger", None)
    extra_loggers = [] if isinstance(loggers, bool) else listed(loggers)
    plugins = listed(options.pop("plugins", None))
    trainer = make_trainer(
        callbacks=[*callbacks, *_checkpoint_callbacks(folder, checkpoints, validates)],
        logger=False if loggers is False else [*build_loggers(folder.path, first_step), *extra_loggers],
        plugins=[AtomicCheckpointIO(), *plugins],
        default_root_dir=folder.path,
        use_distributed_sampler=False,  # DetectionData gives each process its share
        **options,
    )
    asked, found = options.get("precision"), trainer.precision
    if not plugins and asked not in (None, found):
        raise ConfigError(
            f"trainer.precision: {asked} cannot be had on this device, {found} can: --trainer.precision {found}"
        )
    return trainer


class _Checkpoint(ModelCheckpoint):
    """Remembers the best score even if the run's folder was renamed or copied to another machine."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(path: str) -> str:
            return now + path.removeprefix(before) if path.startswith(before) else path

        paths = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
        scores = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            state_dict | {name: moved(str(state_dict[name])) for name in paths} | {"best_k_models": scores}
        )


class _KeptCheckpoint(_Checkpoint):
    """A class of its own, because Lightning tells callbacks of one class apart by their triggers."""


def _checkpoint_callbacks(folder: RunFolder, settings: CheckpointSettings, validates: bool) -> list[Callback]:
    # `best` comes first: `last` then stores the score that a resumed run has to beat. Two callbacks write `last`,
    # because each of Lightning's has one trigger.
    common: dict[str, Any] = {"dirpath": folder.checkpoints, "enable_version_counter": False}
    callbacks: list[Callback] = []
    monitor = settings.monitor or "val/AP"
    if validates:
        callbacks.append(
            _Checkpoint(filename="best", monitor=monitor, mode="min" if is_error(monitor) else "max", **common)
        )
    callbacks.append(_Checkpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common))
    if settings.every_n_train_steps:
        callbacks.append(_Checkpoint(filename="last", every_n_train_steps=settings.every_n_train_steps, **common))
    if settings.keep_every_n_epochs:
        callbacks.append(
            _KeptCheckpoint(
                filename="epoch_{epoch:03d}",
                auto_insert_metric_name=False,
                every_n_epochs=settings.keep_every_n_epochs,
                save_on_train_epoch_end=True,
                save_top_k=-1,
                **common,
            )
        )
    return callbacks


def silence_lightning() -> None:
    """Silence Lightning's remarks on what this project does on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r"You passed `Trainer\(accelerator='\w+', precision='16-mixed'\)`",  # refused by `build_trainer`
        r"Be aware that when using `ckpt_path`, callbacks used to create",  # a changed setting is put into force
        r"The checkpoint was not created with WeightAveraging",  # an average may begin with a resumed run
        r"Checkpoint directory .* exists and is not empty",  # a resumed run
        r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen batch normalisation
        r"The '\w+' does not have many workers",  # data.workers is the user's choice
        r"It is recommended to use `self.log\('val/",  # gathered and scored as one table before they are logged
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 on torch 2.14, on every batch
    ):
        warnings.filterwarnings("ignore", message=message)
