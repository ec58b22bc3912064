"""Repeat-factor sampling: images with rare classes occur several times an epoch (Gupta et al., LVIS, CVPR 2019).

N  images    K  objects    C  classes    S  sum of the repeat factors
"""

from typing import Literal, get_args

import numpy as np

Rounding = Literal["random", "up"]


def repeat_factors(owners: np.ndarray, labels: np.ndarray, images: int, threshold: float) -> np.ndarray:
    """(N,) float64, at least 1: max over an image's classes c of max(1, sqrt(threshold / f_c)).

    f_c is the share of the images with an object of class c. An image without objects has the factor 1.

    Args:
        owners: (K,) image of each object, in [0, N).
        labels: (K,) class of each object, not negative.
        images: N.
        threshold: share of the images below which a class is repeated, in (0, 1]; LVIS and the Rank & Sort paper
            have 0.001.
    """
    factors = np.ones(images)
    if not len(labels):
        return factors
    classes = int(labels.max()) + 1
    pairs = np.unique(owners.astype(np.int64) * classes + labels)  # each class once per image
    owner, label = np.divmod(pairs, classes)
    share = np.bincount(label, minlength=classes) / images  # (C,)
    np.maximum.at(factors, owner, np.sqrt(threshold / share[label]))
    return factors


def round_factors(factors: np.ndarray, rounding: Rounding, generator: np.random.Generator) -> np.ndarray:
    """(N,) int64: how often each image occurs in one epoch.

    "up" rounds each factor up, in every epoch alike, as in the published code of the Rank & Sort paper.
    "random" rounds up with the probability of the fraction, as in the LVIS paper: the mean over the epochs is the
    factor. One draw rounds all images (systematic sampling in a random order): their sum is S rounded up or down, and
    the lengths of two epochs differ by one image at most.
    """
    if rounding == "up":
        return np.ceil(factors).astype(np.int64)
    order = generator.permutation(len(factors))
    whole = np.floor(factors[order])
    reached = np.floor(np.cumsum(factors[order] - whole) + generator.uniform())
    counts = np.empty(len(factors), np.int64)
    counts[order] = whole + np.diff(reached, prepend=0.0)
    return counts


def check_repeats(threshold: float | None, rounding: str) -> None:
    """Raise ValueError for an invalid threshold or rounding; a threshold of None means no repeats."""
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise ValueError(f"repeat_threshold must lie in (0, 1], a share of the images, got {threshold}")
    if rounding not in get_args(Rounding):
        raise ValueError(f"repeat_rounding must be 'random' or 'up', got {rounding!r}")
