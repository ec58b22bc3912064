"""Box algebra of the detectors: the delta coder, paired overlaps, and the frame of a unit anchor.

    P  paired boxes    G  ground-truth boxes    N  candidates

Boxes are XYXY float32, in pixels or in any other affine frame.

torchvision's coder bounds a box's growth but not its shrinking, and its paired overlaps have another epsilon; here the
numbers are those of the Rank & Sort paper's code.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection_utils

# A prediction is at most 62.5 times larger or smaller than its reference box.
SIZE_LIMIT = abs(math.log(16 / 1000))
# Floor of a union or an enclosing area, in squared units of the frame.
AREA_FLOOR = 1e-6


class BoxCoder(detection_utils.BoxCoder):
    """Deltas (dx, dy, dw, dh) of a box against a reference, divided by their standard deviations; dw, dh clamped twice.

    Args:
        std: standard deviations of the four deltas, (0.1, 0.1, 0.2, 0.2) for every box branch trained with Rank & Sort.
    """

    def __init__(self, std: Sequence[float]) -> None:
        wx, wy, ww, wh = (1.0 / s for s in std)
        super().__init__(weights=(wx, wy, ww, wh), bbox_xform_clip=SIZE_LIMIT)

    def decode_single(
        self,
        rel_codes: Tensor,  # (..., 4) float deltas
        boxes: Tensor,  # (..., 4) reference boxes, broadcast against the deltas
    ) -> Tensor:
        """The boxes that the deltas describe, (..., 4), in the references' frame; not clipped to any image."""
        wx, wy, ww, wh = self.weights
        dx, dy, dw, dh = rel_codes.unbind(-1)
        left, top, right, bottom = boxes.unbind(-1)
        reference_width, reference_height = right - left, bottom - top
        x = left + 0.5 * reference_width + dx / wx * reference_width
        y = top + 0.5 * reference_height + dy / wy * reference_height
        half_width = 0.5 * reference_width * (dw / ww).clamp(-SIZE_LIMIT, SIZE_LIMIT).exp()
        half_height = 0.5 * reference_height * (dh / wh).clamp(-SIZE_LIMIT, SIZE_LIMIT).exp()
        return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def to_unit_frame(
    boxes: Tensor,  # (P, 4)
    anchors: Tensor,  # (P, 4) of positive width and height
) -> Tensor:
    """Each box in the frame where its anchor is [-0.5, 0.5]²; IoU and GIoU of two boxes are the same there."""
    origin, corner = anchors.split(2, dim=-1)
    size = corner - origin
    centre = origin + 0.5 * size
    return (boxes - centre.repeat(1, 2)) / size.repeat(1, 2)


def pairwise_iou(
    truths: Tensor,  # (G, 4)
    candidates: Tensor,  # (N, 4)
) -> Tensor:
    """IoU of every ground truth with every candidate: (G, N) in [0, 1]; 0 where either has no area.

    On (G, N) planes with N innermost: 4.5 times faster than torchvision's (G, N, 2) on a CPU at G = 50, N = 12,495, and
    about half its memory, which with 270,000 anchors an image is a detector's largest temporary.
    """
    left, top, right, bottom = candidates.T.contiguous()  # (N,) each
    truth_left, truth_top, truth_right, truth_bottom = truths.T[..., None]  # (G, 1) each
    width = (torch.minimum(right, truth_right) - torch.maximum(left, truth_left)).clamp_(min=0)
    height = (torch.minimum(bottom, truth_bottom) - torch.maximum(top, truth_top)).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (right - left) * (bottom - top) + (truth_right - truth_left) * (truth_bottom - truth_top)
    return intersection / areas.sub_(intersection).clamp_(min=AREA_FLOOR)


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    extent = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    intersection = extent.clamp(min=0).prod(dim=-1)
    areas = (first[..., 2:] - first[..., :2]).prod(dim=-1) + (second[..., 2:] - second[..., :2]).prod(dim=-1)
    return intersection, (areas - intersection).clamp(min=AREA_FLOOR)


def paired_iou(
    first: Tensor,  # (..., 4)
    second: Tensor,  # (..., 4), broadcast against the first
) -> Tensor:
    """IoU of each first box with its second: (...) in [0, 1]; 0 where either box has no area."""
    intersection, union = _intersection_and_union(first, second)
    return (intersection / union).clamp(max=1)  # rounding may leave a union just below its intersection


def paired_giou(
    first: Tensor,  # (..., 4)
    second: Tensor,  # (..., 4), broadcast against the first
) -> Tensor:
    """Generalised IoU of each first box with its second: (...) in (-1, 1] (Rezatofighi et al., CVPR 2019)."""
    intersection, union = _intersection_and_union(first, second)
    extent = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    enclosing = extent.clamp(min=0).prod(dim=-1).clamp(min=AREA_FLOOR)
    return intersection / union - (enclosing - union) / enclosing
