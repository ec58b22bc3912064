"""The objects of a batch, as every part of a detector sees them in a training step.

n  images    G  objects of an image    M  objects of the batch, all G together    H, W  pixels of the padded batch
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Boxes, labels and perhaps masks, image by image; a match counts them through the batch, image after image."""

    boxes: Sequence[Tensor]  # per image (G, 4) float32 XYXY pixels
    labels: Sequence[Tensor]  # per image (G,) int64
    masks: Sequence[Tensor] | None = None  # per image (G, H, W) bool or uint8; None: the detector has no masks

    @classmethod
    def of(cls, targets: Sequence[Mapping[str, Tensor]]) -> "GroundTruth":
        """Of checked targets."""
        masks = [target["masks"] for target in targets] if targets and "masks" in targets[0] else None
        return cls([target["boxes"] for target in targets], [target["labels"] for target in targets], masks)

    @cached_property
    def all_boxes(self) -> Tensor:
        """(M, 4) float32."""
        return torch.cat(list(self.boxes))

    @cached_property
    def all_labels(self) -> Tensor:
        """(M,) int64."""
        return torch.cat(list(self.labels))

    @cached_property
    def image(self) -> Tensor:
        """The image of each object, (M,) int64."""
        return torch.cat([boxes.new_full((len(boxes),), i, dtype=torch.int64) for i, boxes in enumerate(self.boxes)])


NO_TRUTH = GroundTruth((), ())  # of an evaluation
