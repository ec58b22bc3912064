"""A dense one-stage detector: the anchors of all cells of a pyramid, classified and regressed in one go.

    n  images    A  anchors per cell    C  classes    N  anchors of an image    P  positives of the batch
    H, W  cells of a level    K  outputs per anchor    k  anchors of a level that are looked at    R  of all levels

In training the maps go from the convolutions to the loss as they are. At four images of 1333 x 800 and 80 classes they
hold 21 million logits; the loss gets the places of a thousand positives beside them.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from rst.kernels import gather_levels

from .assignment.anchors import AnchorGenerator
from .assignment.scene import IGNORED, Assigner, Predictions, Scene
from .detections.select import Detections, DetectionSettings, Refinement, Suppression, select_detections
from .detector import AnchorHead, Detector
from .features.backbones import PyramidBackbone
from .features.inputs import Batch
from .geometry.boxes import BoxCoder
from .geometry.ground_truth import GroundTruth
from .geometry.layout import MapLayout
from .heads.decode import decode_boxes, take
from .heads.level_head import LevelHead, LevelOutputs
from .losses.classifiers import Sigmoid
from .losses.contract import Classification, DetectionLoss, HeadLosses, HeadOutputs
from .losses.score_scaling import ScoreScaling
from .losses.tasks import Auxiliary, Boxes, Task, centerness


class PositiveAnchors(NamedTuple):
    """The positives of a batch, in the order of the images."""

    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64, its number in the image
    truth: Tensor  # (P,) int64, its object in the batch


class Candidates(NamedTuple):
    """The anchors of each image that are looked at in an evaluation, all levels together."""

    chosen: list[Tensor]  # of each level (n, k) int64, their numbers in the level
    scores: Tensor  # (n, R, C) float32
    boxes: Tensor  # (n, R, 4) float32 pixels
    factors: Tensor  # (n, R) float32, scores that an auxiliary head predicts; 1 without one


class DenseDetector(Detector):
    """Backbone, pyramid and a head that all levels share.

    Args:
        backbone: levels of features by name from a batch of images.
        head: logits, deltas and perhaps what an auxiliary head predicts, of every level.
        anchors: of every level.
        assigner: decides which anchors are positives.
        loss: of the outputs; its classifier must be a sigmoid, unless the head can have a background.
        coder: of the deltas.
        num_classes: C.
        detections: which ones are returned.
        pre_nms: anchors kept per level before the suppression, by their highest score.
        score_scaling: of all logits before they become scores, for a loss that ranks; None: there is none.
        suppress: chooses among overlapping detections, see `select_detections`.
        refine: changes the boxes of the detections, see `select_detections`.

    Raises:
        ValueError: for a loss that needs a background, where the head has none.
    """

    heads: Mapping[str, str] = {"dense": "dense head"}
    scale_argument: ClassVar[str] = "octave_base_scale"  # see `AnchorHead`
    ratios_argument: ClassVar[str] = ""

    def __init__(
        self,
        backbone: PyramidBackbone,
        head: LevelHead,
        anchors: AnchorGenerator,
        *,
        assigner: Assigner,
        loss: DetectionLoss,
        coder: BoxCoder,
        num_classes: int,
        detections: DetectionSettings,
        pre_nms: int,
        score_scaling: ScoreScaling | None = None,
        suppress: Suppression | None = None,
        refine: Refinement | None = None,
    ) -> None:
        super().__init__(backbone, num_classes)
        if not head.has_background and not isinstance(loss.classifier, Sigmoid):
            raise ValueError(f"loss={type(loss).__name__} needs a background; a dense head scores each class by itself")
        self.head = head
        self.anchors = anchors
        self.assigner = assigner
        self.loss = loss
        self.coder = coder
        self.detections = detections
        self.pre_nms = pre_nms
        self.score_scaling = score_scaling
        self.suppress = suppress
        self.refine = refine

    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        scene = self.anchors.scene(self.map_sizes(batch), batch.sizes, batch.padded_size, truth)
        return {"dense": self.dense_losses(self.head(list(features.values())), scene)}

    def dense_losses(self, outputs: LevelOutputs, scene: Scene) -> HeadLosses:
        """The losses of the head from its outputs."""
        found = self.outputs(outputs, scene)
        if self.score_scaling is not None:
            self.score_scaling.update(found.classification, found.quality)
        return self.loss(found)

    def anchor_heads(self) -> Mapping[str, AnchorHead]:
        arguments = (self.scale_argument, self.ratios_argument)
        return {"dense": AnchorHead(self.anchors, self.assigner, self._predict, *arguments)}

    def _predict(self, maps: Sequence[Tensor]) -> Predictions:
        predicted: LevelOutputs = self.head(maps)
        return Predictions(predicted.logits, predicted.deltas)

    def outputs(self, predicted: LevelOutputs, scene: Scene) -> HeadOutputs:
        """Predictions beside their truths, boxes in pixels; of the maps only the positives' places are read."""
        logits = predicted.logits
        with torch.no_grad():
            match = self.assigner(scene, Predictions(logits, predicted.deltas))  # (n, N)
        image, anchor = (match >= 0).nonzero(as_tuple=True)
        positives = PositiveAnchors(image, anchor, match[image, anchor])
        places = scene.layout.place(image, anchor, self.outputs_each)  # (P, K)
        classification = Classification(
            logits=logits,
            ignore=self._ignored(match, scene.layout),
            index=places.gather(1, scene.truth.all_labels[positives.truth][:, None]).squeeze(1),
            candidate_logits=gather_levels([level.detach() for level in logits], places),
        )
        return HeadOutputs(classification, self.tasks(predicted, scene, positives))

    def tasks(self, predicted: LevelOutputs, scene: Scene, positives: PositiveAnchors) -> dict[str, Task]:
        """What is localised: boxes, and what the auxiliary head predicts of them."""
        image, anchor, truth = positives
        boxes = Boxes(
            deltas=gather_levels(predicted.deltas, scene.layout.place(image, anchor, 4)).float(),
            references=scene.anchors[anchor],
            truths=scene.truth.all_boxes[truth],
            coder=self.coder,
        )
        tasks: dict[str, Task] = {"bbox": boxes}
        if predicted.auxiliary is not None:
            assert self.head.auxiliary is not None
            own = gather_levels(predicted.auxiliary, scene.layout.place(image, anchor, 1).squeeze(1))
            good = boxes.quality if self.head.auxiliary == "iou" else centerness(boxes.references, boxes.truths)
            tasks[self.head.auxiliary] = Auxiliary(own, good)
        return tasks

    def _ignored(self, match: Tensor, layout: MapLayout) -> list[Tensor] | None:
        """Masks in the shape of the logits; None where nothing is ignored."""
        ignored = match == IGNORED
        if not bool(ignored.any()):
            return None
        return [
            level.view(layout.images, layout.anchors, 1, *size).expand(-1, -1, self.outputs_each, -1, -1).flatten(1, 2)
            for level, size in zip(ignored.split(layout.counts, dim=1), layout.sizes, strict=True)
        ]

    @property
    def outputs_each(self) -> int:
        """K."""
        return self.num_classes + self.loss.classifier.background

    def _scores(self, logits: Tensor) -> Tensor:
        """Of logits (..., K), scaled."""
        return self.loss.classifier.scores(logits if self.score_scaling is None else self.score_scaling(logits))

    def _best(self, logits: Tensor, layout: MapLayout) -> Tensor:
        """The highest score of each anchor of a level, (n, A H W)."""
        by_anchor = layout.by_anchor(logits)  # (n, A, K, H W)
        if self.loss.classifier.background:
            return self._scores(by_anchor.movedim(2, -1)).amax(-1).flatten(1)
        return self._scores(by_anchor.amax(2)).flatten(1)

    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """Of each level the best anchors, decoded; of all of them the detections of each image.

        A predicted IoU joins the scores before the threshold, as their geometric mean (PAA); centerness is multiplied
        to them after it (ATSS).
        """
        return self.select(self.candidates(self.head(list(features.values()))), batch)

    def candidates(self, outputs: LevelOutputs) -> Candidates:
        """Of each level the best anchors."""
        layout = MapLayout.of(outputs.logits, self.anchors.per_cell)
        chosen, scores, boxes, factors = [], [], [], []
        for number, anchors in enumerate(self.anchors(layout).split(layout.counts)):
            logits = outputs.logits[number]
            best = self._best(logits, layout)  # (n, A H W)
            factor = torch.ones_like(best)
            if outputs.auxiliary is not None:
                factor = outputs.auxiliary[number].float().sigmoid().flatten(1)
            chosen.append((best * factor).topk(min(self.pre_nms, best.shape[1]), dim=1).indices)  # (n, k)
            factors.append(factor.gather(1, chosen[-1]))
            of_classes = self._scores(take(logits, chosen[-1], layout))
            scores.append((of_classes * factors[-1][..., None]).sqrt() if self.head.auxiliary == "iou" else of_classes)
            boxes.append(decode_boxes(outputs.deltas[number], anchors, chosen[-1], layout, self.coder))
        return Candidates(chosen, torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(factors, 1))

    def select(self, candidates: Candidates, batch: Batch) -> list[Detections]:
        """The detections of each image among its candidates."""
        _, *of_images = candidates
        return [
            select_detections(
                of_image,
                lambda candidate, label, decoded=decoded: decoded[candidate],
                shape,
                self.detections,
                factors=factor if self.head.auxiliary == "centerness" else None,
                suppress=self.suppress,
                refine=self.refine,
            )
            for of_image, decoded, factor, shape in zip(*of_images, batch.sizes, strict=True)
        ]
