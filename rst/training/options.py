"""Options of Lightning's Trainer that cannot work here, found before anything is read or written."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from rst.training.errors import ConfigError

# Below float32, boxes and statistics would lose pixels and counts; above, the kernels have no types.
PRECISIONS = {  # value -> full name
    "32-true": "32-true",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "16-mixed",
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
LAUNCHERS = ("notebook", "fork", "spawn")  # they hand a live model to new processes, which a command line cannot

# Key -> what it must be, and whether a value is that.
_LIMITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "max_epochs": ("at least 1, or -1 for no end", lambda value: value == -1 or value >= 1),
    "max_steps": ("at least 1, or -1 for no end", lambda value: value == -1 or value >= 1),
    "min_epochs": ("at least 0", lambda value: value >= 0),
    "min_steps": ("at least 0", lambda value: value >= 0),
    "num_nodes": ("at least 1", lambda value: value >= 1),
    "accumulate_grad_batches": ("at least 1", lambda value: value >= 1),
    "check_val_every_n_epoch": ("at least 1", lambda value: value >= 1),
    "log_every_n_steps": ("at least 0", lambda value: value >= 0),
    "num_sanity_val_steps": ("at least 0, or -1 for all", lambda value: value >= -1),
    "reload_dataloaders_every_n_epochs": ("at least 0", lambda value: value >= 0),
    "gradient_clip_val": ("a number above 0", lambda value: 0 < value < math.inf),
    "limit_train_batches": ("a number of batches from 1, or a share above 0 up to 1.0", lambda v: _is_part(v, v > 0)),
    "limit_val_batches": ("a number of batches from 0, or a share from 0 to 1.0", lambda v: _is_part(v, v >= 0)),
    "val_check_interval": ("a number of batches from 1, or a share above 0 up to 1.0", lambda v: _is_part(v, v > 0)),
}
# What this project's data, logs and checkpoints do not go with -> what to do instead.
_UNSUPPORTED = {
    "fast_dev_run": "it writes neither logs nor checkpoints; to try things out: --trainer.limit_train_batches 2 "
    "--trainer.max_epochs 1",
    "overfit_batches": "it needs another loader; to train on few images: --trainer.limit_train_batches N",
}

_REFUSALS = (
    MisconfigurationException,
    ValueError,
    TypeError,
    RuntimeError,
    ImportError,
    ArithmeticError,
    AttributeError,
    KeyError,
)


def check_options(options: dict[str, Any]) -> None:
    """Refuse options of Trainer that cannot work.

    Raises:
        ConfigError: names the key, the value and what it may be.
    """
    for key, instead in _UNSUPPORTED.items():
        if options.get(key):
            raise ConfigError(f"trainer.{key}: is not supported: {instead}")
    for key, (wanted, fits) in _LIMITS.items():
        value = options.get(key)
        if value is not None and not fits(value):
            raise ConfigError(f"trainer.{key}: must be {wanted}, got {value}")
    name_precision(options.get("precision"))
    _check_devices(options.get("devices", "auto"))
    _check_strategy(options.get("strategy", "auto"))


def name_precision(precision: Any) -> str | None:
    """The full name of a precision, None for None; ConfigError for one that does not work here."""
    if precision is not None and str(precision) not in PRECISIONS:
        *most, last = dict.fromkeys(PRECISIONS.values())
        raise ConfigError(f"trainer.precision: must be {', '.join(most)} or {last}, got {precision}")
    return None if precision is None else PRECISIONS[str(precision)]


def make_trainer(**options: Any) -> Trainer:
    """Lightning's Trainer; whatever it refuses is a `ConfigError` in one line."""
    try:
        return Trainer(**options)
    except _REFUSALS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"trainer: {lines[0].strip()}") from error


def _check_devices(devices: Any) -> None:
    text = str(devices).strip()
    numbers = devices if isinstance(devices, list) else [part.strip() for part in text.split(",") if part.strip()]
    whole = bool(numbers) and all(str(number).isdigit() for number in numbers)
    counted = whole and (isinstance(devices, list) or "," in text or int(text) >= 1)
    if not (text in ("auto", "-1") or counted):
        raise ConfigError(
            f"trainer.devices: must be a number of devices from 1, a list of their numbers, or auto, got {devices}"
            + " (--trainer.accelerator says which kind)" * (text in ("gpu", "cuda", "cpu", "tpu", "mps"))
        )


def _check_strategy(strategy: Any) -> None:
    if not isinstance(strategy, str):
        return
    if _is_launched(strategy):
        raise ConfigError(f"trainer.strategy: {strategy} does not work from a command line; take ddp, or auto")
    known = ["auto", *(name for name in StrategyRegistry.available_strategies() if not _is_launched(name))]
    if strategy not in known:
        close = get_close_matches(strategy, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "usual ones are auto and ddp"
        raise ConfigError(f"trainer.strategy: there is no {strategy} ({hint})")


def _is_launched(strategy: str) -> bool:
    return any(launcher in strategy for launcher in LAUNCHERS)


def _is_part(value: float, within: bool) -> bool:
    """Whether a value is a number of batches, as an integer, or a share, as a float."""
    return within and (isinstance(value, int) or value <= 1.0)
