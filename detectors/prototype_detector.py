"""A dense detector whose masks are sums of prototypes: YOLACT's training step and its evaluation.

n  images    C  classes    A  anchors per cell    k  prototypes    T  positives with a mask    R  candidates of an image
h, w  cells of a prototype    H, W  cells of a level
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rst.kernels import gather_levels

from .assignment.scene import Scene
from .dense_detector import DenseDetector, PositiveAnchors
from .detections.paste import upsampled_masks
from .detections.select import Detections
from .features.inputs import Batch, NormalizeAndPad
from .geometry.ground_truth import GroundTruth
from .geometry.layout import MapLayout
from .geometry.masks import combine, shrink_masks
from .heads.decode import take
from .heads.level_head import LevelOutputs
from .heads.prototypes import PROTOTYPE_SCALE, PrototypeHead, PrototypeOutputs, PrototypeSettings
from .losses.contract import HeadLosses
from .losses.prototype_masks import PrototypeMasks, semantic_cross_entropy
from .losses.tasks import Task


class PrototypeDetector(DenseDetector):
    """A `DenseDetector` with a `PrototypeHead`. Images of a batch are padded to the largest of them, and no further.

    Args:
        masks: of the head: how many positives train masks, and the threshold.
        semantic_weight: of the loss of the head's semantic segmentation, if it has one.
        parts: positional and keyword arguments of `DenseDetector`.
    """

    scale_argument: ClassVar[str] = "anchor_scale"
    ratios_argument: ClassVar[str] = "anchor_ratios"
    head: PrototypeHead

    def __init__(self, *parts: Any, masks: PrototypeSettings, semantic_weight: float = 1.0, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.transform = NormalizeAndPad(self.anchors.padding)
        self.iou_types = ("bbox", "segm")
        self.masks, self.semantic_weight = masks, semantic_weight

    @property
    def level_stride(self) -> int:
        """Pixels of a cell of the finest level."""
        return self.anchors.strides[0]

    @property
    def prototype_stride(self) -> int:
        """Pixels of a cell of the prototypes."""
        return self.level_stride // PROTOTYPE_SCALE

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        outputs: PrototypeOutputs = self.head(list(features.values()))
        scene = self.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size, truth)
        found = self.dense_losses(outputs, scene)
        if outputs.semantic is not None:
            assert truth.masks is not None
            size = (outputs.semantic.shape[-2], outputs.semantic.shape[-1])
            masks = [shrink_masks(of_image, self.level_stride, size) for of_image in truth.masks]
            entropy = semantic_cross_entropy(outputs.semantic, masks, truth.labels)
            found = found._replace(terms=found.terms | {"semantic": self.semantic_weight * entropy})
        return {"dense": found}

    def tasks(self, predicted: LevelOutputs, scene: Scene, positives: PositiveAnchors) -> dict[str, Task]:
        """Boxes and masks; of the masks at most `masks.limit`."""
        tasks = super().tasks(predicted, scene, positives)
        assert isinstance(predicted, PrototypeOutputs)
        assert scene.truth.masks is not None
        image, anchor, truth = positives
        kept = None
        if self.masks.limit is not None and len(image) > self.masks.limit:
            kept = torch.randperm(len(image), dtype=torch.int64, device=image.device)[: self.masks.limit].sort().values
            image, anchor, truth = image[kept], anchor[kept], truth[kept]
        size = (predicted.prototypes.shape[-2], predicted.prototypes.shape[-1])
        tasks["mask"] = PrototypeMasks(
            coefficients=gather_levels(predicted.coefficients, scene.layout.place(image, anchor, self.masks.count)),
            maps=predicted.prototypes,
            counts=torch.bincount(image, minlength=scene.layout.images).tolist(),
            truth=truth,
            objects=torch.cat([shrink_masks(own, self.prototype_stride, size) for own in scene.truth.masks]),
            boxes=scene.truth.all_boxes / self.prototype_stride,
            kept=kept,
        )
        return tasks

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """Detections as of any dense detector; their masks upsampled bilinearly and cut to the box."""
        outputs: PrototypeOutputs = self.head(list(features.values()))
        candidates = self.candidates(outputs)
        layout = MapLayout.of(outputs.logits, self.anchors.per_cell)
        levels = zip(outputs.coefficients, candidates.chosen, strict=True)
        coefficients = torch.cat([take(level, chosen, layout) for level, chosen in levels], dim=1)  # (n, R, k)
        found = self.select(candidates, batch)
        return [
            self._with_masks(*of_image)
            for of_image in zip(found, coefficients, outputs.prototypes, batch.sizes, strict=True)
        ]

    def _with_masks(
        self,
        found: Detections,
        coefficients: Tensor,  # (R, k)
        prototypes: Tensor,  # (k, h, w)
        shape: tuple[int, int],
    ) -> Detections:
        """The detections of an image of that height and width, with their masks."""
        own = coefficients[found.candidate]
        masks = upsampled_masks(
            lambda some: combine(own[some], prototypes).sigmoid(),
            found.boxes,
            shape,
            self.prototype_stride,
            self.masks.threshold,
        )
        return found._replace(masks=masks)
