"""What runs when in one forward and backward of rank_sort: launches of a GPU, or operators of a CPU.

python -m gpu_run.timeline FOLDER SHAPE ...     writes timeline.json and a Chrome trace for each shape

Sparse targets, stage "early". The trace opens in chrome://tracing or https://ui.perfetto.dev.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, OURS
from device import DEVICE, ON_GPU
from shapes import SHAPES, SWEEP_STAGE, sample
from torch.profiler import ProfilerActivity, profile

from .source import slug

WARM_UP = 5  # runs before the one that is recorded


def record(shape: str, trace: Path) -> dict[str, Any]:
    """Times in microseconds. Of a GPU every launch with its start; of a CPU every operator with its own time."""
    data = sample(SHAPES[shape], SWEEP_STAGE, DEVICE)
    run = CONTENDERS[OURS].run
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_GPU
    for _ in range(WARM_UP):
        run(data)
    with profile(activities=activities):  # the first recording of a process starts the profiler's own machinery
        run(data)
        _wait()
    with profile(activities=activities) as profiler:
        run(data)
        _wait()
    profiler.export_chrome_trace(str(trace))
    found: dict[str, Any] = {"shape": shape, "trace": trace.name, "launches": [], "operators": []}
    if ON_GPU:
        events = [event for event in profiler.events() or () if event.device_type.name == "CUDA"]
        events.sort(key=lambda event: event.time_range.start)
        first = events[0].time_range.start if events else 0
        found["launches"] = [
            {
                "name": event.name,
                "start": event.time_range.start - first,
                "duration": event.time_range.end - event.time_range.start,
            }
            for event in events
        ]
    else:
        found["operators"] = [
            {"name": entry.key, "calls": entry.count, "own": entry.self_cpu_time_total}
            for entry in sorted(profiler.key_averages(), key=lambda entry: -entry.self_cpu_time_total)
        ]
    return found


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recorded = [record(shape, folder / f"{slug(shape)}.json.gz") for shape in sys.argv[2:]]
    (folder / "timeline.json").write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"time lines of {len(recorded)} shapes: {folder}")
