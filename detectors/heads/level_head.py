"""What a dense detector asks of its head, which all levels share.

n  images    A  anchors per cell    K  outputs of the classifier    H, W  cells of a level
"""

from abc import ABC
from typing import ClassVar, Protocol

from torch import Tensor, nn


class LevelOutputs(Protocol):
    """Maps of every level, as the convolutions return them."""

    @property
    def logits(self) -> list[Tensor]:
        """(n, A K, H, W) each."""
        ...

    @property
    def deltas(self) -> list[Tensor]:
        """(n, 4 A, H, W) each."""
        ...

    @property
    def auxiliary(self) -> list[Tensor] | None:
        """(n, A, H, W) logits each, scores that an auxiliary head predicts; None without one."""
        ...


class LevelHead(nn.Module, ABC):
    """Makes `LevelOutputs` of levels (n, F, H, W), finest first."""

    auxiliary: str | None = None  # what the auxiliary head predicts: "centerness" or "iou"
    has_background: ClassVar[bool] = False  # whether it can have outputs beyond the classes
