"""Peak memory on the CPU beyond inputs and gradient, each in a process of its own.

On a GPU every timed run has the allocator's peak in its `extra_info` already.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from contenders import BUCKETED, COMPILED_FOCAL, CONTENDERS, HERE, LOOP, MATRIX, OURS, OURS_DENSE
from device import ON_GPU
from shapes import ATSS, RPN, SHAPES, SWEEP_STAGE, sample

pytestmark = pytest.mark.skipif(
    ON_GPU or not Path("/proc/self/clear_refs").exists(),
    reason="for a CPU under Linux, which counts the peak of a process",
)

# rst at every shape; all contenders at the most logits; those that compare pairs where pairs are many or matrices fit
COMPARING = [OURS_DENSE, LOOP, MATRIX, BUCKETED]
PEERS = {
    RPN: COMPARING,
    ATSS: [name for name in HERE if name not in (OURS, COMPILED_FOCAL)],  # the compiler's memory is not the loss's
    "pixels, P 20,000": COMPARING,
}
CASES = [(shape, name) for shape in SHAPES for name in (OURS, *PEERS.get(shape, []))]


@pytest.mark.parametrize(("shape", "contender"), CASES)
def test_peak_beyond_inputs_and_gradient(benchmark, facts, shape, contender):
    where = SHAPES[shape]
    place = {"table": "memory", "shape": shape, "stage": SWEEP_STAGE, "contender": contender}
    if contender not in (OURS, OURS_DENSE):
        reason = CONTENDERS[contender].obstacle(sample(where, SWEEP_STAGE))
        if reason:
            facts["left_out"].append({**place, "reason": reason})
            pytest.skip(f"{contender} left out: {reason}")
    script = Path(__file__).with_name("memory.py")
    command = [sys.executable, str(script), contender, str(where.positives), str(where.negatives)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    benchmark.group = "peak memory beyond inputs and gradient (the time is that of a whole process)"
    run = benchmark.pedantic(
        subprocess.run, (command,), {"capture_output": True, "text": True, "env": environment}, rounds=1
    )
    assert run.returncode == 0, run.stderr
    benchmark.extra_info.update(
        **place, kind=CONTENDERS[contender].kind, logits=where.positives + where.negatives, peak_mib=float(run.stdout)
    )
