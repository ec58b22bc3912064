"""Logs that survive a resume: one CSV file and one TensorBoard curve per run, without gaps and repeated steps."""

import csv
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

METRICS_FILE = "metrics.csv"


def _with_value(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without the NaN of statistics that had no value; Lightning repeats a metric's last value unless it gets one."""
    return {name: value for name, value in metrics.items() if not (isinstance(value, float) and math.isnan(value))}


class CurvesLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, leaving out what has no value."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(_with_value(metrics), step)


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger, writing `metrics.csv` straight into the run's folder and continuing it on a resume.

    Lightning's own starts an existing file anew. Here the rows of the steps before `first_step` are kept; later ones
    belong to steps that are about to be repeated and go. Every row is written at once, so that a killed run has
    logged all it did. A NaN, which stands for no value, becomes an empty cell.

    Args:
        folder: the run's folder.
        first_step: the optimiser step, from 0, that comes next.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self.folder = Path(folder)
        self.first_step = first_step

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(_with_value(metrics), step)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            # Taken aside before Lightning deletes the file, and brought back before it goes: a kill in between loses
            # nothing.
            current, aside = self.folder / METRICS_FILE, self.folder / f".{METRICS_FILE}.before_resume"
            if current.exists() and not aside.exists():
                current.replace(aside)
            kept = [row for row in read_rows(aside) if int(row["step"]) < self.first_step] if aside.exists() else []
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
                experiment = CSVLogger.experiment.fget(self)  # pyright: ignore[reportOptionalCall, reportAttributeAccessIssue] - the parent's property
            for row in kept:
                experiment.log_metrics({key: value for key, value in row.items() if value != ""}, int(row["step"]))
            experiment.save()
            aside.unlink(missing_ok=True)
        return self._experiment


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
    return [ResumableCSVLogger(folder, first_step), tensorboard]
