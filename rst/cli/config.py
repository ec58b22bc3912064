"""The configuration of a run: its schema is the constructors' signatures; a mistake is reported with its place."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from rst.cli.config_files import check_config_file
from rst.cli.mistakes import summarise, unwrap
from rst.cli.model_arguments import arguments as model_arguments
from rst.cli.model_arguments import groups, never_null
from rst.data import DetectionData
from rst.training import CheckpointSettings, ConfigError, OptimizerSettings, ScheduleSettings
from rst.training.errors import DownloadError
from rst.training.options import check_options, name_precision

_TRAINER_DEFAULTS = {
    "max_epochs": 12,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
_MAPPINGS = ("data", "optimizer", "schedule", "checkpoints", "trainer")
_SECTIONS = ("model", *_MAPPINGS, "seed", "ema_decay")
# This project sets the folder (--output), the checkpoints (checkpoints.*) and each process's share (DetectionData).
_TRAINER_SKIPPED = {"default_root_dir", "enable_checkpointing", "use_distributed_sampler", "barebones"}
# Declared again with int before float. Trainer's signature has `Optional[Union[int, float]]`, which Python's cache of
# types may turn into `Union[float, int, None]`: one batch, 1, would then become 1.0, which means all batches.
_BATCH_LIMITS = {
    "limit_train_batches": "batches of an epoch to train on: a number if an integer, a share if a float",
    "limit_val_batches": "batches to validate on, a number or a share as above; 0 turns the validation off",
    "val_check_interval": "when to validate within an epoch: after so many batches, or at each such share of the epoch",
}


class StrictParser(ArgumentParser):
    """No abbreviated keys, also in the parsers that jsonargparse makes for settings inside a model's arguments.

    To those it hands a value that it has read already, as Python writes it: `None` for null.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "print_config": None})

    def parse_args(self, args: Any = None, *others: Any, **options: Any) -> Namespace:  # pyright: ignore[reportIncompatibleMethodOverride]
        if args is not None:
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return super().parse_args(args, *others, **options)


def build_parser() -> ArgumentParser:
    """The parser of a run's configuration; `--help` of `rst train --help-all` is its help."""
    parser = StrictParser(prog="rst train", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data order, augmentation and samplers")
    parser.add_subclass_arguments(nn.Module, "model", required=True, help="function or class that makes the detector")
    parser.add_class_arguments(DetectionData, "data")
    parser.link_arguments("seed", "data.seed")
    parser.add_class_arguments(OptimizerSettings, "optimizer")
    parser.add_class_arguments(ScheduleSettings, "schedule")
    parser.add_argument(
        "--ema_decay",
        type=float | None,
        default=None,
        help="decay per step of the averaged weights that are evaluated and kept, e.g. 0.999; null trains without",
    )
    parser.add_class_arguments(CheckpointSettings, "checkpoints")
    parser.add_class_arguments(
        Trainer, "trainer", instantiate=False, skip={*_TRAINER_SKIPPED, *_BATCH_LIMITS, "precision"}
    )
    for name, meaning in _BATCH_LIMITS.items():
        parser.add_argument(f"--trainer.{name}", type=int | float | None, default=None, help=meaning)
    # a text, so that `check_trainer` names the values that work here, not those that Lightning has
    parser.add_argument(
        "--trainer.precision", type=str | int | None, default=None, help="32-true (the default), bf16-mixed or 16-mixed"
    )
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER_DEFAULTS.items()})
    return parser


def parse_config(
    arguments: Sequence[str], config: Path | str | None = None, options: Sequence[str] = ("output", "resume")
) -> tuple[ArgumentParser, Namespace]:
    """Read a configuration file and the overrides on the command line.

    Args:
        arguments: `--config FILE` and overrides as `--section.key value`.
        config: a file, or its content, that comes before everything in `arguments`.
        options: names of the command's own options, with underscores: an unknown key may have meant one of them.

    Returns:
        the parser, which can dump and instantiate, and the settings.

    Raises:
        ConfigError: names the file or the command line, the key and the value.
    """
    parser = build_parser()
    arguments = [*(["--config", str(config)] if config else []), *arguments]
    for file in _config_files(arguments):
        if not _is_content(file):
            check_config_file(Path(file), _SECTIONS, _MAPPINGS)
    try:
        return parser, parser.parse_args(arguments)
    except ArgumentError as error:
        raise ConfigError(_explain(parser, arguments, str(error), options)) from error
    except (KeyError, TypeError, AttributeError, RecursionError, OSError) as error:  # jsonargparse's, on odd values
        said = f"cannot be read: {type(error).__name__}: {error}"
        raise ConfigError(_explain(parser, arguments, said, options)) from error


