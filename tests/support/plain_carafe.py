"""CARAFE's operator as published, one fine cell after another.

n  images    C  channels    h, w  cells of the coarse map
k  side of a kernel    r  scale: fine cells along the side of a coarse one
"""

from itertools import product

from torch import Tensor
from torch.nn import functional as F


def plain_kernels(encoded: Tensor, side: int, scale: int) -> Tensor:
    """(n, k^2, r h, r w): as published, one kernel for each fine cell: shuffled, then normalised."""
    return (
        F.pixel_shuffle(encoded, scale)
        .reshape(len(encoded), side**2, *(scale * s for s in encoded.shape[2:]))
        .softmax(1)
    )


def plain_reassembly(features: Tensor, kernels: Tensor, scale: int) -> Tensor:
    """Equation 4 of the paper, cell by cell; `kernels` are those of `plain_kernels`."""
    images, channels, height, width = features.shape
    half = int(kernels.shape[1] ** 0.5) // 2
    fine = features.new_zeros(images, channels, height * scale, width * scale)
    for image, y, x in product(range(images), range(height * scale), range(width * scale)):
        offsets = product(range(-half, half + 1), repeat=2)
        for weight, (down, right) in zip(kernels[image, :, y, x], offsets, strict=True):
            row, column = y // scale + down, x // scale + right
            if 0 <= row < height and 0 <= column < width:
                fine[image, :, y, x] += weight * features[image, :, row, column]
    return fine
