"""R-CNN head on torchvision's: all proposals train, classes are independent sigmoids, boxes are regressed per class.

R  RoIs of the batch    C  classes    K  classifier outputs: C, or C + 1 with a background    P  positives
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from ..assignment.max_iou import IGNORED, match_batch, subsample
from ..detections.select import select_detections
from ..geometry.boxes import BoxCoder
from ..losses.contract import DetectionLoss, HeadOutputs


class BoxPredictor(nn.Module):
    """The two last layers: `outputs` logits and one box per class; a sigmoid classifier starts at a score of one half.

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


class RoIHeads(TorchvisionRoIHeads):
    """torchvision's box branch under another loss, matcher, coder and sampler.

    Args:
        box_roi_pool: pools a square of features per RoI.
        box_head: features (R, in_channels) from the squares.
        box_predictor: logits and deltas.
        loss: what they cost; it also says how a logit becomes a score.
        matcher: assigns proposals to ground truth.
        sampler: None to train on every proposal.
        coder: of the deltas.
        score_threshold: lowest score of a detection.
        nms_iou: IoU above which a detection suppresses another of its class.
        detections_per_image: at most this many.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        *,
        loss: DetectionLoss,
        matcher: Matcher,
        sampler: BalancedPositiveNegativeSampler | None,
        coder: BoxCoder,
        score_threshold: float,
        nms_iou: float,
        detections_per_image: int,
    ) -> None:
        super().__init__(
            box_roi_pool,
            box_head,
            box_predictor,
            1.0,
            0.0,
            1,
            1.0,
            None,
            score_threshold,
            nms_iou,
            detections_per_image,
        )
        self.loss = loss
        self.proposal_matcher = matcher
        self.fg_bg_sampler = sampler
        self.box_coder = coder
        self.statistics: dict[str, Tensor] = {}  # of the last training step

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image in evaluation, the terms "loss_roi_*" in training; the other of the two is empty."""
        match = None
        if self.training:
            assert targets is not None
            proposals, match = self.training_proposals(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        deltas = deltas.float()
        if match is None:
            found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
            return [{"boxes": b, "scores": s, "labels": c} for b, s, c in zip(*found, strict=True)], {}
        assert targets is not None
        terms, statistics = self.loss(self.head_outputs(logits, deltas, torch.cat(proposals), match, targets))
        self.statistics = {f"{name}_roi": value for name, value in statistics.items()}
        return [], {f"loss_roi_{name}": term for name, term in terms.items()}

    @torch.no_grad()
    def training_proposals(
        self,
        proposals: list[Tensor],  # per image (R_i, 4)
        targets: list[dict[str, Tensor]],
    ) -> tuple[list[Tensor], Tensor]:
        """Proposals with the ground truth among them, and the match (R,) of all, counted as `match_batch` does."""
        truths = [target["boxes"] for target in targets]
        proposals = self.add_gt_proposals(proposals, truths)
        matches = subsample(self.fg_bg_sampler, match_batch(self.proposal_matcher, proposals, truths))
        if self.fg_bg_sampler is not None:
            kept = [match != IGNORED for match in matches]
            proposals = [boxes[keep] for boxes, keep in zip(proposals, kept, strict=True)]
            matches = [match[keep] for match, keep in zip(matches, kept, strict=True)]
        return proposals, torch.cat(matches)

    def head_outputs(
        self,
        logits: Tensor,  # (R, K)
        deltas: Tensor,  # (R, C, 4)
        proposals: Tensor,  # (R, 4)
        match: Tensor,  # (R,)
        targets: list[dict[str, Tensor]],
    ) -> HeadOutputs:
        """Predictions beside their truths, boxes in pixels; of each positive the box of its class."""
        positive = (match >= 0).nonzero().squeeze(1)
        truth = match[positive]
        label = torch.cat([target["labels"] for target in targets])[truth]
        return HeadOutputs(
            logits=[logits],
            ignore=None,
            index=positive * logits.shape[1] + label,
            rows=logits.detach()[positive],
            deltas=deltas[positive, label],
            references=proposals[positive],
            truths=torch.cat([target["boxes"] for target in targets])[truth],
            coder=self.box_coder,
        )

    def postprocess_detections(
        self,
        class_logits: Tensor,  # (R, K)
        box_regression: Tensor,  # (R, C, 4)
        proposals: list[Tensor],  # per image (R_i, 4)
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per image boxes (k, 4), scores (k,) and labels (k,), by descending score; see `select_detections`."""
        counts = [len(boxes) for boxes in proposals]
        per_image = zip(
            self.loss.scores(class_logits).split(counts),
            box_regression.split(counts),
            proposals,
            image_shapes,
            strict=True,
        )
        found = [
            select_detections(
                scores,
                lambda roi, label, deltas=deltas, rois=rois: self.box_coder.decode_single(
                    deltas[roi, label], rois[roi]
                ),
                shape,
                threshold=self.score_thresh,
                nms_iou=self.nms_thresh,
                limit=self.detections_per_img,
            )
            for scores, deltas, rois, shape in per_image
        ]
        boxes, scores, labels = (list(part) for part in zip(*found, strict=True))
        return boxes, scores, labels
