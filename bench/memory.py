"""Peak memory of a contender on the CPU beyond its inputs and its gradient, as the operating system counts it.

python bench/memory.py CONTENDER POSITIVES NEGATIVES     prints MiB at the stage "early"; Linux only

One process for one figure: what an allocator keeps from before cannot hide.
"""

import ctypes
import sys
from pathlib import Path

import torch
from contenders import CONTENDERS
from shapes import SWEEP_STAGE, Shape, Stage, sample


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) * 1024


def forget_peak() -> None:
    """Begin a new peak; a process starts with that of the one that started it."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(contender: str, shape: Shape, stage: Stage) -> float:
    """MiB at the peak of forward and backward, less what was there before and less the gradient."""
    run = CONTENDERS[contender].run
    run(sample(Shape(20, 1000), stage))  # what torch loads once is not the loss's,
    torch.zeros(1_000_000).sin_().sum()  # nor are its threads
    data = sample(shape, stage)
    ctypes.CDLL(None).malloc_trim(0)  # memory that making the sample has freed would take up the loss's own unseen
    forget_peak()
    before = memory("VmRSS")
    gradient = run(data).gradient
    return (memory("VmHWM") - before - gradient.nbytes) / 2**20


if __name__ == "__main__":
    contender, positives, negatives = sys.argv[1:]
    print(f"{measure(contender, Shape(int(positives), int(negatives)), SWEEP_STAGE):.1f}")
