"""A dense one-stage detector: anchors of all cells of a pyramid, classified and regressed in one go.

    n  images    A  anchors per cell    C  classes    N  anchors of an image    P  positives of the batch
    H, W  cells of a level    k  candidates of a level

In training the maps go from the convolutions to the loss as they are. At four images of 1333 x 800 and 80 classes they
hold 21 million logits, of which the loss is told the places of a thousand positives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from rst.kernels import gather_levels

from .assignment.adaptive import AdaptiveMatcher
from .assignment.anchors import AnchorGenerator
from .assignment.max_iou import IGNORED
from .detections.select import select_detections
from .features.inputs import PADDING, NormalizeAndPad, check_images, check_targets, padded_sizes
from .geometry.boxes import BoxCoder
from .geometry.layout import MapLayout
from .heads.dense_head import DenseHead, DenseOutputs
from .losses.contract import DetectionLoss, HeadOutputs


class DenseDetector(nn.Module):
    """Backbone, pyramid and a `DenseHead`, for images of any size that are not resized and classes that count from 0.

    Args:
        backbone: levels of features by name from a batch of images.
        head: logits, deltas and perhaps centerness of every level.
        anchor_generator: the anchors of every level.
        matcher: assigns anchors to ground truth.
        loss: what the outputs cost.
        coder: of the deltas.
        num_classes: C.
        score_threshold: lowest score of a detection, before the centerness.
        nms_iou: IoU above which a detection suppresses another of its class.
        pre_nms: anchors kept per level before that, by their highest score.
        detections_per_image: at most this many.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: DenseHead,
        anchor_generator: AnchorGenerator,
        *,
        matcher: AdaptiveMatcher,
        loss: DetectionLoss,
        coder: BoxCoder,
        num_classes: int,
        score_threshold: float,
        nms_iou: float,
        pre_nms: int,
        detections_per_image: int,
    ) -> None:
        super().__init__()
        self.transform = NormalizeAndPad(PADDING)
        self.backbone = backbone
        self.head = head
        self.anchor_generator = anchor_generator
        self.matcher = matcher
        self.loss = loss
        self.coder = coder
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.pre_nms = pre_nms
        self.detections_per_image = detections_per_image
        self.statistics: dict[str, Tensor] = {}  # of the last training step

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """A training step's losses, or detections.

        Args:
            images: each (3, H, W) float RGB in [0, 1].
            targets: in training, per image "boxes" (G, 4) float XYXY in pixels and "labels" (G,) int64 in [0, C). G may
                be 0; boxes without width or height are left out.

        Returns:
            In training a dict of float32 scalars, "loss_*", whose sum is the objective; `statistics` then tells, as
            detached float64 scalars, "spearman_dense", "positives_dense", "negatives_dense" (logits),
            "negatives_per_positive_dense" and "balance_dense", the factor of the box loss (NaN: no value in that step).
            In evaluation per image a dict: "boxes" (k, 4) float32 XYXY pixels, "labels" (k,) int64 and "scores" (k,)
            float32 in [0, 1], by descending score.

        Raises:
            ValueError: for images or targets of a wrong shape or type, labels outside [0, C), coordinates not finite.
        """
        images = check_images(images)
        checked = check_targets(targets, images, self.num_classes) if self.training else None
        batch, _ = self.transform(images)
        maps = list(self.backbone(batch.tensors).values())
        outputs: DenseOutputs = self.head(maps)
        anchors = self.anchor_generator(batch, maps)[0]  # (N, 4), the same for every image
        if checked is None:
            return self.detect(outputs, anchors, batch.image_sizes)
        match = self.assign(anchors, batch, maps, checked)
        terms, statistics = self.loss(self.head_outputs(outputs, anchors, match, checked))
        self.statistics = {f"{name}_dense": value for name, value in statistics.items()}
        return {f"loss_{name}": term for name, term in terms.items()}

    @torch.no_grad()
    def assign(
        self,
        anchors: Tensor,  # (N, 4)
        images: ImageList,
        maps: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """The match of each anchor of each image, (n, N) int64, with ground truths counted through the batch."""
        match = self.matcher(
            anchors,
            MapLayout.of(maps, self.anchors_per_cell),
            self.anchor_generator.strides,
            padded_sizes(images.image_sizes),
            [target["boxes"] for target in targets],
        )
        outside = self.anchor_generator.outside(images, maps, PADDING)
        return match if outside is None else match.masked_fill(outside, IGNORED)

    @property
    def anchors_per_cell(self) -> int:
        return self.anchor_generator.num_anchors_per_location()[0]

    def head_outputs(
        self,
        outputs: DenseOutputs,
        anchors: Tensor,  # (N, 4)
        match: Tensor,  # (n, N)
        targets: list[dict[str, Tensor]],
    ) -> HeadOutputs:
        """Predictions beside their truths, boxes in pixels; of the maps only the positives' places are read."""
        layout = MapLayout.of(outputs.logits, self.anchors_per_cell)
        image, anchor = (match >= 0).nonzero(as_tuple=True)
        truth = match[image, anchor]
        label = torch.cat([target["labels"] for target in targets])[truth]  # (P,)
        places = layout.place(image, anchor, self.num_classes)  # (P, C)
        centerness = None
        if outputs.centerness is not None:
            centerness = gather_levels(outputs.centerness, layout.place(image, anchor, 1).squeeze(1))
        return HeadOutputs(
            logits=outputs.logits,
            ignore=self._ignored(match, layout),
            index=places.gather(1, label[:, None]).squeeze(1),
            rows=gather_levels([level.detach() for level in outputs.logits], places),
            deltas=gather_levels(outputs.deltas, layout.place(image, anchor, 4)).float(),
            references=anchors[anchor],
            truths=torch.cat([target["boxes"] for target in targets])[truth],
            coder=self.coder,
            centerness=centerness,
        )

    def _ignored(self, match: Tensor, layout: MapLayout) -> list[Tensor] | None:
        """Masks in the shape of the logits where images differ in size; their padding is all that is ever ignored."""
        ignored = match == IGNORED
        if not bool(ignored.any()):
            return None
        counts = [layout.anchors * height * width for height, width in layout.sizes]
        return [
            part.view(layout.images, layout.anchors, 1, *size).expand(-1, -1, self.num_classes, -1, -1).flatten(1, 2)
            for part, size in zip(ignored.split(counts, dim=1), layout.sizes, strict=True)
        ]

    def detect(
        self,
        outputs: DenseOutputs,
        anchors: Tensor,  # (N, 4)
        shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Of each level the best anchors, decoded; of all of them the detections of each image."""
        layout = MapLayout.of(outputs.logits, self.anchors_per_cell)
        images = torch.arange(layout.images, device=anchors.device)[:, None]
        counts = [layout.anchors * height * width for height, width in layout.sizes]
        scores, boxes, factors = [], [], []
        for number, reference in enumerate(anchors.split(counts)):
            logits = _by_anchor(outputs.logits[number], layout.anchors)  # (n, A, C, H W)
            best = self.loss.scores(logits.amax(2)).flatten(1)  # (n, A H W)
            factor = torch.ones_like(best)
            if outputs.centerness is not None:
                factor = outputs.centerness[number].float().sigmoid().flatten(1)
            chosen = (best * factor).topk(min(self.pre_nms, best.shape[1]), dim=1).indices  # (n, k)
            in_cell, cell = chosen // logits.shape[-1], chosen % logits.shape[-1]
            deltas = _by_anchor(outputs.deltas[number], layout.anchors)[images, in_cell, :, cell].float()
            scores.append(self.loss.scores(logits[images, in_cell, :, cell]))
            boxes.append(self.coder.decode_single(deltas, reference[chosen]))
            factors.append(factor.gather(1, chosen))
        per_image = zip(torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(factors, 1), shapes, strict=True)
        found = [
            select_detections(
                of_image,
                lambda candidate, label, decoded=decoded: decoded[candidate],
                shape,
                threshold=self.score_threshold,
                nms_iou=self.nms_iou,
                limit=self.detections_per_image,
                factors=None if outputs.centerness is None else factor,
            )
            for of_image, decoded, factor, shape in per_image
        ]
        return [detections._asdict() for detections in found]


def _by_anchor(level: Tensor, anchors: int) -> Tensor:
    """(n, A, c, H W) of a map (n, A c, H, W)."""
    return level.unflatten(1, (anchors, -1)).flatten(3)
