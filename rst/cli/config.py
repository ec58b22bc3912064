"""The configuration of a run: its schema is the constructors' signatures, and its mistakes are named where they are."""

import importlib
import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Trainer
from torch import nn

from rst.data import DetectionData
from rst.training import CheckpointSettings, ConfigError, OptimizerSettings, ScheduleSettings

_TRAINER_DEFAULTS = {
    "max_epochs": 12,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
# Set by this project: where things go (--output), checkpoints (checkpoints.*), each process's share (DetectionData).
_TRAINER_SKIPPED = {"default_root_dir", "enable_checkpointing", "use_distributed_sampler", "barebones"}
# Typed here once more with int before float. In Trainer's signature it is `Optional[Union[int, float]]`, which Python's
# cache of typing turns into `Union[float, int, None]` if anybody wrote that first; one batch, 1, would then become 1.0,
# which is all of them.
_BATCH_LIMITS = {
    "limit_train_batches": "batches of an epoch to train on: a number if an integer, a share if a float",
    "limit_val_batches": "batches to validate on, likewise; 0 turns the validation off",
    "val_check_interval": "when to validate within an epoch: after so many batches, or at each such share of the epoch",
}


def build_parser() -> ArgumentParser:
    """The parser of a run's configuration; `--help` of `rst train --help-all` is its help."""
    parser = ArgumentParser(prog="rst train", exit_on_error=False, allow_abbrev=False)
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
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip={*_TRAINER_SKIPPED, *_BATCH_LIMITS})
    for name, meaning in _BATCH_LIMITS.items():
        parser.add_argument(f"--trainer.{name}", type=int | float | None, default=None, help=meaning)
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER_DEFAULTS.items()})
    return parser


def parse_config(arguments: Sequence[str], config: Path | None = None) -> tuple[ArgumentParser, Namespace]:
    """Read a configuration file and the overrides on the command line.

    Args:
        arguments: `--config FILE` and overrides as `--section.key value`.
        config: a file that comes before everything in `arguments`.

    Returns:
        the parser, which can dump and instantiate, and the settings.

    Raises:
        ConfigError: names the file or the command line, the key and the value.
    """
    parser = build_parser()
    arguments = [*(["--config", str(config)] if config else []), *arguments]
    try:
        return parser, parser.parse_args(arguments)
    except ArgumentError as error:
        raise ConfigError(_explain(parser, arguments, str(error))) from error


def dump_config(parser: ArgumentParser, settings: Namespace) -> str:
    """Every setting of a run, defaults included, as YAML that `--config` reads."""
    settings = settings.clone()
    settings.pop("config", None)
    return parser.dump(settings, skip_none=False)


def without_pretraining(settings: Namespace) -> Namespace:
    """The same settings for a model whose weights come from a checkpoint: its initial weights need not be there."""
    settings = settings.clone()
    if settings.get("model.init_args.weights") is not None:
        settings["model.init_args.weights"] = None
    return settings


def trainer_options(settings: Namespace) -> dict[str, Any]:
    """The keyword arguments of Trainer in instantiated settings."""
    return dict(vars(settings.trainer))


# ---- mistakes


def _explain(parser: ArgumentParser, arguments: Sequence[str], text: str) -> str:
    """jsonargparse's message in one or two lines, with the place of the mistake in front."""
    place = "command line"
    for file in _config_files(arguments):
        try:
            parser.parse_args(["--config", file])
        except ArgumentError as error:
            if "is required but" not in str(error):  # the rest may be on the command line
                place, text = file, str(error)
                break
    return f"{place}: {_in_short(parser, text)}"


def _config_files(arguments: Sequence[str]) -> list[str]:
    files = [value for flag, value in pairwise(arguments) if flag == "--config"]
    return files + [argument.removeprefix("--config=") for argument in arguments if argument.startswith("--config=")]


def _in_short(parser: ArgumentParser, text: str) -> str:
    path = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    class_path = _first(r"class_path '([^']+)'", text)
    unknown = _first(r"Option '([^']+)' is not accepted", text) or _first(r"unrecognized arguments: --([^\s=]+)", text)
    if unknown:
        key = f"{path}.{unknown}" if path else unknown
        of = f" of {class_path}" if class_path else ""
        return f"unknown key {key}{of}{_suggestion(parser, unknown, class_path)}"
    if "Problem with given class_path" in text and "Expected a <class" not in text.split("Problem with", 1)[1][:300]:
        reason = _first(r"Problem with given class_path '[^']+':\s*\n?\s*([^\n]+)", text)
        return f"{path}.class_path: cannot use {class_path!r}: {reason}"
    expected = re.findall(r"Expected an? (?:<class '(?:[\w]+\.)*([\w]+)'>|([^\n]+?)(?=\.? Got value|\n|$))", text)
    value = _first(r"(?:Got value: |Given value: (?:NestedArg\(.*val=)?)'?([^\n']*)", text)
    if path and expected and value is not None:
        kinds = " or ".join(dict.fromkeys((kind or other).replace("NoneType", "null") for kind, other in expected))
        return f"{path}: expected {kinds}, got {value!r}"
    return re.sub(r"\s*\n\s*", " ", text).strip()


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _suggestion(parser: ArgumentParser, unknown: str, class_path: str | None) -> str:
    if class_path:
        module, _, name = class_path.rpartition(".")
        known = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    else:
        known = list(parser.get_defaults().keys())
        known += [f"model.{name}" for name in ("class_path", "init_args")] + list({key.split(".")[0] for key in known})
    close = get_close_matches(unknown, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
