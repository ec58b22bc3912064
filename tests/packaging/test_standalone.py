"""kernels/, copied into another project under another name, runs with nothing but torch; rst runs without Triton."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A finder before all others: the child process behaves as if these packages were not installed.
PRELUDE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
"""

# The first positive is above all negatives by more than delta: no ranking error. The second is below one negative.
USE = """
import torch
from {package} import SparseTargets, rank_sort

logits = torch.tensor([[2.0, -1.0, 0.5], [0.4, -3.0, 1.0]], requires_grad=True)
targets = torch.tensor([[0.9, 0.0, 0.0], [0.6, -1.0, 0.0]])
loss = rank_sort(logits, targets)
(loss.ranking + loss.sorting).backward()
assert 0.1 < loss.ranking.item() < 0.9, loss
assert logits.grad[1, 1] == 0, "the ignored logit has a gradient"
assert logits.grad[1, 0] < 0 < logits.grad[1, 2], logits.grad
assert abs(logits.grad.sum()) < 1e-6

sparse = SparseTargets(torch.tensor([0, 3]), torch.tensor([0.9, 0.6]), targets < 0)
torch.testing.assert_close(rank_sort(logits, sparse), loss)
print("ran", {package}.__file__)
"""

EVERYTHING_ELSE = {"rst", "kernels", "detectors", "numpy", "torchvision", "lightning", "pycocotools", "matplotlib"}


def run_blocked(package: str, blocked: set[str], paths: list[Path], more: str = "") -> str:
    """Runs `USE` in a child process with `paths` first on its path and `blocked` not importable; returns its output."""
    code = PRELUDE.format(blocked=blocked) + f"import {package}\n" + USE.format(package=package) + more
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=paths[0],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copied_kernels(tree: Path, tmp_path: Path) -> Path:
    """A folder that holds kernels/ as the package `borrowed_losses` and nothing else."""
    shutil.copytree(tree / "kernels", tmp_path / "borrowed_losses", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("without", [set(), {"triton"}], ids=["as installed", "without triton"])
def test_copied_kernels_need_nothing_but_torch(copied_kernels: Path, without: set[str]):
    printed = run_blocked("borrowed_losses", EVERYTHING_ELSE | without, [copied_kernels])
    assert str(copied_kernels) in printed


def test_rst_runs_without_triton(tree: Path):
    """As on macOS and Windows, where Triton has no wheels."""
    run_blocked("rst.kernels", {"triton"}, [tree], more="import rst.detectors\n")


def test_blocker_blocks(tmp_path: Path):
    code = PRELUDE.format(blocked={"torch"}) + "import torch\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "blocked by the test" in done.stderr
