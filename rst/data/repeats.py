"""Repeat-factor sampling: pictures with rare classes occur several times an epoch (Gupta et al., LVIS, CVPR 2019).

Letters: N pictures, K objects, C classes, S the sum of the repeat factors.
"""

from typing import Literal, get_args

import numpy as np

Rounding = Literal["random", "up"]


def repeat_factors(owners: np.ndarray, labels: np.ndarray, pictures: int, threshold: float) -> np.ndarray:
    """(N,) float64, at least 1: max over a picture's classes c of max(1, sqrt(threshold / f_c)).

    f_c is the share of the pictures with an object of class c. A picture without objects has the factor 1.

    Args:
        owners: (K,) picture of each object, in [0, N).
        labels: (K,) class of each object, not negative.
        pictures: N.
        threshold: share of the pictures below which a class is repeated, in (0, 1]; LVIS and the Rank & Sort paper
            have 0.001.
    """
    factors = np.ones(pictures)
    if not len(labels):
        return factors
    classes = int(labels.max()) + 1
    pairs = np.unique(owners.astype(np.int64) * classes + labels)  # each class once a picture
    owner, label = np.divmod(pairs, classes)
    share = np.bincount(label, minlength=classes) / pictures  # (C,)
    np.maximum.at(factors, owner, np.sqrt(threshold / share[label]))
    return factors


def round_factors(factors: np.ndarray, rounding: Rounding, generator: np.random.Generator) -> np.ndarray:
    """(N,) int64: how often each picture occurs in one epoch.

    "up" rounds each factor up, which is what the published code of the Rank & Sort paper does: the same in every epoch.
    "random" rounds up with the probability of the fraction, so that the mean over the epochs is the factor, as the LVIS
    paper does. All pictures are rounded by one draw instead of N (systematic sampling in a random order), so that
    their sum is S rounded up or down, and every epoch as long as the next, to one picture.
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
    """Raise ValueError for a threshold or a rounding that there is not; None means no repeats."""
    if threshold is not None and not 0.0 < threshold <= 1.0:
        raise ValueError(f"repeat_threshold must lie in (0, 1], a share of the pictures, got {threshold}")
    if rounding not in get_args(Rounding):
        raise ValueError(f"repeat_rounding must be 'random' or 'up', got {rounding!r}")
