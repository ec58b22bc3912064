"""Which code counts and scatters: one interface, one entry for each implementation, and the rule that picks one.

P  positives      M  all logits
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import pairs, portable
from .pairs import SortingSums
from .targets import Examples

try:  # there is no Triton for macOS and Windows
    from . import columns, rows  # type: ignore
except ImportError:
    columns = rows = None

BackendName = Literal["auto", "triton", "torch", "reference"]


class Backend(NamedTuple):
    """The four passes of a ranking loss; `positives` and `quality` come in the computing dtype."""

    # (positives (P,), examples, delta) -> (P,) float64, NaN throughout if any logit that is not ignored is NaN
    count_false_positives: Callable[[Tensor, Examples, float], Tensor]
    # (positives (P,), quality (P,), delta) -> sums (P,) each
    sorting_sums: Callable[[Tensor, Tensor, float], SortingSums]
    # (weights (P,) float64, positives (P,), examples, delta, out (M,), poison ()) -> None; writes all of out
    scatter_to_logits: Callable[[Tensor, Tensor, Examples, float, Tensor, Tensor], None]
    # (spread (P,), positives (P,), quality (P,), delta) -> (P,)
    sorting_demotion: Callable[[Tensor, Tensor, Tensor, float], Tensor]


TORCH = Backend(portable.count_false_positives, pairs.sorting_sums, portable.scatter_to_logits, pairs.sorting_demotion)
TRITON = (
    Backend(rows.count_false_positives, rows.sorting_sums, columns.scatter_to_logits, columns.sorting_demotion)
    if rows is not None and columns is not None
    else None
)


def choose_backend(name: BackendName, logits: Tensor) -> Backend | None:
    """The backend for `logits`; None stands for the dense reference.

    `auto` takes Triton on GPUs for logits of up to 32 bits and torch operators everywhere else.
    """
    if name == "reference":
        return None
    if name == "torch":
        return TORCH
    if name == "auto":
        runs = TRITON is not None and logits.device.type in ("cuda", "xpu") and logits.dtype != torch.float64
        return TRITON if runs else TORCH
    if name == "triton":
        if TRITON is None or rows is None:
            raise ValueError("backend: 'triton' needs the package triton, which cannot be imported here")
        if logits.dtype == torch.float64:
            raise ValueError("backend: 'triton' computes in float32 and the logits are float64; use 'torch'")
        if logits.device.type == "cpu" and not rows.INTERPRETED:
            raise ValueError("backend: 'triton' needs logits on a GPU (or TRITON_INTERPRET=1), got cpu")
        return TRITON
    raise ValueError(f"backend: expected 'auto', 'triton', 'torch' or 'reference', got {name!r}")
