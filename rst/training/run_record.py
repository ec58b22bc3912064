"""What a run writes of itself, once its first batch has shown that it works."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rst.training.heads import write_heads
from rst.training.loggers import CurvesLogger
from rst.training.monitors import monitored, require_known, validation_metrics
from rst.training.resuming import apply_arguments, arguments_of
from rst.training.run import RunFolder


class RunRecord(Callback):
    """Writes config.yaml and heads.json after the first batch, before any other file of the run is touched.

    Whatever is refused until then leaves the folder as it was: a new run's is not there, a resumed one's can still be
    resumed, evaluated and used. It also puts the arguments of callbacks in force where a checkpoint brought back
    former ones, and compares the metrics that callbacks monitor with those that the first batch logged.

    Args:
        folder: the run's.
        config: the resolved configuration, YAML.
        heads: names and titles of the model's heads.
        first_step: the optimiser step that comes next, 0 unless resumed.
        greeting: printed when all is restored and checked.

    Attributes: written, whether the record is in the folder.
    """

    def __init__(
        self, folder: RunFolder, config: str, heads: Mapping[str, str], first_step: int, greeting: str
    ) -> None:
        self.folder, self.config, self.heads = folder, config, heads
        self.first_step, self.greeting = first_step, greeting
        self.written = False
        self._arguments: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._arguments = arguments_of(_callbacks(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        apply_arguments(_callbacks(trainer), self._arguments)
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger):
                logger.started = True
        if trainer.is_global_zero:
            processes = f" on {trainer.world_size} processes" * (trainer.world_size > 1)
            print(f"rst: {self.greeting}{processes}", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.written:
            return
        self._check_monitors(trainer, pl_module)
        if trainer.is_global_zero:
            self.folder.store_config(self.config, self.first_step)
            write_heads(self.folder.path, self.heads)
        self.written = True

    def _check_monitors(self, trainer: Trainer, pl_module: Any) -> None:
        """Of callbacks; those of the validation were checked before the training."""
        callbacks = [callback for callback in _callbacks(trainer) if not type(callback).__module__.startswith("rst.")]
        asked = {place: name for place, name in monitored(callbacks).items() if not name.startswith("val/")}
        if not asked:
            return
        known = [*trainer.callback_metrics, *pl_module.logged]
        known += validation_metrics(pl_module.iou_types, pl_module.annotations) if pl_module.annotations else []
        for place, name in asked.items():
            require_known(place, name, list(dict.fromkeys(known)))


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] - set at run time
