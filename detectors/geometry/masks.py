"""Algebra of masks: how well two overlap, and the frame of a padded batch.

P  paired masks    G  masks of an image    H, W  pixels    h, w  cells of a mask
"""

from torch import Tensor
from torch.nn import functional as F

# Added to the denominator, as published: two empty masks have a Dice coefficient of 0.
DICE_FLOOR = 1e-5


def paired_dice(
    first: Tensor,  # (P, h, w) float32 in [0, 1]
    second: Tensor,  # (P, h, w) float32 in [0, 1]
) -> Tensor:
    """Dice coefficient of each first mask with its second: (P,) in [0, 1] (paper, section 5.1; Milletari et al., 2016).

    2 sum(a b) / (sum(a²) + sum(b²) + 1e-5), the sums over the cells of a pair.
    """
    first, second = first.flatten(1), second.flatten(1)
    intersection = (first * second).sum(dim=1)
    return 2 * intersection / (first.square().sum(dim=1) + second.square().sum(dim=1) + DICE_FLOOR)


def pad_masks(
    masks: Tensor,  # (G, H, W)
    size: tuple[int, int],
) -> Tensor:
    """The masks in the frame of a padded batch, (G, *size), with nothing in the padding below and to the right."""
    height, width = masks.shape[-2:]
    if (height, width) == size:
        return masks
    return F.pad(masks, (0, size[1] - width, 0, size[0] - height))
