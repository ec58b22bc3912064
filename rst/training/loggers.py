"""Logs that survive a resume: one CSV file and one TensorBoard curve per run, without gaps and repeated steps."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from rst.files import WriteError, replacing

METRICS_FILE = "metrics.csv"


def _with_value(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without the NaN of statistics that had no value; Lightning repeats a metric's last value unless it gets one."""
    return {name: value for name, value in metrics.items() if not (isinstance(value, float) and math.isnan(value))}


class CurvesLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, leaving out what has no value.

    Its file is made with the first metrics: Lightning asks for `experiment` before a run is known to work.
    """

    started = False  # whether training has begun

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        if not self.started:
            raise AttributeError("there are no curves before the training starts")
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(_with_value(metrics), step)

    def save(self) -> None:
        if self.started:
            super().save()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has the settings, and a run that is refused before its first step leaves no file."""


class MetricsLogger(Logger):
    """Writes `metrics.csv` into the run's folder and continues it on a resume.

    On a resume the rows of the steps before `first_step` are kept; later ones belong to steps that are about to be
    repeated and go. Every row is written at once, so that a killed run has logged all it did. A NaN, which stands for
    no value, becomes an empty cell.

    Args:
        folder: the run's folder.
        first_step: the optimiser step, from 0, that comes next.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        super().__init__()
        self.file, self.first_step = Path(folder) / METRICS_FILE, first_step
        self._columns: list[str] | None = None  # None before the first row

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.file.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"step": step or 0, **_with_value(metrics)}
        if self._columns is None:
            kept = read_rows(self.file) if self.first_step and self.file.exists() else []
            self._write([row_ for row_ in kept if int(row_["step"]) < self.first_step])
        if not row.keys() <= set(self._columns or ()):
            self._write([*read_rows(self.file), row])
        else:
            try:
                with self.file.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns or ()).writerow(row)
            except OSError as error:  # of a full disk, whose message has no name
                raise WriteError(f"{self.file}: cannot be written: {error.strerror or error}") from error

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The whole file, with a column for every metric so far; a kill leaves the former file or the new one."""
        self._columns = sorted({"step", *(self._columns or ()), *(name for row in rows for name in row)})
        with replacing(self.file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file; a last line that a kill cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]


def build_loggers(folder: Path, first_step: int = 0) -> list[Logger]:
    """The loggers of a run.

    Args:
        folder: the run's folder: `metrics.csv` and `tensorboard/` are made in it.
        first_step: 0 for a new run, else the step that a resumed run starts with.
    """
    tensorboard = CurvesLogger(
        folder, name="tensorboard", version="", default_hp_metric=False, purge_step=first_step or None
    )
    return [MetricsLogger(folder, first_step), tensorboard]
