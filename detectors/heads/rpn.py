"""Region proposal network on torchvision's: all anchors train, and the pyramid's logits are never concatenated.

n  images    A  anchors per cell    L  levels    N  anchors of an image    P  positives of the batch
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead

from rst.kernels import gather_levels

from ..assignment.anchors import AnchorGenerator
from ..assignment.max_iou import IGNORED, match_batch, subsample
from ..features.inputs import PADDING
from ..geometry.boxes import BoxCoder, to_unit_frame
from ..geometry.layout import MapLayout
from ..losses.contract import DetectionLoss, HeadOutputs


class RegionProposalNetwork(TorchvisionRPN):
    """torchvision's RPN and its proposal filter, under another loss, matcher, coder and sampler.

    Args:
        anchor_generator: the anchors of every level.
        head: torchvision's, or one with the same outputs: per level logits (n, A, H, W) and deltas (n, 4 A, H, W).
        loss: what the outputs cost.
        matcher: assigns anchors to ground truth.
        sampler: None to train on every anchor that is not ignored.
        coder: of the deltas.
        pre_nms: candidates kept per level before NMS, {"training": ..., "testing": ...}.
        post_nms: proposals kept per image, likewise.
        nms_iou: IoU above which a proposal suppresses another of its level.
    """

    head: RPNHead

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: RPNHead,
        *,
        loss: DetectionLoss,
        matcher: Matcher,
        sampler: BalancedPositiveNegativeSampler | None,
        coder: BoxCoder,
        pre_nms: dict[str, int],
        post_nms: dict[str, int],
        nms_iou: float,
    ) -> None:
        # What torchvision would build itself, from thresholds and sizes, is replaced below.
        super().__init__(anchor_generator, head, 1.0, 0.0, 1, 1.0, pre_nms, post_nms, nms_iou)
        self.anchor_generator = anchor_generator
        self.loss = loss
        self.proposal_matcher = matcher
        self.fg_bg_sampler = sampler
        self.box_coder = coder
        self.statistics: dict[str, Tensor] = {}  # of the last training step

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals per image, (k, 4) float32 pixels by descending score, and in training the terms "loss_rpn_*"."""
        maps = list(features.values())
        logit_maps, delta_maps = self.head(maps)
        logits = [level.flatten(1) for level in logit_maps]  # L of (n, A H W)
        deltas = torch.cat(  # (n, N, 4)
            [level.unflatten(1, (-1, 4)).movedim(2, -1).flatten(1, 3) for level in delta_maps], dim=1
        ).float()
        anchors = self.anchor_generator(images, maps)[0]  # (N, 4), the same for every image
        proposals = self.propose(logits, deltas, anchors, images)
        if not self.training:
            return proposals, {}
        assert targets is not None
        match = self.assign(anchors, images, maps, targets)
        truths = torch.cat([target["boxes"] for target in targets])
        layout = MapLayout.of(maps, self.anchor_generator.num_anchors_per_location()[0])
        terms, statistics = self.loss(self.head_outputs(logits, deltas, anchors, layout, match, truths))
        self.statistics = {f"{name}_rpn": value for name, value in statistics.items()}
        return proposals, {f"loss_rpn_{name}": term for name, term in terms.items()}

    @torch.no_grad()
    def propose(
        self,
        logits: list[Tensor],  # L of (n, A H W)
        deltas: Tensor,  # (n, N, 4)
        anchors: Tensor,  # (N, 4)
        images: ImageList,
    ) -> list[Tensor]:
        """The best anchors of each level, decoded, clipped and freed of duplicates: per image (k, 4) pixels."""
        scores, indices, first = [], [], 0
        for level in logits:
            best, index = level.topk(min(self.pre_nms_top_n(), level.shape[1]), dim=1)
            scores.append(best.float())
            indices.append(index + first)
            first += level.shape[1]
        kept = torch.cat(indices, dim=1)  # (n, k)
        boxes = self.box_coder.decode_single(deltas.gather(1, kept[..., None].expand(-1, -1, 4)), anchors[kept])
        sizes = [index.shape[1] for index in indices]
        return self.filter_proposals(boxes, torch.cat(scores, dim=1), images.image_sizes, sizes)[0]

    @torch.no_grad()
    def assign(
        self,
        anchors: Tensor,  # (N, 4)
        images: ImageList,
        maps: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """The match of each anchor of each image, (n, N) int64, with ground truths counted through the batch."""
        truths = [target["boxes"] for target in targets]
        matches = match_batch(self.proposal_matcher, [anchors] * len(truths), truths)
        outside = self.anchor_generator.outside(images, maps, PADDING)
        if outside is not None:
            matches = [m.masked_fill(o, IGNORED) for m, o in zip(matches, outside, strict=True)]
        return torch.stack(subsample(self.fg_bg_sampler, matches))

    def head_outputs(
        self,
        logits: list[Tensor],  # L of (n, A H W)
        deltas: Tensor,  # (n, N, 4)
        anchors: Tensor,  # (N, 4)
        layout: MapLayout,
        match: Tensor,  # (n, N)
        truths: Tensor,  # (all ground truth, 4)
    ) -> HeadOutputs:
        """Predictions beside their truths, boxes in the frame of their anchor (as in the paper's code)."""
        image, anchor = (match >= 0).nonzero(as_tuple=True)
        positives = anchors[anchor]
        index = layout.place(image, anchor, channels=1).squeeze(1)
        own = gather_levels([level.detach() for level in logits], index)  # (P,)
        return HeadOutputs(
            logits=logits,
            ignore=[part == IGNORED for part in match.split([level.shape[1] for level in logits], dim=1)],
            index=index,
            rows=own[:, None],
            deltas=deltas[image, anchor],
            references=positives.new_tensor([-0.5, -0.5, 0.5, 0.5]).expand_as(positives),
            truths=to_unit_frame(truths[match[image, anchor]], positives),
            coder=self.box_coder,
        )
