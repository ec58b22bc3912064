"""Training on Lightning's Trainer: the module, its callbacks, checkpoints, logs and curves."""

from rst.training.checkpoints import AtomicCheckpointIO, check_fits, load_checkpoint, load_weights
from rst.training.errors import CheckpointError, ConfigError, NonFiniteError
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
