"""The kernels, compiled for several GPUs, in a process without Triton's interpreter. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_kernel_compiles_for_every_target(benchmark, facts, tmp_path):
    try:
        import triton  # noqa: F401 - without it the process below would fail
    except ImportError:
        facts["not_measured"]["static evidence"] = "needs the package triton"
        pytest.skip("needs the package triton")
    path = tmp_path / "evidence.json"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(Path(__file__).with_name("static_evidence.py")), str(path)]
    # a session without any benchmark would leave no JSON
    benchmark.group = "static evidence (the time is that of the compiler)"
    run = benchmark.pedantic(
        subprocess.run, (command,), {"env": environment, "capture_output": True, "text": True}, rounds=1
    )
    assert run.returncode == 0, run.stderr
    facts["static_evidence"] = json.loads(path.read_text())
    assert facts["static_evidence"]
