"""Peak memory of the loss at the size of a dense head, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("size", [5_000_000, 20_000_000])
def test_peak_beyond_inputs_and_gradient(benchmark, size):
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), str(size), "1500"]
    benchmark.group = "peak memory beyond inputs and gradient (the time is a whole process's)"
    run = benchmark.pedantic(
        subprocess.run, (command,), {"capture_output": True, "text": True, "check": True}, rounds=1
    )
    benchmark.extra_info.update(contender="rst, sparse targets", logits=size, peak_mib=float(run.stdout))
