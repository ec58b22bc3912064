"""Algebra of masks: how well two overlap, the frame of a padded batch, and the part of a mask inside a box.

P  paired masks    G  masks of an image    H, W  pixels    h, w  cells of a mask    T  boxes    M  masks of the batch
k  maps of an image
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from .transfers import constant

# Added to the denominator, as published: two empty masks have a Dice coefficient of 0.
DICE_FLOOR = 1e-5
PIXELS_AT_ONCE = 2**25  # of masks cut together: 128 MiB of float32


def paired_dice(
    first: Tensor,  # (P, h, w) float32 in [0, 1]
    second: Tensor,  # (P, h, w) float32 in [0, 1]
    floor: float = DICE_FLOOR,
) -> Tensor:
    """Dice coefficient of each first mask with its second: (P,) in [0, 1] (paper, section 5.1; Milletari et al., 2016).

    2 sum(a b) / (sum(a²) + sum(b²) + floor), the sums over the cells of a pair.
    """
    first, second = first.flatten(1), second.flatten(1)
    intersection = (first * second).sum(dim=1)
    return 2 * intersection / (first.square().sum(dim=1) + second.square().sum(dim=1) + floor)


def combine(
    coefficients: Tensor,  # (T, k)
    maps: Tensor,  # (k, h, w) of one image
) -> Tensor:
    """Sums of maps, the logits of masks of one image: (T, h, w) float32, also under autocast."""
    with torch.autocast(maps.device.type, enabled=False):
        logits = coefficients.float() @ maps.float().flatten(1)
    return logits.unflatten(1, maps.shape[1:])


def pad_masks(
    masks: Tensor,  # (G, H, W)
    size: tuple[int, int],
) -> Tensor:
    """The masks in the frame of a padded batch, (G, *size), with nothing in the padding below and to the right."""
    height, width = masks.shape[-2:]
    if (height, width) == size:
        return masks
    return F.pad(masks, (0, size[1] - width, 0, size[0] - height))


def shrink_masks(
    masks: Tensor,  # (G, H, W) bool or uint8
    stride: int,
    size: tuple[int, int],
    least: int = 3,
) -> Tensor:
    """The masks in a frame of `size` cells, each of `stride` (even) pixels, (G, *size) bool; nothing beyond the image.

    A cell is set where at least `least` of the four pixels around its centre are: with 3 where bilinear interpolation
    at the centre is more than a half, with 2 where it is a half or more. So a mask may vanish.
    """
    middle = [slice(at, None, stride) for at in (stride // 2 - 1, stride // 2)]
    four = [pad_masks(masks[:, rows, columns].bool(), size) for rows in middle for columns in middle]
    return torch.stack(four).sum(dim=0, dtype=torch.uint8) >= least


@torch.no_grad()
def crop_masks(
    masks: Sequence[Tensor],  # per image (G, H, W) bool or uint8
    boxes: Tensor,  # (T, 4) float32 pixels, those of each mask together, in the order of the masks
    counts: Sequence[int],  # (M,) boxes of each mask, in the order of the images
    side: int,
) -> Tensor:
    """What lies in each box of its mask, stretched to a square: (T, side, side) float32, 0 or 1.

    A cell is 1 where at least half of it is covered, by RoIAlign with adaptive sampling, as in the published code.
    """
    parts = [
        (roi_align(planes[:, None], rois, side, sampling_ratio=0, aligned=True)[:, 0] >= 0.5).float()
        for planes, rois in _with_boxes(masks, boxes, counts)
    ]
    return torch.cat(parts) if parts else boxes.new_zeros(0, side, side)


@torch.no_grad()
def shares_inside(
    masks: Sequence[Tensor],  # per image (G, H, W) bool or uint8
    boxes: Tensor,  # (T, 4) float32 pixels, as in `crop_masks`
    counts: Sequence[int],  # (M,)
) -> Tensor:
    """Which part of its mask lies in each box, whole pixels from floor to floor, both included: (T,) float32 in [0, 1].

    0 for an empty mask.
    """
    parts = []
    for planes, rois in _with_boxes(masks, boxes, counts):
        height, width = planes.shape[1:]
        sums = F.pad(planes.cumsum(1).cumsum(2), (1, 0, 1, 0))  # of all pixels above and left
        mask, (left, top, right, bottom) = rois[:, 0].long(), rois[:, 1:].long().unbind(1)
        left, right = left.clamp(0, width), (right + 1).clamp(0, width)
        top, bottom = top.clamp(0, height), (bottom + 1).clamp(0, height)
        inside = sums[mask, bottom, right] - sums[mask, top, right] - sums[mask, bottom, left] + sums[mask, top, left]
        parts.append(inside / sums[mask, -1, -1].clamp(min=1))
    return torch.cat(parts) if parts else boxes.new_zeros(0)


def _with_boxes(masks: Sequence[Tensor], boxes: Tensor, counts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The masks that have boxes, (g, H, W) float32, a few at a time to bound the memory, and (mask, box) (t, 5)."""
    first, place = 0, 0
    for of_image in masks:
        of_masks = counts[first : first + len(of_image)]
        first += len(of_image)
        used = [i for i, count in enumerate(of_masks) if count]
        step = max(1, PIXELS_AT_ONCE // max(1, of_image.shape[1] * of_image.shape[2]))
        for start in range(0, len(used), step):
            chunk = used[start : start + step]
            repeats = [of_masks[i] for i in chunk]
            index = torch.arange(len(chunk), dtype=torch.int64, device=boxes.device).repeat_interleave(
                constant(repeats, torch.int64, boxes.device), output_size=sum(repeats)
            )
            own = boxes[place : place + len(index)]
            place += len(index)
            planes = of_image[constant(chunk, torch.int64, of_image.device)].to(boxes.dtype)
            yield planes, torch.cat((index[:, None].to(own.dtype), own), dim=1)
