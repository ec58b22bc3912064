"""Which candidate box answers for which ground truth: IoU matching, and the sampling that Rank & Sort does without.

    G  ground-truth boxes    N  candidates (anchors or proposals) of an image

A match is an int64 per candidate: the index of its ground truth, NEGATIVE, or IGNORED. A sampler maps matches to
matches and sets to IGNORED what it leaves out, so that whatever reads a match need not know about samplers.
"""

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from ..geometry.boxes import pairwise_iou

NEGATIVE = Matcher.BELOW_LOW_THRESHOLD
IGNORED = Matcher.BETWEEN_THRESHOLDS


class MaxIoUMatcher(Matcher):
    """Positive at IoU >= `positive_iou` with the best ground truth, negative below `negative_iou`, ignored in between.

    With `low_quality`, every ground truth whose best IoU is at least `min_positive_iou` then takes *all* candidates
    that reach this best, also from another ground truth; among several such ground truths the last wins. torchvision
    hands such a candidate to the candidate's own best ground truth instead, and knows no lower bound. A ground truth
    that no candidate overlaps takes none.
    """

    def __init__(
        self,
        positive_iou: float,
        negative_iou: float,
        *,
        low_quality: bool = False,
        min_positive_iou: float = 0.0,
    ) -> None:
        super().__init__(positive_iou, negative_iou, allow_low_quality_matches=low_quality)
        self.min_positive_iou = min_positive_iou

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """The match of each candidate, (N,), from the IoU matrix (G, N); all negative without ground truth."""
        if match_quality_matrix.numel() == 0:
            candidates = match_quality_matrix.shape[1]
            return torch.full((candidates,), NEGATIVE, dtype=torch.int64, device=match_quality_matrix.device)
        return super().__call__(match_quality_matrix)

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        best = match_quality_matrix.amax(dim=1, keepdim=True)  # (G, 1)
        claimed = (best >= self.min_positive_iou) & (best > 0)
        tied = match_quality_matrix == best.masked_fill(~claimed, torch.inf)  # (G, N)
        count = torch.arange(1, len(best) + 1, dtype=torch.int32, device=best.device)[:, None]
        last = torch.where(tied, count, 0).amax(dim=0)  # (N,): 1 + last ground truth that claims the candidate, or 0
        matches.copy_(torch.where(last > 0, last - 1, matches))


def match_batch(
    matcher: Matcher,
    candidates: list[Tensor],  # per image (N, 4)
    truths: list[Tensor],  # per image (G, 4)
) -> list[Tensor]:
    """Per image the match (N,) of its candidates; ground truths are counted through the batch, image after image."""
    matches, first = [], 0
    for boxes, truth in zip(candidates, truths, strict=True):
        match = matcher(pairwise_iou(truth, boxes))
        matches.append(torch.where(match >= 0, match + first, match))
        first += len(truth)
    return matches


def subsample(sampler: BalancedPositiveNegativeSampler | None, matches: list[Tensor]) -> list[Tensor]:
    """The matches with all but a random, balanced part of each image set to IGNORED; unchanged without a sampler."""
    if sampler is None:
        return matches
    # torchvision's sampler reads -1 as ignored, 0 as negative and the rest as positive: a match plus one.
    positives, negatives = sampler([match + 1 for match in matches])
    return [
        match.masked_fill(~(positive | negative).bool(), IGNORED)
        for match, positive, negative in zip(matches, positives, negatives, strict=True)
    ]
