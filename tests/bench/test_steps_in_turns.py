"""`bench/steps_in_turns.py` on a CPU, one step of one detector."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_a_row_for_each_setting_that_runs_here(tree: Path):
    command = [sys.executable, str(tree / "bench/steps_in_turns.py"), "--steps", "1", "SOLOv2", "demo"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
    header, _, *rows = done.stdout.splitlines()
    assert header == "| setting | Rank & Sort, ms | baseline, ms | ratio |"
    assert len(rows) == 1
    row = re.fullmatch(r"\| SOLOv2, demo: .* \| (\d+) \| (\d+) \| (\d\.\d{3}) \|", rows[0])
    assert row is not None
    ours, baseline, ratio = map(float, row.groups())
    assert abs(ours / baseline - ratio) < 0.1, "of one pair"
