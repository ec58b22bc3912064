"""SOLOv2's two ways of suppression: a cell beside a better one (points NMS), and a mask over a better one (matrix NMS).

n  images    C  classes    S  cells along a side of a grid    m  masks, by descending score    h, w  cells of a mask
"""

import torch
from torch import Tensor
from torch.nn import functional as F

NUMBERS_AT_ONCE = 2**24  # of the largest temporary: 64 MiB of float32


def points_nms(
    scores: Tensor,  # (n, C, S, S) float32
) -> Tensor:
    """The scores, 0 where a cell is not the best of the 2 x 2 cells that it is the last of; equals stay."""
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return torch.where(best == scores, scores, 0)


@torch.no_grad()
def matrix_nms(
    masks: Tensor,  # (m, h, w) bool
    labels: Tensor,  # (m,) int64
    sigma: float = 2.0,
) -> Tensor:
    """The factor in (0, 1] that each score decays by, (m,) float32 (Wang et al., NeurIPS 2020, section 3.3; Gaussian).

    Of mask j, over the better masks i of its class, the least exp(-sigma IoU_ij²) / exp(-sigma c_i²), where c_i is the
    largest IoU of i with a mask better still: a mask that is suppressed itself suppresses less. It is 1 without any.

    The masks come by descending score. Columns are done a few at a time, from the best on, and pixels likewise, so that
    beside the masks the memory is bounded: there is no matrix of m x m, and no float of all masks.
    """
    flat = masks.flatten(1)
    area = flat.sum(1, dtype=torch.float32)  # (m,)
    number = torch.arange(len(masks), dtype=torch.int64, device=masks.device)
    largest, penalty = torch.zeros_like(area), torch.zeros_like(area)  # c, and the exponent without sigma
    step = max(1, NUMBERS_AT_ONCE // max(len(masks), 1))
    for start in range(0, len(masks), step):
        own, better = slice(start, start + step), slice(0, start + step)
        common = _intersections(flat[better], flat[own])
        related = (number[better, None] < number[own]) & (labels[better, None] == labels[own])
        overlap = torch.where(related, common / (area[better, None] + area[own] - common).clamp(min=1), 0)
        largest[own] = overlap.amax(0)
        excess = overlap.square() - largest[better, None].square()
        penalty[own] = torch.where(related, excess, 0).amax(0)
    return (-sigma * penalty).exp()


def _intersections(
    first: Tensor,  # (a, h w) bool
    second: Tensor,  # (b, h w) bool
) -> Tensor:
    """(a, b) float32: the pixels that each two share; whole numbers, and exact in any precision of the products."""
    common = torch.zeros(len(first), len(second), dtype=torch.float32, device=first.device)
    pixels = max(1, NUMBERS_AT_ONCE // max(len(first), 1))
    with torch.autocast(first.device.type, enabled=False):  # which would round sums
        for a, b in zip(first.split(pixels, dim=1), second.split(pixels, dim=1), strict=True):
            common.addmm_(a.float(), b.float().T)
    return common
