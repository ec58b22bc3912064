"""A detector of masks without boxes: each cell of a grid has classes and the kernel of a mask.

n  images    S  cells along a side of a grid    N  cells of an image, all levels    C  classes
E  channels of a kernel    P  positives of the batch
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rst.kernels import gather_levels

from .assignment.grid import GridAssigner, cell_boxes, grid_cells
from .detections.matrix_nms import points_nms
from .detections.select import Detections
from .detections.select_masks import MaskDetectionSettings, select_masks
from .detector import Detector, Positives
from .features.backbones import PyramidBackbone
from .features.inputs import Batch
from .geometry.ground_truth import GroundTruth
from .geometry.layout import MapLayout
from .geometry.mask_shapes import coarse_masks
from .geometry.transfers import constant
from .heads.dynamic_masks import GridHead, GridOutputs, MaskFeatures
from .losses.classifiers import Sigmoid
from .losses.contract import Classification, DetectionLoss, HeadLosses, HeadOutputs
from .losses.dynamic_masks import DynamicMasks
from .losses.score_scaling import ScoreScaling


class GridDetector(Detector):
    """Backbone, pyramid, a `GridHead` and `MaskFeatures` (SOLOv2).

    The grids divide the padded batch, as published: cells in the padding of a smaller image are negatives, and what an
    image's cells see depends on the size of the batch.

    Args:
        backbone: levels 2 to 6 by name from a batch of images.
        head: logits and kernels of every level.
        mask_features: what the kernels make masks of.
        assigner: gives each cell its object.
        loss: of the outputs; its classifier must be a sigmoid.
        num_classes: C.
        detections: which ones are returned.
        soft_masks: whether the masks to learn have shares of cells, see `coarse_masks`.
        score_scaling: of all logits before they become scores, for a loss that ranks; None: there is none.

    Raises:
        ValueError: for a loss that needs a background: the head has none.
    """

    heads: Mapping[str, str] = {"grid": "grid head"}
    iou_types: tuple[str, ...] = ("segm",)

    def __init__(
        self,
        backbone: PyramidBackbone,
        head: GridHead,
        mask_features: MaskFeatures,
        *,
        assigner: GridAssigner,
        loss: DetectionLoss,
        num_classes: int,
        detections: MaskDetectionSettings,
        soft_masks: bool = True,
        score_scaling: ScoreScaling | None = None,
    ) -> None:
        super().__init__(backbone, num_classes)
        if not isinstance(loss.classifier, Sigmoid):
            raise ValueError(f"loss={type(loss).__name__} needs a background; a grid head scores each class by itself")
        self.head = head
        self.mask_features = mask_features
        self.assigner = assigner
        self.loss = loss
        self.detections = detections
        self.soft_masks = soft_masks
        self.score_scaling = score_scaling

    def predict(self, features: Mapping[str, Tensor]) -> GridOutputs:
        """The outputs of the heads."""
        maps = list(features.values())
        logits, kernels = self.head(maps)
        return GridOutputs(logits, kernels, self.mask_features(maps))

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        outputs = self.outputs(self.predict(features), self.assigner(truth, batch.padded_size), truth)
        if self.score_scaling is not None:
            self.score_scaling.update(outputs.classification, outputs.quality)
        return {"grid": self.loss(outputs)}

    def outputs(
        self,
        predicted: GridOutputs,
        match: Tensor,  # (n, N) int64
        truth: GroundTruth,
    ) -> HeadOutputs:
        """Predictions beside their truths. Of the maps only the positives' places are read."""
        assert truth.masks is not None
        positive = match >= 0
        image, cell = positive.nonzero(as_tuple=True)
        matched = match[image, cell]  # (P,)
        layout = MapLayout.of(predicted.logits, 1)
        places = layout.place(image, cell, self.num_classes)  # (P, C)
        masks = DynamicMasks(
            coefficients=gather_levels(predicted.kernels, layout.place(image, cell, predicted.features.shape[1])),
            maps=predicted.features,
            counts=positive.sum(1).tolist(),
            truth=matched,
            objects=torch.cat([coarse_masks(of_image, self.soft_masks) for of_image in truth.masks]),
        )
        classification = Classification(
            logits=predicted.logits,
            ignore=None,
            index=places.gather(1, truth.all_labels[matched][:, None]).squeeze(1),
            candidate_logits=gather_levels([level.detach() for level in predicted.logits], places),
        )
        return HeadOutputs(classification, {"mask": masks}, labelled_by="mask")

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        predicted = self.predict(features)
        scores = torch.cat([points_nms(self._scores(level)).flatten(2) for level in predicted.logits], dim=2)
        kernels = torch.cat([level.flatten(2) for level in predicted.kernels], dim=2)  # (n, E, N)
        level, _ = grid_cells(self.head.cells, scores.device)
        least = constant(self.detections.least_cells, torch.int64, scores.device)[level]
        per_image = zip(scores.mT, kernels.mT, predicted.features, batch.sizes, strict=True)
        return [
            select_masks(of_cells, own, features, least, shape, self.detections)
            for of_cells, own, features, shape in per_image
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        """Of logits of any shape, scaled; float32."""
        return self.loss.classifier.scores(logits if self.score_scaling is None else self.score_scaling(logits))

    def find_positives(self, images: Sequence[Tensor], truth: GroundTruth) -> dict[str, Positives]:
        padded_size = self.transform.padded_size(images)
        match = self.assigner(truth, padded_size)
        image, cell = (match >= 0).nonzero(as_tuple=True)
        boxes = cell_boxes(self.head.cells, padded_size, match.device)
        level, _ = grid_cells(self.head.cells, match.device)
        found = Positives(image, boxes[cell], match[image, cell], level[cell] + self.backbone.pyramid.finest)
        return {"grid": found}
