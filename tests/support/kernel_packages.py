"""Kernel packages for the tests: tools/kernel_package.py run as a command, on this tree or on a changed copy of it."""

import shutil
import subprocess
import sys
from pathlib import Path


def run_script(*arguments: str | Path, tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tree / "tools" / "kernel_package.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)


def build(output: Path, *arguments: str, tree: Path) -> Path:
    done = run_script("--output", output, *arguments, tree=tree)
    assert done.returncode == 0, done.stderr
    return output


def fork_tree(tree: Path, copy: Path) -> Path:
    """The parts of the tree that the script reads, to be changed."""
    for folder in ("kernels", "tools"):
        shutil.copytree(tree / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(tree / name, copy)
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    """Path inside `folder` -> content, without the bytecode that imports leave."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
