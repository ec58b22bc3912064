"""The backends: which modules implement the two sets of passes of `passes.py`."""

from typing import Literal, NamedTuple

from . import reference_passes, torch_breakpoints, torch_pairs
from .passes import LogitPasses, PairPasses

BackendName = Literal["auto", "triton", "torch", "reference"]
AlgorithmName = Literal["auto", "tiled", "breakpoints"]


class Backend(NamedTuple):
    """The code that runs the passes of a loss."""

    logits: LogitPasses  # count, scatter
    pairs: PairPasses  # sorting_sums, sorting_demotion, weigh_positives


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference_passes, reference_passes),
    "torch": Backend(torch_breakpoints, torch_pairs),
}
try:  # there is no Triton for macOS and Windows
    from . import triton_breakpoints, triton_pairs, triton_tiled
    from .triton_step import INTERPRETED
except ImportError:
    HAS_TRITON = INTERPRETED = False
else:
    HAS_TRITON = True
    BACKENDS["triton, tiled"] = Backend(triton_tiled, triton_pairs)
    BACKENDS["triton, breakpoints"] = Backend(triton_breakpoints, triton_pairs)
