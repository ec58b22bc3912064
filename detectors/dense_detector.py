"""A dense one-stage detector: the anchors of all cells of a pyramid, classified and regressed in one go.

    n  images    A  anchors per cell    C  classes    N  anchors of an image    P  positives of the batch
    H, W  cells of a level    k  anchors of a level that are looked at

In training the maps go from the convolutions to the loss as they are. At four images of 1333 x 800 and 80 classes they
hold 21 million logits; the loss gets the places of a thousand positives beside them.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from rst.kernels import gather_levels

from .assignment.anchors import AnchorGenerator
from .assignment.scene import IGNORED, Assigner, Predictions, Scene
from .detections.select import Detections, DetectionSettings, Refinement, select_detections
from .detector import AnchorHead, Detector
from .features.backbones import PyramidBackbone
from .features.inputs import Batch
from .geometry.boxes import BoxCoder
from .geometry.ground_truth import GroundTruth
from .geometry.layout import MapLayout
from .heads.decode import decode_boxes, take
from .heads.dense_head import DenseHead, DenseOutputs
from .losses.classifiers import Sigmoid
from .losses.contract import Classification, DetectionLoss, HeadLosses, HeadOutputs
from .losses.score_scaling import ScoreScaling
from .losses.tasks import Auxiliary, Boxes, Task, centerness


class DenseDetector(Detector):
    """Backbone, pyramid and a `DenseHead`.

    Args:
        backbone: levels of features by name from a batch of images.
        head: logits, deltas and perhaps what an auxiliary head predicts, of every level.
        anchors: of every level.
        assigner: decides which anchors are positives.
        loss: of the outputs; its classifier must be a sigmoid.
        coder: of the deltas.
        num_classes: C.
        detections: which ones are returned.
        pre_nms: anchors kept per level before the suppression, by their highest score.
        score_scaling: of all logits before they become scores, for a loss that ranks; None: there is none.
        refine: changes the boxes of the detections, see `select_detections`.

    Raises:
        ValueError: for a loss that needs a background: the head has none.
    """

    heads: Mapping[str, str] = {"dense": "dense head"}
    scale_argument: ClassVar[str] = "octave_base_scale"  # see `AnchorHead`

    def __init__(
        self,
        backbone: PyramidBackbone,
        head: DenseHead,
        anchors: AnchorGenerator,
        *,
        assigner: Assigner,
        loss: DetectionLoss,
        coder: BoxCoder,
        num_classes: int,
        detections: DetectionSettings,
        pre_nms: int,
        score_scaling: ScoreScaling | None = None,
        refine: Refinement | None = None,
    ) -> None:
        super().__init__(backbone, num_classes)
        if not isinstance(loss.classifier, Sigmoid):
            raise ValueError(f"loss={type(loss).__name__} needs a background; a dense head scores each class by itself")
        self.head = head
        self.anchors = anchors
        self.assigner = assigner
        self.loss = loss
        self.coder = coder
        self.detections = detections
        self.pre_nms = pre_nms
        self.score_scaling = score_scaling
        self.refine = refine

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        outputs: DenseOutputs = self.head(list(features.values()))
        scene = self.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size, truth)
        found = self.outputs(outputs, scene)
        if self.score_scaling is not None:
            self.score_scaling.update(found.classification, found.quality)
        return {"dense": self.loss(found)}

    def anchor_heads(self) -> Mapping[str, AnchorHead]:
        head = AnchorHead(
            self.anchors, self.assigner, lambda maps: Predictions(*self.head(maps)[:2]), self.scale_argument
        )
        return {"dense": head}

    def outputs(self, predicted: DenseOutputs, scene: Scene) -> HeadOutputs:
        """Predictions beside their truths, boxes in pixels; of the maps only the positives' places are read."""
        logits, deltas, auxiliary = predicted
        with torch.no_grad():
            match = self.assigner(scene, Predictions(logits, deltas))  # (n, N)
        image, anchor = (match >= 0).nonzero(as_tuple=True)
        layout, truth = scene.layout, match[image, anchor]
        places = layout.place(image, anchor, self.num_classes)  # (P, C)
        boxes = Boxes(
            deltas=gather_levels(deltas, layout.place(image, anchor, 4)).float(),
            references=scene.anchors[anchor],
            truths=scene.truth.all_boxes[truth],
            coder=self.coder,
        )
        tasks: dict[str, Task] = {"bbox": boxes}
        if auxiliary is not None:
            assert self.head.auxiliary is not None
            own = gather_levels(auxiliary, layout.place(image, anchor, 1).squeeze(1))
            by_iou = self.head.auxiliary == "iou"
            good = boxes.quality if by_iou else centerness(boxes.references, boxes.truths)
            tasks[self.head.auxiliary] = Auxiliary(own, good)
        classification = Classification(
            logits=logits,
            ignore=self._ignored(match, layout),
            index=places.gather(1, scene.truth.all_labels[truth][:, None]).squeeze(1),
            candidate_logits=gather_levels([level.detach() for level in logits], places),
        )
        return HeadOutputs(classification, tasks)

    def _ignored(self, match: Tensor, layout: MapLayout) -> list[Tensor] | None:
        """Masks in the shape of the logits where images differ in size; nothing but their padding is ever ignored."""
        ignored = match == IGNORED
        if not bool(ignored.any()):
            return None
        return [
            level.view(layout.images, layout.anchors, 1, *size).expand(-1, -1, self.num_classes, -1, -1).flatten(1, 2)
            for level, size in zip(ignored.split(layout.counts, dim=1), layout.sizes, strict=True)
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        """Of logits (..., C), scaled."""
        return self.loss.classifier.scores(logits if self.score_scaling is None else self.score_scaling(logits))

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """Of each level the best anchors, decoded; of all of them the detections of each image.

        A predicted IoU joins the scores before the threshold, as their geometric mean (PAA); centerness is multiplied
        to them after it (ATSS).
        """
        outputs: DenseOutputs = self.head(list(features.values()))
        layout = MapLayout.of(outputs.logits, self.anchors.per_cell)
        scores, boxes, factors = [], [], []
        for number, anchors in enumerate(self.anchors(layout).split(layout.counts)):
            logits = outputs.logits[number]
            best = self._scores(layout.by_anchor(logits).amax(2)).flatten(1)  # (n, A H W)
            factor = torch.ones_like(best)
            if outputs.auxiliary is not None:
                factor = outputs.auxiliary[number].float().sigmoid().flatten(1)
            chosen = (best * factor).topk(min(self.pre_nms, best.shape[1]), dim=1).indices  # (n, k)
            factors.append(factor.gather(1, chosen))
            of_classes = self._scores(take(logits, chosen, layout))
            scores.append((of_classes * factors[-1][..., None]).sqrt() if self.head.auxiliary == "iou" else of_classes)
            boxes.append(decode_boxes(outputs.deltas[number], anchors, chosen, layout, self.coder))
        per_image = zip(torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(factors, 1), batch.sizes, strict=True)
        return [
            select_detections(
                of_image,
                lambda candidate, label, decoded=decoded: decoded[candidate],
                shape,
                self.detections,
                factors=factor if self.head.auxiliary == "centerness" else None,
                refine=self.refine,
            )
            for of_image, decoded, factor, shape in per_image
        ]
