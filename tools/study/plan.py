"""What a study trains: its file, read and checked."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KEYS = {"config": str, "seeds": list, "settings": dict, "grid": dict, "variants": dict}
KINDS = {str: "a text", list: "a list", dict: "a mapping"}
NAME = re.compile(r"\w[\w.+-]*")  # of a variant, which is the name of a folder too


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        variant: name of the variant.
        point: label and value of each key of the grid.
        seed: its seed.
        config: the configuration file.
        settings: key -> value, of all that differs from it; the seed too.
    """

    variant: str
    point: tuple[tuple[str, Any], ...]
    seed: int
    config: str
    settings: dict[str, Any]

    @property
    def group(self) -> str:
        """What its seeds share: the variant and the values of the grid."""
        return " ".join([self.variant, *(f"{label}={as_text(value)}" for label, value in self.point)])

    @property
    def name(self) -> str:
        return f"{self.group} seed {self.seed}"

    def folder(self, output: Path) -> Path:
        values = (re.sub(r"[^\w.+-]+", "_", f"{label}_{as_text(value)}") for label, value in self.point)
        return output.joinpath(self.variant, *values, f"seed_{self.seed}")

    @property
    def arguments(self) -> list[str]:
        """Of `rst train`, for a new run."""
        return ["--config", self.config, *(f"--{key}={as_text(value)}" for key, value in self.settings.items())]


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def read_study(file: Path, extra: Sequence[str] = ()) -> list[Run]:
    """The runs of a study: for each seed all points of the grid in all variants, so that a part is a comparison too.

    Args:
        file: the study.
        extra: "KEY=VALUE" for all runs, stronger than what the file says.

    Raises:
        OSError: where the file cannot be read.
        ValueError: names the file and the key that is missing, unknown or of a wrong kind.
    """
    try:
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: is no YAML: {' '.join(str(error).split())}") from error
    try:
        return _runs(_checked(study), _pairs(extra))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _checked(study: Any) -> dict[str, Any]:
    if not isinstance(study, dict):
        raise ValueError(f"must be a mapping with the keys {', '.join(KEYS)}")
    for key, value in study.items():
        if key not in KEYS:
            raise ValueError(f"there is no key {key}; the keys are {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise ValueError(f"{key}: must be {KINDS[KEYS[key]]}, got {value!r}")
    for key in ("seeds", "variants"):
        if not study.get(key):
            raise ValueError(f"{key}: is missing or empty")
    for seed in study["seeds"]:
        if type(seed) is not int or seed < 0 or study["seeds"].count(seed) > 1:
            raise ValueError(f"seeds: must be different integers from 0, got {study['seeds']}")
    for key, values in study.get("grid", {}).items():
        if not isinstance(values, list) or not values or any(values.count(value) > 1 for value in values):
            raise ValueError(f"grid.{key}: must be a list of different values, got {values!r}")
    for name, variant in study["variants"].items():
        own = variant or {}
        if not NAME.fullmatch(str(name)):
            raise ValueError(f"variants: {name!r} cannot be a folder's name; take letters, digits and _ . + -")
        if not isinstance(own, dict) or not set(own) <= {"config", "settings"}:
            raise ValueError(f"variants.{name}: may have config and settings, got {variant!r}")
        if not isinstance(own.get("settings") or {}, dict):
            raise ValueError(f"variants.{name}.settings: must be a mapping, got {own['settings']!r}")
        config = own.get("config", study.get("config"))
        if config is None:
            raise ValueError(f"variants.{name}.config: is missing, and there is no config for all")
        if not Path(config).is_file():
            raise ValueError(f"variants.{name}: there is no configuration {config} (from here: {Path.cwd()})")
    return study


def _pairs(extra: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in extra:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"--set: must be KEY=VALUE, got {text!r}")
        pairs[key.removeprefix("--")] = value
    return pairs


def _runs(study: Mapping[str, Any], extra: Mapping[str, str]) -> list[Run]:
    grid: dict[str, list[Any]] = study.get("grid", {})
    shared = {"for all runs": study.get("settings", {}), "--set": extra, "grid": grid}
    shared |= {f"variants.{name}": (own or {}).get("settings") or {} for name, own in study["variants"].items()}
    for place, settings in shared.items():
        if "seed" in settings:
            raise ValueError(f"{place}: seed is no setting here, seeds lists them")
        for key in grid if place != "grid" else ():
            if key in settings:
                raise ValueError(f"{place}: {key} is in the grid already")
    labels = _labels(list(grid))
    runs = []
    for seed, values in itertools.product(study["seeds"], itertools.product(*grid.values())):
        for name, variant in study["variants"].items():
            own = variant or {}
            settings = {**study.get("settings", {}), **(own.get("settings") or {}), **extra}
            settings |= {**dict(zip(grid, values, strict=True)), "seed": seed}
            point = tuple(zip(labels, values, strict=True))
            runs.append(Run(str(name), point, seed, str(own.get("config", study.get("config"))), settings))
    places = Counter(str(run.folder(Path())) for run in runs)
    for run in runs:
        if places[place := str(run.folder(Path()))] > 1:
            raise ValueError(f"grid: several values would have the same folder, {place}")
    return runs


def _labels(keys: Sequence[str]) -> list[str]:
    """The last word of each key; where two have the same one, the whole keys."""
    last = [key.rpartition(".")[2] for key in keys]
    return [word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)]
