"""IoU matching: the candidates that overlap an object most are its positives.

n  images    G  objects of an image    N  candidates (anchors or proposals) of an image
"""

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from ..geometry.boxes import pairwise_iou
from .scene import IGNORED, NEGATIVE, Assigner, Predictions, Scene


class MaxIoUMatcher(Matcher):
    """Positive at IoU >= `positive_iou` with the best object, negative below `negative_iou`, ignored in between.

    With `low_quality`, every object whose best IoU is at least `min_positive_iou` then takes *all* candidates that
    reach this best, also from another object; among several such objects the last wins. torchvision hands such a
    candidate to the candidate's own best object instead, and has no lower bound. An object that no candidate overlaps
    takes none. Without `every_tie` an object takes only the first of them.
    """

    def __init__(
        self,
        positive_iou: float,
        negative_iou: float,
        *,
        low_quality: bool = False,
        min_positive_iou: float = 0.0,
        every_tie: bool = True,
    ) -> None:
        super().__init__(positive_iou, negative_iou, allow_low_quality_matches=low_quality)
        self.min_positive_iou = min_positive_iou
        self.every_tie = every_tie

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """The match of each candidate, (N,), from the IoU matrix (G, N); all negative without objects."""
        if match_quality_matrix.numel() == 0:
            candidates = match_quality_matrix.shape[1]
            return torch.full((candidates,), NEGATIVE, dtype=torch.int64, device=match_quality_matrix.device)
        return super().__call__(match_quality_matrix)

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        best = match_quality_matrix.amax(dim=1, keepdim=True)  # (G, 1)
        claimed = (best >= self.min_positive_iou) & (best > 0)
        tied = match_quality_matrix == best.masked_fill(~claimed, torch.inf)  # (G, N)
        if not self.every_tie:
            tied &= torch.cumsum(tied, dim=1, dtype=torch.int32) == 1
        count = torch.arange(1, len(best) + 1, dtype=torch.int32, device=best.device)[:, None]
        last = torch.where(tied, count, 0).amax(dim=0)  # (N,): 1 + last object that claims the candidate, or 0
        matches.copy_(torch.where(last > 0, last - 1, matches))


def match_batch(
    matcher: Matcher,
    candidates: list[Tensor],  # per image (N, 4)
    truths: list[Tensor],  # per image (G, 4)
) -> list[Tensor]:
    """Per image the match (N,) of its candidates; objects count through the batch, image after image."""
    matches, first = [], 0
    for boxes, truth in zip(candidates, truths, strict=True):
        match = matcher(pairwise_iou(truth, boxes))
        matches.append(torch.where(match >= 0, match + first, match))
        first += len(truth)
    return matches


class MaxIoUAssigner(Assigner):
    """Matches the anchors of each image by their IoU; those in the padding of their image take no part.

    Args:
        matcher: decides by the IoUs of an image.
        crossing: whether anchors that cross the border of their image take part. Without, they are ignored, and no
            object sees them (`allowed_border` of 0 in the published configurations of Cascade R-CNN).
    """

    def __init__(self, matcher: Matcher, *, crossing: bool = True) -> None:
        self.matcher, self.crossing = matcher, crossing

    @property
    def by_iou(self) -> bool:
        return self.crossing

    def match(self, scene: Scene, predictions: Predictions | None) -> Tensor:
        truths = list(scene.truth.boxes)
        out = [] if scene.outside is None else list(scene.outside)  # an object must not choose what is ignored anyway
        if not self.crossing:
            crossing = [~inside_image(scene.anchors, size) for size in scene.image_sizes]
            out = [a | b for a, b in zip(crossing, out, strict=True)] if out else crossing
        if not out:
            return torch.stack(match_batch(self.matcher, [scene.anchors] * len(truths), truths))
        # a box without area overlaps none
        candidates = [scene.anchors.masked_fill(of_image[:, None], 0) for of_image in out]
        match = torch.stack(match_batch(self.matcher, candidates, truths))
        return match if self.crossing else match.masked_fill(torch.stack(out), IGNORED)  # padding: by the caller


def inside_image(
    boxes: Tensor,  # (N, 4) pixels
    size: tuple[int, int],
) -> Tensor:
    """(N,) bool: which boxes lie in an image of that height and width."""
    height, width = size
    left, top, right, bottom = boxes.unbind(dim=1)
    return (left >= 0) & (top >= 0) & (right < width) & (bottom < height)
