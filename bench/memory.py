"""Peak memory of the loss beyond its inputs and its gradient, as the operating system counts it, in a fresh process.

python bench/memory.py [LOGITS] [POSITIVES]     prints MiB
"""

import sys
from pathlib import Path

import torch

from rst.kernels import SparseTargets, rank_sort


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) * 1024


def forget_peak() -> None:
    """Begin a new peak; a process starts with that of the one that started it."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(size: int, positives: int) -> float:
    """MiB at the peak of forward and backward, less what was there before and less the gradient."""
    warm = torch.randn(1000, requires_grad=True)  # what torch loads once is not the loss's
    sum(rank_sort(warm, SparseTargets(torch.arange(20), torch.full((20,), 0.5)))).backward()

    logits = torch.empty(size).normal_().requires_grad_()
    index = torch.arange(positives) * (size // positives)
    targets = SparseTargets(index, torch.full((positives,), 0.7))
    forget_peak()
    before = memory("VmRSS")
    loss = rank_sort(logits, targets)
    (loss.ranking + loss.sorting).backward()
    assert logits.grad is not None
    return (memory("VmHWM") - before - logits.grad.nbytes) / 2**20


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [20_000_000, 1500]
    print(f"{measure(*sizes):.1f}")
