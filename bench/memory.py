"""Peak memory of a contender on the CPU, without its inputs and its gradient, as the operating system counts it.

python bench/memory.py CONTENDER POSITIVES NEGATIVES     prints MiB at the stage "early"; Linux only

Each measurement has a process of its own, so that memory which an allocator kept from before cannot hide a peak.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import CONTENDERS
from shapes import SWEEP_STAGE, Shape, Stage, sample


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the peak since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) * 1024


def forget_peak() -> None:
    """Start a new peak. A new process inherits the peak of its parent."""
    Path("/proc/self/clear_refs").write_text("5")


def settled_memory() -> int:
    """Bytes of this process, without what Python and the allocator keep: new tensors could lie in that, unseen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory("VmRSS")


def rise(run: Callable[[], object], before: int) -> float:
    """MiB of this process at the peak of a call, beyond `before` bytes."""
    settled_memory()
    forget_peak()
    run()
    return (memory("VmHWM") - before) / 2**20


def measure(contender: str, shape: Shape, stage: Stage) -> float:
    """MiB at the peak of forward and backward, minus the memory before it and minus the gradient."""
    run = CONTENDERS[contender].run
    # What torch loads once, and its threads, are not the loss's
    run(sample(Shape(20, 1000), stage))
    torch.zeros(1_000_000).sin_().sum()
    data = sample(shape, stage)
    before = settled_memory()
    forget_peak()
    gradient = run(data).gradient
    return (memory("VmHWM") - before - gradient.nbytes) / 2**20


if __name__ == "__main__":
    contender, positives, negatives = sys.argv[1:]
    print(f"{measure(contender, Shape(int(positives), int(negatives)), SWEEP_STAGE):.1f}")
