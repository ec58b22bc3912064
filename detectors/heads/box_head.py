"""Box head of an R-CNN, one stage of it: classes and boxes of RoIs.

R  RoIs of the batch    F  channels    S  side of a pooled RoI    C  classes    P  positives
K  classifier outputs: C, or C + 1 with a background    B  boxes of a RoI: C, or 1 for all classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import clip_boxes_to_image

from ..assignment.max_iou import match_batch
from ..assignment.sampling import subsample
from ..assignment.scene import IGNORED
from ..detections.select import Detections, DetectionSettings, select_detections
from ..geometry.boxes import BoxCoder
from ..geometry.ground_truth import GroundTruth
from ..losses.contract import Classification, DetectionLoss, HeadOutputs
from ..losses.tasks import Boxes
from .roi_align import PyramidRoIAlign


class RoIPredictions(NamedTuple):
    """What a box head says of RoIs."""

    logits: Tensor  # (R, K)
    deltas: Tensor  # (R, B, 4) float32


@dataclass(frozen=True, eq=False)
class RoISample:
    """The RoIs that train a box head: proposals, and the objects' own boxes among them."""

    proposals: list[Tensor]  # per image (R_i, 4)
    match: Tensor  # (R,) int64
    is_truth: Tensor  # (R,) bool: an object's own box, not a proposal

    @cached_property
    def positive(self) -> Tensor:
        """The positives by their place among the RoIs, (P,) int64."""
        return (self.match >= 0).nonzero().squeeze(1)


