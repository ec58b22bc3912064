"""Training on Lightning's Trainer: the module, its callbacks, checkpoints, logs and curves."""

import importlib
from typing import TYPE_CHECKING, Any

from rst.training.errors import CheckpointError, ConfigError, NonFiniteError

if TYPE_CHECKING:
    from rst.training.checkpoints import AtomicCheckpointIO, check_fits, load_checkpoint, load_weights
    from rst.training.module import DetectionTraining
    from rst.training.run import CheckpointSettings, RunFolder, build_trainer, find_checkpoint
    from rst.training.settings import OptimizerSettings, ScheduleSettings

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointError",
    "CheckpointSettings",
    "ConfigError",
    "DetectionTraining",
    "NonFiniteError",
    "OptimizerSettings",
    "RunFolder",
    "ScheduleSettings",
    "build_trainer",
    "check_fits",
    "find_checkpoint",
    "load_checkpoint",
    "load_weights",
]

# Imported when asked for: torch and Lightning take seconds, which a mistake on the command line need not wait for.
LATE = {
    "AtomicCheckpointIO": "checkpoints",
    "CheckpointSettings": "run",
    "DetectionTraining": "module",
    "OptimizerSettings": "settings",
    "RunFolder": "run",
    "ScheduleSettings": "settings",
    "build_trainer": "run",
    "check_fits": "checkpoints",
    "find_checkpoint": "run",
    "load_checkpoint": "checkpoints",
    "load_weights": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATE[name]}"), name)
