"""What a user sees of a run while it trains: speed, memory, time to go."""

import math
import sys
import time
from datetime import timedelta
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn


def is_logging_step(trainer: Trainer) -> bool:
    """Whether Lightning stores what is logged in this step; to be asked before the optimiser's step.

    Values that are logged for nothing cost about a millisecond each.
    """
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] - set at run time
    return every > 0 and (trainer.global_step + 1) % every == 0


def find_speed_monitor(trainer: Trainer) -> "SpeedMonitor | None":
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] - set at run time
    return next((callback for callback in callbacks if isinstance(callback, SpeedMonitor)), None)


class SpeedMonitor(Callback):
    """Logs "it_per_s" (batches per second, data loading included, validation not) and "memory_MiB".

    Memory is the peak that torch's allocator held on this process's GPU, or without one the process's resident set
    now. Attributes: `rate`, batches per second over the recent past (0 before the second batch), and `memory`.
    """

    SMOOTHING = 0.1  # weight of the newest batch in the moving average of the time per batch

    def __init__(self) -> None:
        self.rate = 0.0
        self.memory = 0.0
        self._seconds: float | None = None  # moving average per batch
        self._last: float | None = None  # end of the previous batch, None where something else lay between
        self._process = psutil.Process()
        self._logs = False  # whether this step is logged

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._logs = is_logging_step(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self._last is not None:
            seconds = now - self._last
            before = seconds if self._seconds is None else self._seconds
            self._seconds = before + self.SMOOTHING * (seconds - before)
            self.rate = 1 / self._seconds
        self._last = now
        on_gpu = pl_module.device.type == "cuda"
        used = torch.cuda.max_memory_allocated(pl_module.device) if on_gpu else self._process.memory_info().rss
        self.memory = used / 2**20
        values = {"memory_MiB": self.memory} | ({"it_per_s": self.rate} if self.rate else {})
        if self._logs:
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)


class TimeToGo:
    """Estimates when a run ends from the wall time of the batches done since it started or was resumed.

    Validation and checkpoints so far are in that time, so the estimate allows for them from the first epoch's end on.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: int | None = None

    def seconds(self, trainer: Trainer) -> float | None:
        """Seconds until the last batch, None where the end is not known."""
        batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
        steps_per_epoch = batches if math.isinf(batches) else math.ceil(batches / accumulated)
        ends = [float(trainer.max_steps)] if trainer.max_steps > 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            ends.append(trainer.max_epochs * steps_per_epoch)
        if self._first is None:  # the first step is slow, and on a resumed run the counter does not start at 0
            self._first, self._start = trainer.global_step, time.perf_counter()
        done = trainer.global_step - self._first
        if not ends or math.isinf(min(ends)) or done < 1:
            return None
        return (min(ends) - trainer.global_step) * (time.perf_counter() - self._start) / done


class _Readings:
    """The values of one line of progress, the same for the bar and for the lines."""

    def __init__(self) -> None:
        self.time_to_go = TimeToGo()

    def collect(self, trainer: Trainer) -> dict[str, str]:
        seconds = self.time_to_go.seconds(trainer)
        metrics = trainer.callback_metrics
        readings = {}
        if "loss" in metrics:
            readings["loss"] = f"{metrics['loss'].item():.3f}"
        if "lr" in metrics:
            readings["lr"] = f"{metrics['lr'].item():.2g}"
        for name in ("AP", "segm_AP"):
            if f"val/{name}" in metrics:
                readings[name] = f"{100 * metrics[f'val/{name}'].item():.1f}"
        monitor = find_speed_monitor(trainer)
        if monitor is not None:
            readings["mem"] = f"{monitor.memory:.0f}MiB"
        readings["ETA"] = "?" if seconds is None else str(timedelta(seconds=round(seconds)))
        return readings


class Bar(TQDMProgressBar):
    """Lightning's bar of the epoch, with loss, learning rate, last AP, memory and the time until the whole run ends."""

    def __init__(self) -> None:
        super().__init__()
        self._readings = _Readings()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return dict(self._readings.collect(trainer))

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}")


class Lines(ProgressBar):
    """Progress for a file or a pipe, where a bar would be one endless line: a line now and then.

    Args:
        seconds: time between two lines.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._readings = _Readings()
        self._last = float("-inf")
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._due(batch_idx + 1 == self.total_train_batches):
            return
        readings = self._readings.collect(trainer)
        monitor = find_speed_monitor(trainer)
        speed = f"  {monitor.rate:.2f} it/s" if monitor is not None and monitor.rate else ""
        place = (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs or '?'}  {batch_idx + 1}/{self.total_train_batches}"
        )
        print(place + speed + "".join(f"  {name} {value}" for name, value in readings.items()), flush=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)  # the base class needs it for the total
        if batch_idx and self._due(False):
            print(f"validation  {batch_idx + 1}/{self.total_val_batches_current_dataloader}", flush=True)

    def _due(self, always: bool) -> bool:
        if not self._enabled or (time.monotonic() - self._last < self.seconds and not always):
            return False
        self._last = time.monotonic()
        return True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("val/AP", "val/segm_AP")) and value >= 0
        }
        if self._enabled and metrics and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            scores = "  ".join(f"{name.removeprefix('val/')} {100 * value:.1f}" for name, value in metrics.items())
            print(f"validation  {scores}", flush=True)


def progress_bar() -> ProgressBar:
    """A bar for a terminal, lines for everything else."""
    return Bar() if sys.stdout.isatty() else Lines()
