"""The dry run of `make gpu`: every kind of part for real, on a CPU, as a cluster would start it."""

import json
import os
import subprocess
import sys

import pytest
from gpu_run.source import TREE


@pytest.mark.slow
def test_dry_run_and_its_second_run(tmp_path):
    state, results = tmp_path / "state", tmp_path / "results"
    kept = {path: path.stat().st_mtime_ns for path in (TREE / "bench" / "results").rglob("*")}
    flags = f"--dry-run --state {state} --results {results}"
    command = ["make", "--no-print-directory", "gpu", f"PYTHON={sys.executable}", f"GPU_FLAGS={flags}"]
    # a process of its own, whatever runs this one; the interpreter is another process's business
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "TRITON_", "MAKE"))}
    variables["OMP_NUM_THREADS"] = "1"

    def run() -> str:
        done = subprocess.run(command, cwd=TREE, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = run()
    (report,) = results.glob("*.md")
    text = report.read_text()
    (folder,) = state.iterdir()
    assert report.stem == folder.name
    assert folder.name.startswith("cpu-")
    assert "Written by `make gpu, a dry run: no figure means anything`." in text
    for row in ("tests", "heads-1", "timeline", "training"):
        assert any(line.startswith(f"| {row} |") and "| passed |" in line for line in text.splitlines())
    assert "compute-sanitizer" in text
    assert "nvidia-smi" in text
    assert "### DETR decoder: 96,030 logits, 30 positives" in text
    assert "calls of operators." in text
    assert "| AP | AP50 | AP75 | oLRP |" in text
    assert list(results.glob("*/*.png"))
    (timeline,) = json.loads((folder / "timeline" / "timeline.json").read_text())
    assert (folder / "timeline" / timeline["trace"]).stat().st_size > 1000
    assert printed.rstrip().endswith(f"report: {report}")
    tail = printed[printed.rindex("## Goals") :]
    assert "## Parts" in tail, "the tables last"
    assert {path: path.stat().st_mtime_ns for path in (TREE / "bench" / "results").rglob("*")} == kept

    again = run()
    assert again.count("done before") == 4
    assert "passed in" not in again, "no pytest ran"
