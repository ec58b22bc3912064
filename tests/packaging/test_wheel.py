"""What `pip install rank-sort-toolkit` puts on a machine: the package `rst`, all of it, and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

FOLDERS = {"rst": "rst", "kernels": "rst/kernels", "detectors": "rst/detectors"}  # in the tree: in the wheel


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: in the tree, setuptools would reuse build/ with files that are deleted since."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(tree / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tree / name, source)
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(output), str(source)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_is_rst_alone(names: set[str], tree: Path):
    version = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {name.split("/")[0] for name in names} == {"rst", f"rank_sort_toolkit-{version}.dist-info"}


def test_every_module_is_in_the_wheel(names: set[str], tree: Path):
    """A sub-package that is missing in pyproject.toml would be missing in installs alone."""
    expected = {
        f"{inside}/{path.relative_to(tree / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (tree / folder).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_typed_without_the_trees_stubs(names: set[str]):
    assert "rst/py.typed" in names
    assert [name for name in names if name.endswith(".pyi")] == []


def test_licence_and_command_are_there(wheel: Path, names: set[str]):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        (metadata,) = (name for name in names if name.endswith("dist-info/METADATA"))
        assert "rst = rst.cli.main:main" in archive.read(entry_points).decode()
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_unpacked_wheel_runs_from_elsewhere(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import torch, rst.kernels, rst.detectors\n"
        "logits = torch.tensor([1.0, -1.0], requires_grad=True)\n"
        "rst.kernels.rank_sort(logits, torch.tensor([0.8, 0.0])).ranking.backward()\n"
        "print(rst.kernels.__file__, rst.detectors.__file__, sep='\\n')\n"
    )
    # PYTHONPATH comes before the editable install of the tree
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).parent for line in done.stdout.split()] == [tmp_path / "rst/kernels", tmp_path / "rst/detectors"]
