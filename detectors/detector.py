"""What all detectors share: inputs checked and padded, features, then losses or detections, and the diagnostics.

n  images    G  objects of an image    P  positives of a head    k  detections    H, W  pixels
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .assignment.anchors import AnchorGenerator
from .assignment.scene import Assigner, Predictions
from .detections.select import Detections
from .features.backbones import PyramidBackbone
from .features.inputs import Batch, NormalizeAndPad, check_images, check_range, check_targets, has_area, image_sizes
from .geometry.ground_truth import GroundTruth
from .geometry.masks import pad_masks
from .losses.contract import HeadLosses


class Positives(NamedTuple):
    """The positive anchors of a batch."""

    image: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) float32 XYXY pixels, the anchors
    truth: Tensor  # (P,) int64, the object in the target of the image, as handed in
    level: Tensor  # (P,) int64, the level of the pyramid: 2 for P2, of stride 4


class AnchorHead(NamedTuple):
    """A head that assigns anchors, as `Detector.positives` and the check of a data set need it."""

    anchors: AnchorGenerator
    assigner: Assigner
    predict: Callable[[Sequence[Tensor]], Predictions]  # from the levels of the pyramid
    scale_argument: str = ""  # of the detector's function, which sets the first of the anchors' scales
    ratios_argument: str = ""  # likewise their ratios


class Detector(nn.Module, ABC):
    """A detector for images of any size, which it does not resize, and for classes that count from 0.

    A subclass adds heads, `losses` and `detect`.

    Args:
        backbone: levels of features by name from a batch of images.
        num_classes: C, without background.

    Attributes:
        heads: names of the heads, as they end the names of statistics, and titles for drawings.
        iou_types: what it detects: "bbox" for boxes, "segm" for masks.
        statistics: of the last training step, see `forward`; empty before the first.
    """

    heads: Mapping[str, str]
    iou_types: tuple[str, ...] = ("bbox",)

    def __init__(self, backbone: PyramidBackbone, num_classes: int) -> None:
        super().__init__()
        self.transform = NormalizeAndPad()
        self.backbone = backbone
        self.num_classes = num_classes
        self.statistics: dict[str, Tensor] = {}
        self._seen_images = False  # whether the values of a batch were looked at

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """The losses of a training step, or detections.

        Args:
            images: each (3, H, W) float RGB in [0, 1].
            targets: in training, per image "boxes" (G, 4) float XYXY in pixels, "labels" (G,) int64 in [0, C) and, for
                a detector of masks, "masks" (G, H, W) bool or uint8. G may be 0; boxes without width or height are left
                out.

        Returns:
            In training a dict of float32 scalars whose sum is the objective: "loss_HEAD_TERM", or "loss_TERM" where the
            detector has one head. In evaluation per image a dict: "boxes" (k, 4) float32 XYXY pixels, "labels" (k,)
            int64, "scores" (k,) float32 in [0, 1], by descending score, and, for a detector of masks, "masks" (k, H, W)
            bool; "mask_scores" (k,) float32 in [0, 1] where a mask has another score than its box. A detector of masks
            alone gives the boxes around them.

            `statistics` then holds detached float64 scalars, which are no part of the objective; NaN: no value in that
            step. For each head:
                spearman_HEAD                 rank correlation in [-1, 1] of score and quality of the positives
                positives_HEAD                logits of the batch
                negatives_HEAD                likewise, without ignored ones and those of a background
                negatives_per_positive_HEAD   their ratio
                balance_HEAD                  lambda, the factor of the localisation loss, where the loss has one

        Raises:
            TypeError: for images or targets that are no tensors.
            ValueError: for images or targets of a wrong shape, dtype or device, labels outside [0, C), coordinates not
                finite, boxes whose corners are swapped (as COCO's XYWH are), images far from [0, 1]: on a GPU, where
                looking takes a wait, those of the first call only. For weights that are not float32.
        """
        images = self._checked(images)
        truth = self._ground_truth(targets, images) if self.training else None
        batch = self.transform(images)
        features = self.backbone(batch.pixels)
        if truth is None:
            return [detections.as_dict() for detections in self.detect(features, batch)]
        losses = self.losses(features, batch, truth)
        self.statistics = {
            f"{name}_{head}": value for head, of_head in losses.items() for name, value in of_head.statistics.items()
        }
        return {
            f"loss_{term}" if len(self.heads) == 1 else f"loss_{head}_{term}": value
            for head, of_head in losses.items()
            for term, value in of_head.terms.items()
        }

    @abstractmethod
    def losses(self, features: Mapping[str, Tensor], batch: Batch, truth: GroundTruth) -> dict[str, HeadLosses]:
        """The losses of each head, by its name."""

    @abstractmethod
    def detect(self, features: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """The detections of each image."""

    def map_sizes(self, batch: Batch) -> tuple[tuple[int, int], ...]:
        """Height and width of each level's map, cells."""
        return self.backbone.pyramid.sizes(batch.padded_size)

    def anchor_heads(self) -> Mapping[str, AnchorHead]:
        """The heads that assign anchors, by name."""
        return {}

    @torch.no_grad()
    def positives(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Positives]:
        """The positives of each head that assigns anchors, for images and targets as `forward` takes them.

        The network runs only where an assigner needs its predictions, so that blank images will do otherwise.
        """
        images = self._checked(images)
        truth = self._ground_truth(targets, images)
        solid = [has_area(target["boxes"]) for target in targets]
        as_given = torch.cat([of_image.nonzero().squeeze(1) for of_image in solid])
        found = self.find_positives(images, truth)
        return {name: of_head._replace(truth=as_given[of_head.truth]) for name, of_head in found.items()}

    def find_positives(self, images: Sequence[Tensor], truth: GroundTruth) -> dict[str, Positives]:
        """As `positives`, of images that are checked; objects count through the batch."""
        sizes, padded_size = image_sizes(images), self.transform.padded_size(images)
        pyramid, found = self.backbone.pyramid, {}
        for name, head in self.anchor_heads().items():
            predictions = None
            if head.assigner.uses_predictions:
                predictions = head.predict(list(self.backbone(self.transform(images).pixels).values()))
            scene = head.anchors.scene(pyramid.sizes(padded_size), sizes, padded_size, truth)
            match = head.assigner(scene, predictions)
            image, anchor = (match >= 0).nonzero(as_tuple=True)
            level = scene.layout.level_of(anchor) + pyramid.finest
            found[name] = Positives(image, scene.anchors[anchor], match[image, anchor], level)
        return found

    @torch.no_grad()
    def as_seen(self, images: Sequence[Tensor]) -> Tensor:
        """The padded batch as the network sees it, (n, 3, H, W) in [0, 1]."""
        return self.transform.restored(self.transform(self._checked(images)))

    def _checked(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The images, checked, and the weights; the images' values too on a CPU and in the first call."""
        self._check_weights()
        images = check_images(images, self.transform.mean.device)
        if not torch.compiler.is_compiling() and (images[0].device.type == "cpu" or not self._seen_images):
            check_range(images)
            self._seen_images = True
        return images

    def _check_weights(self) -> None:
        """Boxes and losses are float32, and so must the weights be: those of `half()` or `double()` are refused."""
        for name, parameter in self.named_parameters():
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                raise ValueError(
                    f"the weights {name} are {parameter.dtype}, not torch.float32: call float(), and for lower "
                    "precision run the model inside torch.autocast (trainer.precision: bf16-mixed or 16-mixed)"
                )

    def _ground_truth(self, targets: Sequence[Mapping[str, Tensor]] | None, images: Sequence[Tensor]) -> GroundTruth:
        """The targets, checked; masks in the frame of the padded batch."""
        masks = "segm" in self.iou_types
        checked = check_targets(targets, images, self.num_classes, masks=masks)
        if masks:
            size = self.transform.padded_size(images)
            checked = [{**target, "masks": pad_masks(target["masks"], size)} for target in checked]
        return GroundTruth.of(checked)
