"""The random, balanced sampling of score-based two-stage detectors, which Rank & Sort does without.

    n  images    N  candidates (anchors or proposals) of an image

A sampler maps matches to matches: it sets to IGNORED what it leaves out. Whatever reads a match needs no sampler.
"""

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from .scene import IGNORED, Assigner, Predictions, Scene


def subsample(sampler: BalancedPositiveNegativeSampler | None, matches: list[Tensor]) -> list[Tensor]:
    """The matches (N,) of each image, with all but a random part set to IGNORED; unchanged without a sampler."""
    if sampler is None:
        return matches
    # torchvision's sampler reads -1 as ignored, 0 as negative and the rest as positive: a match plus one.
    positives, negatives = sampler([match + 1 for match in matches])
    return [
        match.masked_fill(~(positive | negative).bool(), IGNORED)
        for match, positive, negative in zip(matches, positives, negatives, strict=True)
    ]


class SampledAssigner(Assigner):
    """Samples from the matches of another assigner, without those in the padding."""

    def __init__(self, assigner: Assigner, sampler: BalancedPositiveNegativeSampler) -> None:
        self.assigner, self.sampler = assigner, sampler

    @property
    def by_iou(self) -> bool:
        return self.assigner.by_iou

    def match(self, scene: Scene, predictions: Predictions | None) -> Tensor:
        return torch.stack(subsample(self.sampler, list(self.assigner(scene, predictions))))
