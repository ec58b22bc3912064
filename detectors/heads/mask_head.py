"""Mask head of an R-CNN: a mask of each positive RoI, in the frame of its box.

n  images    F  channels    H, W  cells of a level    R  RoIs of the batch    P  positives    T  positives with a mask
C  classes    S  side of a mask, cells: twice that of a pooled RoI    M  objects of the batch    k  detections
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import clip_boxes_to_image

from ..detections.paste import paste_masks
from ..detections.select import Detections
from ..geometry.ground_truth import GroundTruth
from ..geometry.masks import crop_masks, shares_inside
from ..geometry.numbers import require_count, require_share
from ..losses.tasks import Masks, MaskScores, Task
from .box_head import RoISample
from .mask_score_head import MaskScoreHead, mask_ious
from .roi_align import PyramidRoIAlign


@dataclass(frozen=True)
class MaskSettings:
    """The mask head.

    Args:
        channels: of its convolutions.
        convolutions: how many of 3 x 3, before the one that doubles the resolution.
        limit: at most this many positives of a batch, drawn at random, train it; the published code has 200, to save
            memory. None: all.
        threshold: probability from which a pixel of a detection belongs to its object.
        scoring: whether a head beside it predicts the IoU of each mask, whose product with the score of the box is the
            score of the mask (Mask Scoring R-CNN, CVPR 2019): not for a loss that ranks.
    """

    channels: int = 256
    convolutions: int = 4
    limit: int | None = None
    threshold: float = 0.5
    scoring: bool = False

    def __post_init__(self) -> None:
        require_count("masks.channels", self.channels)
        require_count("masks.convolutions", self.convolutions)
        if self.limit is not None:
            require_count("masks.limit", self.limit)
        require_share("masks.threshold", self.threshold)


class MaskPredictions(NamedTuple):
    """What a mask head says of RoIs."""

    logits: Tensor  # (T, S, S)
    ious: Tensor | None  # (T,) float32, of each mask with its object; None without a head for them


class MaskHead(nn.Module):
    """Pooling, convolutions, a transposed convolution of stride 2, and one mask per class (He et al., ICCV 2017).

    Of each RoI only the mask of one class is computed: that of its object, or of its detection. The C others train
    nothing, and at 1,203 classes would be a gigabyte for 280 RoIs.

    Args:
        pool: pools a square of features per RoI.
        in_channels: F.
        num_classes: C.
        settings: the rest.
    """

    def __init__(self, pool: PyramidRoIAlign, in_channels: int, num_classes: int, settings: MaskSettings) -> None:
        super().__init__()
        self.pool = pool
        self.settings = settings
        self.tower = MaskRCNNHeads(in_channels, [settings.channels] * settings.convolutions, dilation=1)
        self.upsample = nn.ConvTranspose2d(settings.channels, settings.channels, 2, stride=2)
        self.mask = nn.Linear(settings.channels, num_classes)  # of each cell
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(cast(Tensor, self.upsample.bias))
        nn.init.zeros_(self.mask.bias)
        self.score_head = None
        if settings.scoring:
            self.score_head = MaskScoreHead(in_channels, settings.channels, pool.output_size, num_classes)

    @property
    def side(self) -> int:
        """S."""
        return 2 * self.pool.output_size

    def forward(
        self,
        features: Mapping[str, Tensor],  # levels by name, (n, F, H, W)
        boxes: Sequence[Tensor],  # per image (T_i, 4) float32 pixels
        labels: Tensor,  # (T,) int64
    ) -> MaskPredictions:
        """The masks of the given classes, in the order of the boxes."""
        pooled = self.pool(features, boxes)
        cells = self.upsample(self.tower(pooled)).relu().flatten(2)  # (T, channels, S S)
        logits = torch.baddbmm(self.mask.bias[labels, None, None], self.mask.weight[labels, None], cells)
        logits = logits.view(-1, self.side, self.side)
        return MaskPredictions(logits, None if self.score_head is None else self.score_head(pooled, logits, labels))

    def tasks(self, features: Mapping[str, Tensor], sample: RoISample, truth: GroundTruth) -> dict[str, Task]:
        """The masks of the positives beside what they should be: that part of the object which lies in the RoI.

        With a head for their scores these are a second task.
        """
        assert truth.masks is not None
        height, width = truth.masks[0].shape[-2:]  # of the padded batch
        kept = self._kept(len(sample.positive), sample.positive.device)
        matched = sample.match[sample.positive[kept]]
        order = matched.argsort(stable=True)  # objects count through the batch, so this is also the order of the images
        kept, matched = kept[order], matched[order]  # (T,)
        counts = torch.bincount(matched, minlength=len(truth.all_labels)).tolist()
        rois = torch.cat(sample.proposals)[sample.positive[kept]]  # (T, 4)
        rois = clip_boxes_to_image(rois, (height, width))  # an object's box may go far beyond its image
        of_objects = iter(counts)
        in_images = [sum(itertools.islice(of_objects, len(objects))) for objects in truth.boxes]
        logits, scores = self(features, rois.split(in_images), truth.all_labels[matched])
        truths = crop_masks(truth.masks, rois, counts, self.side)
        tasks: dict[str, Task] = {"mask": Masks(logits, truths, kept)}
        if scores is not None:
            ious = mask_ious(logits, truths, shares_inside(truth.masks, rois, counts))
            tasks["mask_score"] = MaskScores(scores, ious, kept)
        return tasks

    def _kept(self, positives: int, device: torch.device) -> Tensor:
        """The positives that train, by their place among the P: all, or a random part."""
        limit = self.settings.limit
        if limit is None or positives <= limit:
            return torch.arange(positives, dtype=torch.int64, device=device)
        return torch.randperm(positives, dtype=torch.int64, device=device)[:limit]

    def pasted(
        self,
        found: Detections,
        probabilities: Tensor,  # (k, S, S) float32 in [0, 1]
        ious: Tensor | None,  # (k,) that the masks are expected to have
        shape: tuple[int, int],
    ) -> Detections:
        """The detections of an image of that height and width, with their masks and the scores of those."""
        masks = paste_masks(probabilities, found.boxes, shape, self.settings.threshold)
        return found._replace(masks=masks, mask_scores=None if ious is None else found.scores * ious.clamp(0, 1))
