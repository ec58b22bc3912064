"""Which code counts and scatters: one interface, one entry for each implementation, and the rule that picks one.

R  positives asked about      P  positives of `examples`      M  all logits
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from . import dense_passes, pairs, portable
from .pairs import SortingSums
from .targets import Examples, Masses

try:  # there is no Triton for macOS and Windows
    from . import breakpoints, columns, rows  # type: ignore
except ImportError:
    breakpoints = columns = rows = None

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
        portable.count, portable.scatter_to_logits, pairs.sorting_sums, pairs.sorting_demotion, pairs.weigh_positives
    ),
    "reference": Backend(
        dense_passes.count,
        dense_passes.scatter_to_logits,
        dense_passes.sorting_sums,
        dense_passes.sorting_demotion,
        dense_passes.weigh_positives,
    ),
}
if rows is not None and columns is not None and breakpoints is not None:
    among_positives = rows.sorting_sums, columns.sorting_demotion, rows.weigh_positives
    BACKENDS["triton, tiled"] = Backend(rows.count, columns.scatter_to_logits, *among_positives)
    BACKENDS["triton, breakpoints"] = Backend(breakpoints.count, breakpoints.scatter_to_logits, *among_positives)


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
        runs = rows is not None and logits.device.type in ("cuda", "xpu") and logits.dtype != torch.float64
        backend = "triton" if runs else "torch"
    if backend == "reference":
        if algorithm != "auto":
            raise ValueError(f"algorithm: backend 'reference' has none to choose from, got {algorithm!r}")
        return backend
    if backend == "torch":
        if algorithm == "tiled":
            raise ValueError("algorithm: 'tiled' needs backend 'triton', and this is 'torch'")
        return backend
    if rows is None:
        raise ValueError("backend: 'triton' needs the package triton, which cannot be imported here")
    if logits.dtype == torch.float64:
        raise ValueError("backend: 'triton' computes in float32 and the logits are float64; use 'torch'")
    if logits.device.type == "cpu" and not rows.INTERPRETED:
        raise ValueError("backend: 'triton' needs logits on a GPU (or TRITON_INTERPRET=1), got cpu")
    if algorithm == "auto":
        few = positives <= TILED_POSITIVES or positives * size <= TILED_PAIRS
        algorithm = "tiled" if few else "breakpoints"
    return f"triton, {algorithm}"
