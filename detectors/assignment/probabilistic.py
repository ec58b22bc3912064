"""Probabilistic anchor assignment (PAA): an object picks its positives by the losses of this step's predictions.

    n  images    L  levels    N  anchors of an image    G  objects of the batch    C  classes    A  anchors per cell
    H, W  cells of a level    k  candidates of an object and a level    K  of an object, L k

Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV 2020, section 3.1. Nothing
here waits for the device.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.boxes import BoxCoder, paired_giou, pairwise_iou
from ..geometry.layout import MapLayout
from .max_iou import MaxIoUMatcher
from .mixture import fit_mixtures
from .scene import NEGATIVE, Assigner, Predictions, Scene

CANDIDATE_IOU = 0.1
GAMMA, POSITIVE, NEGATIVES = 2, 0.25, 0.75  # of the focal loss by which candidates are compared
LEAST_CANDIDATES = 2  # fewer are no mixture


class ProbabilisticAssigner(Assigner):
    """Positive are those candidates of an object that a mixture of two Gaussians puts into the group of low losses.

    1. Each anchor belongs to the object that it overlaps most, from an IoU of 0.1 on; then each object takes the
       anchors that it overlaps most (`MaxIoUMatcher` with low quality matches). An object that no anchor overlaps has
       none, where published code gives it all that overlap nothing.
    2. The loss of an anchor is the focal loss over all classes plus `box_weight` times 1 - GIoU, of the predictions of
       this step. One that is not finite counts as the largest float32. The candidates of an object are, on each level,
       the anchors with the lowest losses; of equal ones the first.
    3. `separate` divides them. Nothing is ignored: all that is not positive is negative.

    Args:
        coder: of the deltas.
        candidates_per_level: 9 in the publication.
        box_weight: of the box error beside the focal loss: the factor of the box loss, or 1.
    """

    uses_predictions: ClassVar[bool] = True

    def __init__(self, coder: BoxCoder, candidates_per_level: int = 9, box_weight: float = 1.0) -> None:
        self.coder = coder
        self.candidates_per_level = candidates_per_level
        self.box_weight = box_weight
        self.matcher = MaxIoUMatcher(CANDIDATE_IOU, CANDIDATE_IOU, low_quality=True)

    @property
    def by_iou(self) -> bool:
        return True

    @torch.no_grad()
    def match(self, scene: Scene, predictions: Predictions | None) -> Tensor:
        assert predictions is not None
        images, anchors = scene.layout.images, len(scene.anchors)
        if not len(scene.truth.all_boxes):
            return torch.full((images, anchors), NEGATIVE, dtype=torch.int64, device=scene.anchors.device)
        own = self.nearest_objects(scene)  # (n, N)
        place, loss, there = self.candidates(own, self.losses(own, scene, predictions), scene)
        positive = separate(loss, there)
        objects = torch.arange(len(place), device=place.device)[:, None]
        # A place has one object, so that no two positives meet. What is not positive lowers nothing.
        match = torch.full((images * anchors,), NEGATIVE, dtype=torch.int64, device=place.device)
        match.scatter_reduce_(0, place.flatten(), torch.where(positive, objects, NEGATIVE).flatten(), "amax")
        return match.view(images, anchors)

    def nearest_objects(self, scene: Scene) -> Tensor:
        """The object (of the batch) whose candidate each anchor may become, (n, N) int64; NEGATIVE: none."""
        found, first = [], 0
        for image, boxes in enumerate(scene.truth.boxes):
            if not len(boxes):
                found.append(torch.full_like(scene.anchors[:, 0], NEGATIVE, dtype=torch.int64))
                continue
            overlap = pairwise_iou(boxes, scene.anchors)  # (objects of the image, N)
            if scene.outside is not None:
                overlap.masked_fill_(scene.outside[image], 0)  # the padding has no candidates
            best, own = overlap.max(0)
            own = torch.where(best >= CANDIDATE_IOU, own, NEGATIVE)
            self.matcher.set_low_quality_matches_(own, own, overlap)
            found.append(torch.where(own >= 0, own + first, NEGATIVE))
            first += len(boxes)
        return torch.stack(found)

    def losses(
        self,
        own: Tensor,  # (n, N) int64
        scene: Scene,
        predictions: Predictions,
    ) -> Tensor:
        """The loss of each anchor for the object that it belongs to, (n, N) float32; of the others without meaning."""
        layout, truth = scene.layout, own.clamp(min=0)
        labels = scene.truth.all_labels[truth].split(layout.counts, dim=1)
        pairs = zip(predictions.logits, labels, strict=True)
        focal = torch.cat([focal_losses(level, label, layout) for level, label in pairs], dim=1)
        deltas = [layout.by_anchor(level.detach()).transpose(2, 3).flatten(1, 2) for level in predictions.deltas]
        predicted = self.coder.decode_single(torch.cat(deltas, dim=1).float(), scene.anchors)  # (n, N, 4)
        loss = focal + self.box_weight * (1 - paired_giou(predicted, scene.truth.all_boxes[truth]))
        largest = torch.finfo(torch.float32).max
        return loss.nan_to_num(nan=largest, posinf=largest)

    def candidates(
        self,
        own: Tensor,  # (n, N) int64
        loss: Tensor,  # (n, N) float32
        scene: Scene,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each object, by ascending loss, (G, K) each: places in the raveled `own`, losses, and which are there."""
        levels, groups = len(scene.layout.sizes), len(scene.truth.all_boxes) * len(scene.layout.sizes)
        level = scene.layout.level_of(torch.arange(own.shape[1], device=own.device))
        group = torch.where(own >= 0, own * levels + level, groups).flatten()  # the others come last
        order = loss.flatten().argsort(stable=True)
        order = order[group[order].argsort(stable=True)]  # by group, then loss, then number
        group = group[order]
        of_each = torch.arange(groups, device=own.device)
        first, end = (torch.searchsorted(group, of_each, right=right) for right in (False, True))
        at = first[:, None] + torch.arange(self.candidates_per_level, device=own.device)  # (G L, k)
        there = (at < end[:, None]).view(-1, levels * self.candidates_per_level)
        place = order[at.clamp(max=len(order) - 1)].view_as(there)
        ascending = loss.flatten()[place].masked_fill(~there, torch.inf).argsort(dim=1, stable=True)
        place, there = place.gather(1, ascending), there.gather(1, ascending)
        return place, loss.flatten()[place], there


