"""What all tests share: where the tree is, quiet plotting, and which process runs which kernel tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

TREE = Path(__file__).resolve().parent.parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Triton reads TRITON_INTERPRET when a kernel is decorated: a process either interprets kernels or compiles them, and
# `make interpreter` and `make offline` are the two processes.
collect_ignore = ["kernels/offline"] if INTERPRETED else ["kernels/interpreter"]


def pytest_report_header() -> str:
    left_out = "offline (compilation)" if INTERPRETED else "interpreter"
    return f"tests/kernels/{left_out} not collected: TRITON_INTERPRET is {'1' if INTERPRETED else 'not 1'}"


@pytest.fixture(scope="session")
def tree() -> Path:
    """The root of the source tree."""
    return TREE
