"""Forward and backward of a ranking, captured once in a CUDA graph and replayed. Needs a GPU.

A capture that fails is a row "not captured" with its reason, and never the end of a session.
"""

from collections.abc import Callable

import torch
from peers import Outcome
from shapes import Sample

WARM_UP = 3  # runs before the capture: they compile kernels and take memory

_captured: list[tuple[Sample, torch.cuda.CUDAGraph, Outcome]] = []  # the last one


def replayed(data: Sample, run: Callable[[], Outcome]) -> Outcome:
    """Replays the graph of `run` on `data`, captured by the first call. The outcome is the same memory every time."""
    if not _captured or _captured[0][0] is not data:
        _captured.clear()  # its memory is free before the next capture
        _captured.append((data, *_capture(run)))
    _, graph, outcome = _captured[0]
    graph.replay()
    return outcome


def capture_obstacle(data: Sample, run: Callable[[], Outcome]) -> str | None:
    """Captures; returns why that failed, or None."""
    try:
        replayed(data, run)
        torch.cuda.synchronize()
    except Exception as error:  # whatever the driver refuses: the row says so
        _captured.clear()
        return f"not captured: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def _capture(run: Callable[[], Outcome]) -> tuple[torch.cuda.CUDAGraph, Outcome]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = run()
    return graph, outcome