def instantiate(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """The settings with model, data and the settings' classes in place of their arguments.

    Raises:
        ValueError: from a constructor, about its arguments; ConfigError for any other error of it.
        DownloadError: weights that could not be fetched.
    """
    _check_groups(settings)
    try:
        return parser.instantiate(settings)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, LookupError, AttributeError) as error:
        cause = unwrap(error)
        if isinstance(cause, RuntimeError) and isinstance(cause.__cause__, OSError):
            raise DownloadError(str(cause)) from error
        if isinstance(cause, ValueError):
            raise cause from None
        lines = str(cause).strip().splitlines() or [""]
        named = f"{settings.model.class_path} cannot be made of these settings: {type(cause).__name__}: {lines[0]}"
        raise ConfigError(f"{named} (--debug shows where)") from cause


def _check_groups(settings: Namespace) -> None:
    """Refuse a value in the place of settings that have keys of their own, and null where a model's argument has none.

    jsonargparse lets both pass inside a model's arguments.
    """
    own = settings.model.get("init_args") or Namespace()
    fixed = never_null(settings.model.class_path)
    for name, keys in groups(settings.model.class_path).items():
        value = own.get(name)
        if name in own and not isinstance(value, (Namespace, dict)) and (value is not None or name in fixed):
            said = ", ".join(f"{name}.{key}" for key in keys)
            raise ConfigError(f"model.{name}: has keys of its own ({said}), got {'null' if value is None else value}")
    for key in fixed:
        if key in own and own.get(key) is None:
            raise ConfigError(f"model.{key}: must not be null")


def build_experiment(arguments: Sequence[str], config: Path | str | None, options: Sequence[str]) -> Namespace:
    """Model, data and settings of a configuration, as a training begins with them but for pretrained weights.

    Raises:
        ConfigError, ValueError: see `parse_config` and `instantiate`.
    """
    parser, settings = parse_config(arguments, config, options)
    seed_everything(settings.seed, verbose=False)
    return instantiate(parser, without_pretraining(settings))


def dump_config(parser: ArgumentParser, settings: Namespace) -> str:
    """Every setting of a run, defaults included, as YAML that `--config` reads."""
    settings = settings.clone()
    settings.pop("config", None)
    return parser.dump(settings, skip_unset=False)


def without_pretraining(settings: Namespace) -> Namespace:
    """The same settings for a model whose weights come from a checkpoint: its initial weights need not be there."""
    settings = settings.clone()
    for key in ("model.init_args.weights", "model.init_args.backbone.weights"):
        if settings.get(key) is not None:
            settings[key] = None
    return settings


def check_trainer(settings: Namespace) -> None:
    """Refuse settings of Trainer that cannot work, and give the precision its full name, as the record has it."""
    check_options(dict(vars(settings.trainer)))
    settings.trainer.precision = name_precision(settings.trainer.precision)


def trainer_options(settings: Namespace) -> dict[str, Any]:
    """The keyword arguments of Trainer in instantiated settings."""
    return dict(vars(settings.trainer))


def _explain(parser: ArgumentParser, arguments: Sequence[str], text: str, options: Sequence[str]) -> str:
    """jsonargparse's message in one line, with the place of the mistake in front."""
    place, keys = "command line", [*parser.get_defaults().keys()]
    for file in _config_files(arguments):
        try:
            settings = parser.parse_args(["--config", file])
        except (ArgumentError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            if "required" not in str(error):  # the rest may be on the command line
                place = "the checkpoint's own configuration" if _is_content(file) else file
                text = str(error) if isinstance(error, ArgumentError) else text
                break
        else:
            if class_path := settings.get("model.class_path"):
                keys += [f"model.{name}" for name in model_arguments(class_path)]
    return f"{place}: {summarise(text, keys, options)}"


def _is_content(config: str) -> bool:
    """Whether a value of --config is YAML itself, not the name of a file."""
    return "\n" in config or config.lstrip().startswith("{")


def _config_files(arguments: Sequence[str]) -> list[str]:
    files = [value for flag, value in pairwise(arguments) if flag == "--config"]
    return files + [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]
