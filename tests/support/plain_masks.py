"""The part of a mask inside a box, sample by sample in float64, as RoIAlign defines it.

H, W  pixels of a mask    S  cells along a side
"""

import math

import numpy as np


def plain_crop(mask: np.ndarray, box: list[float], side: int) -> np.ndarray:
    """The covered share of each cell, (S, S) float64: the mean over samples that are at most a pixel apart.

    Args:
        mask: (H, W), 0 or 1.
        box: XYXY pixels.
        side: S.
    """
    left, top, right, bottom = (value - 0.5 for value in box)  # the centre of pixel 0 is 0
    x, y = _samples(left, right, side), _samples(top, bottom, side)  # (S, samples) each
    if not x.size or not y.size:
        return np.zeros((side, side))
    values = _at(mask, y.ravel(), x.ravel()).reshape(*y.shape, *x.shape)
    return values.mean(axis=(1, 3))


def _samples(low: float, high: float, side: int) -> np.ndarray:
    cell = (high - low) / side
    count = math.ceil(np.float32(high - low) / side)
    return low + cell * (np.arange(side)[:, None] + (np.arange(count) + 0.5) / max(count, 1))


def _at(mask: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear values at all pairs of y and x; beyond a pixel outside of the mask 0, before that those of its edge."""
    return _weights(y, mask.shape[0]) @ mask.astype(np.float64) @ _weights(x, mask.shape[1]).T


def _weights(at: np.ndarray, length: int) -> np.ndarray:
    """What each pixel counts at each place, (places, length)."""
    inside = (at >= -1) & (at <= length)
    clamped = at.clip(0, length - 1)
    distance = np.abs(clamped[:, None] - np.arange(length))
    return np.where(inside[:, None], (1 - distance).clip(0), 0)
