"""The device that is measured: its clock, its cold caches, its memory and its bandwidth.

On a GPU time is read by events in the queue of the device, never by the host's clock. Before every round the caches
are overwritten, often enough to keep the device busy while the host queues what is measured: in training, too, the host
runs ahead. What makes the host wait, such as a look at a value, is measured in full. `wall_seconds` tells the rest: the
time from an idle device to an idle device on the host's clock.

On a CPU it is the wall clock, and the caches are left as the round before left them.
"""

import os
import platform
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
COLD_WRITES = 16  # of a buffer of at least 256 MiB: a millisecond or more on any GPU
COPIED = 2**26 if DEVICE.type == "cpu" else 2**28  # float32 values: beyond all caches
CPU_MATRIX_BYTES = 4 * 2**30
GPU_MATRIX_SHARE = 0.6
WALL_ROUNDS = 5
WALL_BUDGET = 2.0  # seconds of these rounds together


class Instant:
    """A place in the device's queue. The difference of two is seconds, and waits for the later one."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, earlier: "Instant") -> float:
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1e3


def device_clock() -> Instant:
    """Now, in the queue of the GPU."""
    return Instant()


CLOCK: Callable = device_clock if ON_GPU else time.perf_counter


@lru_cache
def _cold_buffer() -> Tensor:
    size = max(2 * torch.cuda.get_device_properties(DEVICE).L2_cache_size, 2**28)
    return torch.empty(size, dtype=torch.uint8, device=DEVICE)


def before_round() -> None:
    """Leaves a GPU's caches full of other things, and its queue full of work; nothing on a CPU."""
    if ON_GPU:
        for _ in range(COLD_WRITES):
            _cold_buffer().zero_()


@lru_cache
def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy between two tensors beyond the caches: measured once a session."""
    source = torch.ones(COPIED, device=DEVICE)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(9):
        before_round()
        begin = CLOCK()
        target.copy_(source)
        seconds.append(CLOCK() - begin)
    return 2 * source.nbytes / median(seconds[2:])


def wall_seconds(run: Callable[[], object]) -> float:
    """Median seconds from an idle GPU to an idle GPU, on the host's clock."""
    seconds = []
    while len(seconds) < WALL_ROUNDS and sum(seconds) < WALL_BUDGET:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def peak_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes allocated on a GPU at the peak of `run`, beyond what was there before and the gradient it returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradient = run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - gradient.nbytes


@lru_cache
def matrix_bound() -> int:
    """Bytes that matrices of pairs may take before their contender is left out."""
    if ON_GPU:
        return int(GPU_MATRIX_SHARE * torch.cuda.get_device_properties(DEVICE).total_memory)
    return CPU_MATRIX_BYTES


@lru_cache
def device_name() -> str:
    """The GPU if there is one, else the processor, with its cores."""
    if ON_GPU:
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
