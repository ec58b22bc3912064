"""From scored cells and their kernels to the masks of an image: threshold, maskness, matrix NMS, the best ones.

N  cells of an image    C  classes    E  channels of a kernel    h, w  cells of a mask    u  kernels    r  candidates
k  detections    H, W  pixels of the image
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.mask_shapes import STRIDE, mask_boxes
from ..geometry.masks import PIXELS_AT_ONCE, combine
from ..geometry.numbers import require_above_zero, require_count, require_share
from .matrix_nms import matrix_nms
from .select import Detections


@dataclass(frozen=True)
class MaskDetectionSettings:
    """Which masks of an image are returned.

    Args:
        score_threshold: lowest score of a cell's class; 0.1 as published, and 0.2 with Rank & Sort.
        least_cells: of each level, masks of at most so many cells (of 4 x 4 pixels) are left out.
        pre_nms: masks that the suppression looks at, the best.
        sigma: of the suppression, see `matrix_nms`: the larger, the lower the scores of masks over others.
        update_threshold: lowest score after the suppression.
        limit: at most this many detections of an image.
        mask_threshold: a pixel whose probability is higher belongs to its mask.
    """

    score_threshold: float = 0.1
    least_cells: Sequence[int] = (8, 8, 16, 32, 32)
    pre_nms: int = 500
    sigma: float = 2.0
    update_threshold: float = 0.05
    limit: int = 100
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("score_threshold", "update_threshold", "mask_threshold"):
            require_share(f"detections.{name}", getattr(self, name))
        for cells in self.least_cells:
            require_count("detections.least_cells", cells, least=0)
        require_count("detections.pre_nms", self.pre_nms)
        require_count("detections.limit", self.limit)
        require_above_zero("detections.sigma", self.sigma)


def select_masks(
    scores: Tensor,  # (N, C) float32
    kernels: Tensor,  # (N, E)
    features: Tensor,  # (E, h, w)
    least_cells: Tensor,  # (N,) int64
    shape: tuple[int, int],
    settings: MaskDetectionSettings,
) -> Detections:
    """The detections of an image; the box of each is the box of its mask.

    Each score is multiplied by the maskness, the mean probability inside the mask, before the suppression, and by what
    the suppression leaves after it. Cells are looked at a few at a time; what is held of all is two numbers each, and
    of the `pre_nms` best their masks as bool.

    Args:
        scores: of each cell and class, after points NMS.
        kernels: of each cell.
        features: that the kernels make masks of, of stride 4.
        least_cells: of the level of each cell.
        shape: H and W.
        settings: the rest.
    """
    cell, label = (scores > settings.score_threshold).nonzero(as_tuple=True)
    own, of_candidate = cell.unique(return_inverse=True)  # classes of a cell share its mask
    area, maskness = _measures(kernels[own], features, settings.mask_threshold)
    score = scores[cell, label] * maskness[of_candidate]
    large = area[of_candidate] > least_cells[cell]
    cell, label, score = cell[large], label[large], score[large]
    best = score.argsort(descending=True, stable=True)[: settings.pre_nms]
    cell, label, score = cell[best], label[best], score[best]

    own, of_candidate = cell.unique(return_inverse=True)
    masks = torch.cat([some > settings.mask_threshold for some in _probabilities(kernels[own], features)])
    score = score * matrix_nms(masks[of_candidate], label, settings.sigma)
    best = score.argsort(descending=True, stable=True)[: settings.limit]
    best = best[score[best] >= settings.update_threshold]
    cell, label, score = cell[best], label[best], score[best]

    masks = _in_image(kernels[cell], features, shape, settings.mask_threshold)
    boxes = mask_boxes(masks)
    seen = boxes[:, 2] > boxes[:, 0]  # not in the padding alone, nor lost between cells
    return Detections(boxes[seen], score[seen], label[seen], cell[seen], masks[seen])


def _measures(kernels: Tensor, features: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Of each mask how many cells it has, (u,) float32, and the mean probability of those, (u,) float32."""
    areas, means = [kernels.new_zeros(0, dtype=torch.float32)], [kernels.new_zeros(0, dtype=torch.float32)]
    for probabilities in _probabilities(kernels, features):
        inside = probabilities > threshold
        areas.append(inside.sum((1, 2), dtype=torch.float32))
        means.append(torch.where(inside, probabilities, 0).sum((1, 2)) / areas[-1].clamp(min=1))
    return torch.cat(areas), torch.cat(means)


def _in_image(kernels: Tensor, features: Tensor, shape: tuple[int, int], threshold: float) -> Tensor:
    """(k, H, W) bool: the masks enlarged bilinearly, cut to the image and compared with the threshold."""
    height, width = shape
    masks = torch.zeros(len(kernels), height, width, dtype=torch.bool, device=kernels.device)
    done = 0
    for probabilities in _probabilities(kernels, features, enlarged=STRIDE):
        large = F.interpolate(probabilities[:, None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
        masks[done : done + len(large)] = large[:, 0, :height, :width] > threshold
        done += len(large)
    return masks


def _probabilities(kernels: Tensor, features: Tensor, enlarged: int = 1) -> Iterator[Tensor]:
    """The masks, (some, h, w) float32 in [0, 1], so many at a time as memory allows, also `enlarged` times as large."""
    for some in kernels.split(max(1, PIXELS_AT_ONCE // (features[0].numel() * enlarged**2))):
        yield combine(some, features).sigmoid()
