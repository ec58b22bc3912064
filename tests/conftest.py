"""What all tests share: where the tree is, quiet plotting, and which process runs which kernel tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

TREE = Path(__file__).resolve().parent.parent

# Triton reads TRITON_INTERPRET when a kernel is decorated: a process either interprets kernels or compiles them, and
# `make interpreter` and `make offline` are the two processes.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = ["kernels/offline"] if INTERPRETED else []


def pytest_report_header() -> str:
    if INTERPRETED:
        return "TRITON_INTERPRET=1: kernels are interpreted on the CPU; tests/kernels/offline is not collected"
    return "TRITON_INTERPRET is not 1: kernels are compiled; interpreting them is another process (make interpreter)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that starts last would leave the other processes of `-n` without work."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tree() -> Path:
    """The root of the source tree."""
    return TREE