def separate(
    loss: Tensor,  # (G, K) finite, ascending where it is there
    there: Tensor,  # (G, K) bool
) -> Tensor:
    """The positives among the candidates of each object, (G, K) bool: scheme (c) of figure 3 of the publication.

    Positive are the candidates that more likely belong to the Gaussian of low losses, from the lowest loss up to the
    most likely of them; of equally likely ones up to the first. Two at the same distance from the mean differ by
    rounding alone, here as in published code. An object with a single candidate has no positive.
    """
    mixture = fit_mixtures(loss, there)
    low = mixture.in_first & there
    peak = mixture.log_likelihood.masked_fill(~low, -torch.inf).argmax(1, keepdim=True)
    rank = torch.arange(loss.shape[1], device=loss.device)
    return low & (rank <= peak) & (there.sum(1, keepdim=True) >= LEAST_CANDIDATES)


def focal_losses(
    level: Tensor,  # (n, A C, H, W) logits, any float dtype
    label: Tensor,  # (n, A H W) int64: the true class of each anchor
    layout: MapLayout,
) -> Tensor:
    """The focal loss of each anchor, summed over its classes, (n, A H W) float32."""
    logits = layout.by_anchor(level.detach())  # (n, A, C, H W)
    own = logits.gather(2, label.view(len(logits), layout.anchors, 1, -1)).squeeze(2).float()
    logits = logits.float()
    as_negatives = logits.sigmoid().pow_(GAMMA).mul_(F.softplus(logits)).sum(2)  # (n, A, H W)
    as_negative = own.sigmoid().pow(GAMMA) * F.softplus(own)
    as_positive = (-own).sigmoid().pow(GAMMA) * F.softplus(-own)
    return (NEGATIVES * (as_negatives - as_negative) + POSITIVE * as_positive).flatten(1)
