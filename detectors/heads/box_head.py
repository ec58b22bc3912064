"""Box head of an R-CNN, one stage of it: classes and boxes of RoIs.

R  RoIs of the batch    F  channels    S  side of a pooled RoI    C  classes    P  positives
K  classifier outputs: C, or C + 1 with a background
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.faster_rcnn import TwoMLPHead

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
    deltas: Tensor  # (R, C, 4) float32


class RoISample(NamedTuple):
    """The RoIs that train a box head: proposals, and the objects' own boxes among them."""

    proposals: list[Tensor]  # per image (R_i, 4)
    match: Tensor  # (R,) int64
    is_truth: Tensor  # (R,) bool: an object's own box, not a proposal


class BoxPredictor(nn.Module):
    """The two last layers: K logits and one box per class. A sigmoid classifier starts at a score of one half.

    Args:
        in_channels: features of a RoI.
        outputs: K.
        num_classes: C.
    """

    def __init__(self, in_channels: int, outputs: int, num_classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(in_channels, outputs)
        self.fc_reg = nn.Linear(in_channels, 4 * num_classes)
        for layer, std in ((self.fc_cls, 0.01), (self.fc_reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, K) and deltas (R, C, 4) of features (R, in_channels)."""
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
        truths_in_box_loss: bool = True,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.hidden = TwoMLPHead(in_channels * pool.output_size**2, width)
        for layer in (self.hidden.fc6, self.hidden.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.predictor = BoxPredictor(width, num_classes + loss.classifier.background, num_classes)
        self.loss = loss
        self.matcher = matcher
        self.sampler = sampler
        self.coder = coder
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
        positive = (sample.match >= 0).nonzero().squeeze(1)  # (P,)
        matched = sample.match[positive]
        label = truth.all_labels[matched]
        boxes = Boxes(
            deltas=deltas[positive, label],
            references=torch.cat(sample.proposals)[positive],
            truths=truth.all_boxes[matched],
            coder=self.coder,
            counted=None if self.truths_in_box_loss else ~sample.is_truth[positive],
        )
        index = positive * logits.shape[1] + label
        return HeadOutputs(Classification([logits], None, index, logits.detach()[positive]), {"bbox": boxes})

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
                lambda roi, label, deltas=deltas, rois=rois: self.coder.decode_single(deltas[roi, label], rois[roi]),
                shape,
                settings,
            )
            for of_image, deltas, rois, shape in per_image
        ]
