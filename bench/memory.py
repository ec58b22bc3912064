"""Peak memory of the loss beyond its inputs and its gradient, as the operating system counts it, in a fresh process.

python bench/memory.py [LOGITS] [POSITIVES]     prints MiB
"""

import resource
import sys
from pathlib import Path

import torch

from rst.kernels import SparseTargets, rank_sort

PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak() -> int:
    """Bytes of this process in memory at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: int, positives: int) -> float:
    """MiB at the peak of forward and backward, less what was there before and less the gradient."""
    warm = torch.randn(1000, requires_grad=True)  # what torch loads once is not the loss's
    sum(rank_sort(warm, SparseTargets(torch.arange(20), torch.full((20,), 0.5)))).backward()

    logits = torch.empty(size).normal_().requires_grad_()
    index = torch.arange(positives) * (size // positives)
    targets = SparseTargets(index, torch.full((positives,), 0.7))
    before = resident()
    if peak() - before > 8 << 20:
        raise RuntimeError("the inputs peaked above what they keep: the figure would be too small")
    loss = rank_sort(logits, targets)
    (loss.ranking + loss.sorting).backward()
    assert logits.grad is not None
    return (peak() - before - logits.grad.nbytes) / 2**20


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [20_000_000, 1500]
    print(f"{measure(*sizes):.1f}")
