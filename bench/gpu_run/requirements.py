"""What a run needs and this machine lacks, found before anything runs: packages, their versions, the device, the data.

Versions are those of pyproject.toml.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .source import TREE

REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)")
BOUND = re.compile(r"(>=|==|<)\s*([\d.]+)")
PROBE = """
import json, torch
from device import ON_GPU, device_name
print(json.dumps({
    "name": device_name(),
    "on_gpu": ON_GPU,
    "built_for": torch.version.cuda or torch.version.hip,
    "uuid": str(getattr(torch.cuda.get_device_properties(0), "uuid", "")) if ON_GPU else "",
}))
"""


@dataclass(frozen=True)
class Device:
    """What torch computes on."""

    name: str
    on_gpu: bool
    built_for: str | None  # the version of CUDA or HIP that torch was built for
    uuid: str


def bounds() -> dict[str, str]:
    """The versions that pyproject.toml asks for, by distribution: ">=2.11", or "" for any."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    found = {}
    for line in listed:
        name, wanted = REQUIREMENT.match(line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        found[name] = wanted.strip()
    return found


def dependencies() -> tuple[str, ...]:
    """What an installation of rst needs."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return tuple(re.match(r"[\w.-]+", line).group() for line in project["dependencies"])  # pyright: ignore[reportOptionalMemberAccess]


def missing_packages(names: Iterable[str], installed: Callable[[str], str] = version) -> list[str]:
    """One line for each package that is absent, too old or too new."""
    asked, lines = bounds(), []
    for name in dict.fromkeys(names):
        wanted = asked.get(name, "")
        needed = f"; needed is {wanted}" if wanted else ""
        try:
            found = installed(name)
        except PackageNotFoundError:
            lines.append(f"the package {name} is missing{needed}")
            continue
        for sign, bound in BOUND.findall(wanted):
            here, there = _numbers(found), _numbers(bound)
            if sign == ">=" and here < there:
                lines.append(f"the package {name} is too old, {found}{needed}")
            elif sign == "<" and here >= there:
                lines.append(f"the package {name} is too new, {found}{needed}")
    return lines


def _numbers(text: str) -> tuple[int, ...]:
    """(2, 11) of "2.11.0+cu130": trailing zeros say nothing."""
    numbers = [int(number) for number in re.match(r"[\d.]*", text).group().split(".") if number]  # pyright: ignore[reportOptionalMemberAccess]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def find_device(environment: dict[str, str]) -> Device | str:
    """The device, as a process that imports torch sees it; or a line on what is wrong."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"torch cannot be imported: {lines[-1]}"
    return Device(**json.loads(done.stdout.strip().splitlines()[-1]))


def missing_device(device: Device) -> list[str]:
    """One line where there is no GPU for torch."""
    if device.on_gpu:
        return []
    if device.built_for is None:
        return ["no GPU: this torch is built for CPUs alone"]
    return [f"no GPU: torch, built for CUDA {device.built_for}, sees none (torch.cuda.is_available() is False)"]


def missing_files(paths: Iterable[Path], remedy: str) -> list[str]:
    """One line for all paths that are not there."""
    absent = [str(path.relative_to(TREE)) for path in paths if not path.exists()]
    return [f"missing: {', '.join(absent)}; {remedy}"] if absent else []
