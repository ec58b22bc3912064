"""The backends, and what each of them does for a loss.

P  positives of this process      S  segments, the rankings of one call
"""

from typing import Any, Literal, Protocol

from torch import Tensor
from torch.distributed import ProcessGroup

from . import reference_passes, torch_breakpoints, torch_pairs
from .by_passes import ByPasses
from .scores import Loss
from .targets import Ranking

BackendName = Literal["auto", "triton", "torch", "reference"]
AlgorithmName = Literal["auto", "tiled", "breakpoints"]


class Backend(Protocol):
    """The code that evaluates a loss."""

    def forward(
        self,
        loss: Loss,
        ranking: Ranking,
        delta: float,
        process_group: ProcessGroup | None,
        errors: Tensor | None,  # (P,) localisation errors, of aLRP alone
    ) -> tuple[list[Tensor], list[Tensor], Any]:
        """The values of the loss's parts, () or (S,) each; the tensors that `backward` needs; and what else it needs.

        The parts are those of the updates, and with `errors` the localisation part.
        """
        ...

    def backward(
        self,
        ranking: Ranking,
        saved: list[Tensor],
        kept: Any,
        upstream: list[Tensor | None],  # of each part, () or (S,)
        delta: float,
    ) -> tuple[list[Tensor], Tensor | None]:
        """The gradient (n,) of each level, and that (P,) of the localisation errors."""
        ...


BACKENDS: dict[str, Backend] = {
    "reference": ByPasses(reference_passes, reference_passes),
    "torch": ByPasses(torch_breakpoints, torch_pairs),
}
try:  # there is no Triton for macOS and Windows
    from .on_triton import OnTriton
    from .triton_step import INTERPRETED
except ImportError:
    HAS_TRITON = INTERPRETED = False
else:
    HAS_TRITON = True
    BACKENDS["triton, tiled"] = OnTriton("tiled")
    BACKENDS["triton, breakpoints"] = OnTriton("breakpoints")
