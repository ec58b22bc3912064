"""How far a loss is spread over the files of kernels/, and what the tests of this folder rely on."""

import re
import sys
from pathlib import Path

import pytest
import torch
from rank_sort_cases import BACKENDS, named, random_ranking

from rst import kernels
from rst.kernels import rank_sort

FOLDER = Path(kernels.__file__).parent
TREE = Path(__file__).parents[2]
MOST_FILES = {"torch": 16, "triton tiled": 18, "triton breakpoints": 22}


@pytest.mark.parametrize("backend", [name for name, device in BACKENDS if device == "cpu" and name != "reference"])
def test_a_loss_enters_few_files(backend):
    """A reader who follows rank_sort forward and backward opens no more files than these."""
    ranking = random_ranking(0, 500, 20)
    logits = ranking.logits.requires_grad_()
    entered = set()
    sys.setprofile(lambda frame, event, _: entered.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        sum(rank_sort(logits, ranking.targets, **named(backend))).backward()
    finally:
        sys.setprofile(None)
    files = sorted(path.name for path in map(Path, entered) if path.parent == FOLDER)
    assert "autograd.py" in files
    assert len(files) <= MOST_FILES[backend], files


def test_unwritten_memory_is_nan():
    assert torch.empty(3).isnan().all()
    assert torch.ones(3).new_empty(3).isnan().all()
    assert torch.empty_like(torch.ones(3)).isnan().all()


def test_the_readme_names_every_file():
    text = (TREE / "kernels" / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in (TREE / "kernels").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", text)) == files
