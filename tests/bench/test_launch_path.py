"""`bench/launch_path.py` runs without a GPU, and finds every launch of a loss."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
def test_it_times_every_launch(tree: Path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(tree / "bench/launch_path.py"), "--repeats", "2"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    one, five = printed.split("rank_sort, ")[1:]
    kernels = [re.findall(r"^  (\w+_kernel) +\d+\.\d$", part, re.MULTILINE) for part in (one, five)]
    assert kernels[0] == kernels[1]
    assert len(kernels[0]) == 11
    assert kernels[0][-1] == "place_kernel"
    assert re.search(r"^  all else +\d+\.\d$", five, re.MULTILINE)
