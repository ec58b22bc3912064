"""Guards of the architecture: imports point down only, kernels/ is flat, files stay short."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
LONGEST_FILE = 300  # lines

# Files that may be longer, each with its reason.
LONG_FILES: dict[str, str] = {}

# Outside the standard library, what a file of the folder may import. None: anything but `NEVER`.
ALLOWED: dict[str, set[str] | None] = {
    "kernels": {"torch", "triton"},
    "detectors": {"torch", "torchvision", "rst.kernels"},
    "rst": None,
    "bench": None,
    "tests": None,
    # no torch and no rst: a script for maintainers reads and writes files
    "tools": {"matplotlib", "numpy", "PIL", "pycocotools", "yaml"},
}
# bench, tests and tools are seen by nobody; the mapped folders under their own names would be second copies of
# rst.kernels and rst.detectors, found only where the tree's root is on the path.
NEVER = {"bench", "tests", "tools", "kernels", "detectors"}

# The order inside rst/: a sub-package imports none of these.
CLOSED_INSIDE_RST = {
    "rst/coco": {"rst.kernels", "rst.detectors", "rst.data", "rst.evaluation", "rst.training", "rst.cli"},
    "rst/data": {"rst.kernels", "rst.detectors", "rst.evaluation", "rst.training", "rst.cli"},
    "rst/evaluation": {"rst.kernels", "rst.detectors", "rst.training", "rst.cli"},
    "rst/training": {"rst.cli"},
}


def source_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((TREE / folder).rglob("*.py"))]
    assert found, f"no Python files under {folders}"
    return found


def absolute_imports(source: str) -> Iterator[str]:
    """Dotted names of everything that `source` imports absolutely, at any depth and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from rst import kernels` imports rst.kernels
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative_levels(source: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.level


def is_inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def faults(source: str, folder: str, depth: int = 1) -> list[str]:
    """Imports in `source` that a file of the top-level `folder`, `depth` folders down, may not have."""
    allowed = ALLOWED[folder]
    never = NEVER - ({"bench", "tests"} & {folder})  # each sees itself
    found = []
    for name in absolute_imports(source):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        if is_inside(name, never) or (allowed is not None and not is_inside(name, allowed)):
            found.append(name)
    if allowed is not None:
        # more dots than folders would leave the package, which then could not be copied
        found += ["." * level for level in relative_levels(source) if level > depth]
    return found


def ids(path: Path) -> str:
    return str(path.relative_to(TREE))


@pytest.mark.parametrize("path", source_files(*ALLOWED), ids=ids)
def test_imports_point_down_only(path: Path):
    *folders, _ = path.relative_to(TREE).parts
    assert faults(path.read_text(encoding="utf-8"), folders[0], len(folders)) == []


@pytest.mark.parametrize("folder", CLOSED_INSIDE_RST)
def test_order_inside_rst(folder: str):
    for path in source_files(folder):
        seen = [
            name
            for name in absolute_imports(path.read_text(encoding="utf-8"))
            if is_inside(name, CLOSED_INSIDE_RST[folder])
        ]
        assert seen == [], f"{ids(path)} imports upwards"


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("kernels", "import numpy"),
        ("kernels", "import torchvision"),
        ("kernels", "from rst.kernels import rank_sort"),
        ("kernels", "from kernels.rows import count"),
        ("kernels", "from ..data import trees"),
        ("detectors", "from rst import data"),
        ("detectors", "import rst.training"),
        ("detectors", "def late():\n    import lightning"),
        ("detectors", "from kernels import rank_sort"),
        ("detectors", "from ..data import trees"),
        ("rst", "from bench import loop"),
        ("rst", "import tests.conftest"),
        ("rst", "from detectors import faster_rcnn"),
        ("tests", "import kernels"),
        ("tools", "import torch"),
    ],
)
def test_guard_refuses(folder: str, line: str):
    assert len(faults(line, folder)) == 1


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("kernels", "import math, torch, triton.language as tl\nfrom .scores import rank_sort_scores"),
        ("detectors", "from rst.kernels import rank_sort\nfrom rst import kernels\nfrom torchvision.ops import nms"),
        ("rst", "import lightning\nfrom rst.detectors import faster_rcnn"),
    ],
)
def test_guard_accepts(folder: str, line: str):
    assert faults(line, folder) == []


def test_kernels_are_flat():
    nested = [path for path in source_files("kernels") if path.parent != TREE / "kernels"]
    assert nested == [], "kernels/ is copied into other projects as one folder: keep it flat"


def test_files_are_short():
    lengths = {ids(path): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files(*ALLOWED)}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_FILE and name not in LONG_FILES}
    assert too_long == {}, f"longer than {LONGEST_FILE} lines: look for the seam, or list the file with its reason"
    needless = [name for name in LONG_FILES if lengths.get(name, 0) <= LONGEST_FILE]
    assert needless == [], "listed as long, but gone or short again"
