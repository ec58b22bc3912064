"""The import graph of the tree: no circle of files, none of folders; and the tree as CONTRIBUTING draws it."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
PACKAGES = {"rst.kernels": "kernels", "rst.detectors": "detectors", "rst": "rst"}  # the longest name first
DRAWN = ("kernels", "detectors", "rst", "bench", "tests", "configs", "tools")
REPORTS = "bench/results"  # has a folder for each device


def files() -> list[Path]:
    return [path for folder in PACKAGES.values() for path in sorted((TREE / folder).rglob("*.py"))]


def module_file(name: str) -> Path | None:
    """The file of a module of this project, by its dotted name."""
    for package, folder in PACKAGES.items():
        if name == package or name.startswith(f"{package}."):
            path = TREE.joinpath(folder, *name[len(package) :].split("."))
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file():
                    return candidate
    return None


def imported(path: Path) -> Iterator[Path]:
    """The files that a file imports when it is imported itself: not those inside functions or for type checkers."""
    folder = path.relative_to(TREE).parent.parts
    package = {folder: name for name, folder in PACKAGES.items()}[folder[0]].split(".") + list(folder[1:])
    for node in _executed(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [found if module_file(found := f"{module}.{alias.name}") else module for alias in node.names]
        yield from (file for name in names if (file := module_file(name)) and file != path)


def _executed(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.If, ast.Try)) and "TYPE_CHECKING" not in ast.unparse(node)[:20]:
            yield from _executed(node.body)


def graph_of_files() -> dict[Path, set[Path]]:
    return {path.relative_to(TREE): {found.relative_to(TREE) for found in imported(path)} for path in files()}


def graph_of_folders() -> dict[Path, set[Path]]:
    """An import from a package counts as one from its folder. What its `__init__` collects is left out."""
    graph: dict[Path, set[Path]] = {}
    for path, found in graph_of_files().items():
        edges = graph.setdefault(path.parent, set())
        if path.name != "__init__.py":
            edges |= {other.parent for other in found if other.parent != path.parent}
    return graph


@pytest.mark.parametrize("graph", [graph_of_files, graph_of_folders])
def test_there_is_no_circle(graph):
    edges = graph()
    assert sum(map(len, edges.values())) > 20
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(map(str, error.args[1])))


def test_a_circle_is_found(tmp_path: Path):
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def public_names(path: Path) -> set[str] | None:
    """What a file lists in `__all__`; None where it has no such list."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_what_is_imported_from_a_file_is_in_its_list_of_public_names():
    lists = {path: names for path in files() if (names := public_names(path)) is not None}
    assert len(lists) > 3
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                source = module_file(node.module)
                names = {alias.name for alias in node.names if not module_file(f"{node.module}.{alias.name}")}
                missing = names - lists[source] if source in lists else set()
                assert not missing, f"{path} imports {missing} from {source}, whose __all__ does not have it"


def drawn_tree() -> dict[str, int]:
    """Of each folder that CONTRIBUTING draws its floor, counted from the top of the drawing."""
    text = (TREE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## The tree\n.*?^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    paths, parents = {}, []
    for floor, line in enumerate(block.splitlines()):
        if found := re.match(r"( *)([\w.]+)/(\s|$)", line):
            depth = len(found[1]) // 2
            parents = [*parents[:depth], found[2]]
            paths["/".join(parents)] = floor
    return paths


def folders() -> set[str]:
    """Every folder of the tree that holds a file under version control, as far as the drawing goes."""
    found = set()
    for top in DRAWN:
        for path in (TREE / top).rglob("*"):
            relative = path.relative_to(TREE)
            hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            if path.is_file() and not hidden:
                found |= {str(parent) for parent in relative.parents if str(parent) != "."}
    return {folder for folder in found if not folder.startswith(f"{REPORTS}/")}


def test_the_tree_is_as_contributing_draws_it():
    drawn = {path for path in drawn_tree() if path.split("/")[0] in DRAWN}
    assert drawn == folders()


def test_imports_point_down_the_drawing():
    floor = drawn_tree()
    for folder, others in graph_of_folders().items():
        for other in others:
            family = other.is_relative_to(folder) or folder.is_relative_to(other)  # one way only: there is no circle
            assert family or floor[str(other)] > floor[str(folder)], (
                f"{folder} imports {other}, which CONTRIBUTING draws above it"
            )
