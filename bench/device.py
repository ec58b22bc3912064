"""The measured device: its clock, its caches, its memory and its bandwidth.

On a GPU, time is the time between two events in the device's queue. Before every round the caches are overwritten. This
takes long enough for the host to queue the whole round meanwhile, as in training, where the host runs ahead. If the
contender makes the host wait (for example by reading a value), the wait counts in full. `wall_seconds` measures on the
host's clock, from an idle device to an idle device. `host_seconds` measures how long the host is busy: from an idle
device until the last launch is queued.

On a CPU, time is the wall clock's, and the caches are not cleared.
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
COLD_WRITES = 64  # of a buffer of at least 256 MiB: 6 ms on an H100, more than the host needs for any loss but the loop
COPIED = 2**26 if DEVICE.type == "cpu" else 2**28  # float32 values: beyond all caches
CPU_MATRIX_BYTES = 4 * 2**30
GPU_MATRIX_SHARE = 0.6
WALL_ROUNDS = 5
HOST_ROUNDS = 25
WALL_BUDGET = 2.0  # seconds of these rounds together


class Instant:
    """A point in the device's queue. The difference of two is in seconds; reading it waits for the later one."""

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
    """Overwrites a GPU's caches and fills its queue. Does nothing on a CPU."""
    if ON_GPU:
        for _ in range(COLD_WRITES):
            _cold_buffer().zero_()


@lru_cache
def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a copy between two tensors larger than the caches. Measured once."""
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


def host_seconds(run: Callable[[], object]) -> float:
    """Median seconds until the last launch of `run` is queued, from an idle GPU. A wait inside `run` counts."""
    seconds = []
    while len(seconds) < HOST_ROUNDS and sum(seconds) < WALL_BUDGET:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return median(seconds)


def peak_bytes(run: Callable[[], Tensor]) -> int:
    """Peak bytes allocated on a GPU by `run`, without what was allocated before and the gradient it returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradient = run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - gradient.nbytes


@lru_cache
def matrix_bound() -> int:
    """A contender whose matrices of pairs take more bytes than this is left out."""
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
