"""The tree that is measured: importable without an installation, its commit, and a hash of its sources."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
MEASURED = ("kernels", "detectors", "rst", "bench", "configs", "tests", "pyproject.toml")
SUFFIXES = {".py", ".toml", ".yaml", ".npz"}


def link_packages(folder: Path) -> Path:
    """Makes `folder`, from which `import rst` finds the tree as an installation would; returns it.

    pyproject.toml maps folders at the top of the tree into the package `rst`, so the tree itself is no such folder.
    """
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))
    mapped = project["tool"]["setuptools"]["package-dir"]
    shutil.rmtree(folder, ignore_errors=True)
    for package, source in sorted(mapped.items()):  # a package before those inside it
        target = folder.joinpath(*package.split("."))
        if "." in package:
            target.symlink_to(TREE / source, target_is_directory=True)
            continue
        target.mkdir(parents=True)
        for entry in (TREE / source).iterdir():
            if entry.suffix != ".pyi" and entry.name != "__pycache__":
                (target / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    return folder


def environment(packages: Path | None = None, on_cpu: bool = False) -> dict[str, str]:
    """The environment of every process: `rst` from `packages`, kernels compiled and not interpreted.

    `on_cpu` hides a GPU that is there.
    """
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(packages or ""), str(TREE / "bench"), str(TREE / "tests" / "support"), kept.get("PYTHONPATH", "")]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    return (
        kept
        | hidden
        | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            # without the folder it is started in, whose rst/ lacks the mapped packages
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "Agg",
        }
    )


def commit() -> str:
    """The commit, with "-dirty" where files differ from it."""
    command = ["git", "-C", str(TREE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def sources() -> str:
    """A hash of every file that is measured, or measures: it also tells apart two trees that are both dirty."""
    found = hashlib.sha256()
    for name in MEASURED:
        top = TREE / name
        files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.suffix in SUFFIXES)
        for path in files:
            found.update(f"{path.relative_to(TREE).as_posix()}\0{path.stat().st_size}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def kernels() -> dict[str, list[str]]:
    """The names of the Triton kernels that are launched, by the file that they are in."""
    found = {}
    for path in sorted((TREE / "kernels").glob("triton_*.py")):
        names = re.findall(r"^def (\w+_kernel)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        found |= {path.stem: names} if names else {}
    return found


def slug(name: str) -> str:
    """A device's name as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