class BoxPredictor(nn.Module):
    """The two last layers: K logits and B boxes. A sigmoid classifier starts at a score of one half.

    Args:
        in_channels: features of a RoI.
        outputs: K.
        boxes: B.
    """

    def __init__(self, in_channels: int, outputs: int, boxes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(in_channels, outputs)
        self.fc_reg = nn.Linear(in_channels, 4 * boxes)
        for layer, std in ((self.fc_cls, 0.01), (self.fc_reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, K) and deltas (R, B, 4) of features (R, in_channels)."""
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))


class BoxHead(nn.Module):
    """Pooling, two hidden layers, and the last layers; the assignment and loss that train them.

    Args:
        pool: pools a square of features per RoI.
        in_channels: F.
        width: channels of the hidden layers.
        num_classes: C.
        loss: of the outputs; its classifier says whether there is a background.
        matcher: assigns proposals to objects.
        sampler: None to train on every proposal.
        coder: of the deltas.
        class_agnostic: one box for all classes of a RoI, which the next stage of a cascade needs.
        truths_in_box_loss: whether the objects' own boxes among the RoIs count in the box loss, as they do in the
            published code. Their error is near 0 from the start. Where most positives are such boxes, the mean of the
            errors nearly vanishes, and what balances it by value grows without a bound.
    """

    def __init__(
        self,
        pool: PyramidRoIAlign,
        in_channels: int,
        width: int,
        num_classes: int,
        *,
        loss: DetectionLoss,
        matcher: Matcher,
        sampler: BalancedPositiveNegativeSampler | None,
        coder: BoxCoder,
        class_agnostic: bool = False,
        truths_in_box_loss: bool = True,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.hidden = TwoMLPHead(in_channels * pool.output_size**2, width)
        for layer in (self.hidden.fc6, self.hidden.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        boxes = 1 if class_agnostic else num_classes
        self.predictor = BoxPredictor(width, num_classes + loss.classifier.background, boxes)
        self.loss = loss
        self.matcher = matcher
        self.sampler = sampler
        self.coder = coder
        self.class_agnostic = class_agnostic
        self.truths_in_box_loss = truths_in_box_loss

    def forward(
        self,
        features: Mapping[str, Tensor],  # levels by name, (n, F, H, W)
        proposals: Sequence[Tensor],  # per image (R_i, 4) float32 pixels
    ) -> RoIPredictions:
        """Logits and deltas of the RoIs, in the order of the proposals."""
        logits, deltas = self.predictor(self.hidden(self.pool(features, proposals)))
        return RoIPredictions(logits, deltas.float())

    @torch.no_grad()
    def sample(self, proposals: Sequence[Tensor], truth: GroundTruth) -> RoISample:
        """The proposals with the objects' own boxes behind them, sampled where there is a sampler, and their match."""
        boxes = [torch.cat(pair) for pair in zip(proposals, truth.boxes, strict=True)]
        matches = subsample(self.sampler, match_batch(self.matcher, boxes, list(truth.boxes)))
        pairs = zip(boxes, proposals, strict=True)
        is_truth = [torch.arange(len(rois), device=rois.device) >= len(proposed) for rois, proposed in pairs]
        if self.sampler is not None:
            kept = [match != IGNORED for match in matches]
            boxes, matches, is_truth = (
                [of_image[keep] for of_image, keep in zip(values, kept, strict=True)]
                for values in (boxes, matches, is_truth)
            )
        return RoISample(boxes, torch.cat(matches), torch.cat(is_truth))

    def outputs(self, predictions: RoIPredictions, sample: RoISample, truth: GroundTruth) -> HeadOutputs:
        """Predictions beside their truths, boxes in pixels; of each positive the box of its class."""
        logits, deltas = predictions
        positive = sample.positive  # (P,)
        matched = sample.match[positive]
        label = truth.all_labels[matched]
        boxes = Boxes(
            deltas=deltas[positive, self._box_of(label)],
            references=torch.cat(sample.proposals)[positive],
            truths=truth.all_boxes[matched],
            coder=self.coder,
            counted=None if self.truths_in_box_loss else ~sample.is_truth[positive],
        )
        index = positive * logits.shape[1] + label
        return HeadOutputs(Classification([logits], None, index, logits.detach()[positive]), {"bbox": boxes})

    def _box_of(self, label: Tensor) -> Tensor:
        """Which of its B boxes a RoI has for a class."""
        return torch.zeros_like(label) if self.class_agnostic else label

    @torch.no_grad()
    def refined(
        self,
        predictions: RoIPredictions,
        proposals: Sequence[Tensor],  # per image (R_i, 4)
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """The boxes of all RoIs, clipped to their image, per image (R_i, 4): the next stage's proposals."""
        assert self.class_agnostic
        deltas = predictions.deltas.squeeze(1).split([len(boxes) for boxes in proposals])
        return [
            clip_boxes_to_image(self.coder.decode_single(of_image, rois), shape)
            for of_image, rois, shape in zip(deltas, proposals, image_sizes, strict=True)
        ]

    def refine(
        self, predictions: RoIPredictions, sample: RoISample, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """The same in training, without the objects' own boxes: the next stage's sample has them again."""
        boxes = self.refined(predictions, sample.proposals, image_sizes)
        is_truth = sample.is_truth.split([len(of_image) for of_image in boxes])
        return [of_image[~truth] for of_image, truth in zip(boxes, is_truth, strict=True)]

    def detect(
        self,
        predictions: RoIPredictions,
        proposals: Sequence[Tensor],  # per image (R_i, 4)
        image_sizes: Sequence[tuple[int, int]],
        settings: DetectionSettings,
    ) -> list[Detections]:
        """The detections of each image."""
        counts = [len(boxes) for boxes in proposals]
        scores = self.loss.classifier.scores(predictions.logits)  # (R, C)
        per_image = zip(scores.split(counts), predictions.deltas.split(counts), proposals, image_sizes, strict=True)
        return [
            select_detections(
                of_image,
                lambda roi, label, deltas=deltas, rois=rois: self.coder.decode_single(
                    deltas[roi, self._box_of(label)], rois[roi]
                ),
                shape,
                settings,
            )
            for of_image, deltas, rois, shape in per_image
        ]
