"""Which code counts and scatters: one interface, one entry for each implementation, and the rule that picks one.

R  positives asked about      P  positives of `examples`      M  all logits
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from . import reference_passes, torch_breakpoints, torch_pairs
from .targets import Examples, Masses
from .torch_pairs import SortingSums

try:  # there is no Triton for macOS and Windows
    from . import triton_breakpoints, triton_pairs, triton_tiled  # type: ignore
except ImportError:
    triton_breakpoints = triton_pairs = triton_tiled = None

BackendName = Literal["auto", "triton", "torch", "reference"]
AlgorithmName = Literal["auto", "tiled", "breakpoints"]

# What "auto" walks in tiles: as many positives as one block of rows has, or so few pairs that launches cost more than
# they do. Reckoned from the operations of both, not measured.
TILED_POSITIVES = 16
TILED_PAIRS = 1 << 26


@dataclass(frozen=True)
class Backend:
    """The passes of a ranking loss; `rows`, `own`, `positives` and `quality` come in the computing dtype.

    `rows` are the positives that are asked about, `own` those among `examples`; both are the same unless one ranking
    spans several processes.
    """

    # (rows (R,), own (P,), examples, delta) -> (R,) float64 each, NaN throughout if a logit that is not ignored is NaN
    count: Callable[[Tensor, Tensor, Examples, float], Masses]
    # (weights (R,) float64, rows (R,), examples, delta, out (M,), poison ()) -> None; writes all of out
    scatter_to_logits: Callable[[Tensor, Tensor, Examples, float, Tensor, Tensor], None]
    # (positives (P,), quality (P,), delta) -> sums (P,) each
    sorting_sums: Callable[[Tensor, Tensor, float], SortingSums]
    # (spread (P,), positives (P,), quality (P,), delta) -> (P,)
    sorting_demotion: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    # (values (P,), positives (P,), delta) -> (P,) float64
    weigh_positives: Callable[[Tensor, Tensor, float], Tensor]


BACKENDS = {
    "torch": Backend(
        torch_breakpoints.count,
        torch_breakpoints.scatter_to_logits,
        torch_pairs.sorting_sums,
        torch_pairs.sorting_demotion,
        torch_pairs.weigh_positives,
    ),
    "reference": Backend(
        reference_passes.count,
        reference_passes.scatter_to_logits,
        reference_passes.sorting_sums,
        reference_passes.sorting_demotion,
        reference_passes.weigh_positives,
    ),
}
if triton_tiled is not None and triton_pairs is not None and triton_breakpoints is not None:
    among_positives = triton_tiled.sorting_sums, triton_pairs.sorting_demotion, triton_tiled.weigh_positives
    BACKENDS["triton, tiled"] = Backend(triton_tiled.count, triton_pairs.scatter_to_logits, *among_positives)
    BACKENDS["triton, breakpoints"] = Backend(
        triton_breakpoints.count, triton_breakpoints.scatter_to_logits, *among_positives
    )


def choose_backend(backend: BackendName, algorithm: AlgorithmName, logits: Tensor, positives: int, size: int) -> str:
    """A key of `BACKENDS` for `positives` among `size` logits like `logits`.

    Backend "auto" takes Triton on GPUs for logits of up to 32 bits and torch operators everywhere else. Algorithm
    "auto" takes tiles for few positives or few pairs, and breakpoints otherwise.
    """
    if backend not in ("auto", "triton", "torch", "reference"):
        raise ValueError(f"backend: expected 'auto', 'triton', 'torch' or 'reference', got {backend!r}")
    if algorithm not in ("auto", "tiled", "breakpoints"):
        raise ValueError(f"algorithm: expected 'auto', 'tiled' or 'breakpoints', got {algorithm!r}")
    if backend == "auto":
        runs = triton_tiled is not None and logits.device.type in ("cuda", "xpu") and logits.dtype != torch.float64
        backend = "triton" if runs else "torch"
    if backend == "reference":
        if algorithm != "auto":
            raise ValueError(f"algorithm: backend 'reference' has none to choose from, got {algorithm!r}")
        return backend
    if backend == "torch":
        if algorithm == "tiled":
            raise ValueError("algorithm: 'tiled' needs backend 'triton', and this is 'torch'")
        return backend
    if triton_tiled is None:
        raise ValueError("backend: 'triton' needs the package triton, which cannot be imported here")
    if logits.dtype == torch.float64:
        raise ValueError("backend: 'triton' computes in float32 and the logits are float64; use 'torch'")
    if logits.device.type == "cpu" and not triton_tiled.INTERPRETED:
        raise ValueError("backend: 'triton' needs logits on a GPU (or TRITON_INTERPRET=1), got cpu")
    if algorithm == "auto":
        few = positives <= TILED_POSITIVES or positives * size <= TILED_PAIRS
        algorithm = "tiled" if few else "breakpoints"
    return f"triton, {algorithm}"
