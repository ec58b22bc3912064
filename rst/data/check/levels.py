"""How many anchors of each pyramid level to expect as positives of the RPN.

An anchor is positive if its IoU with an object is at least 0.7; and all that share the best IoU of an object are, if
that is at least 0.3. Both are counted here for a sample of the objects, where they lie in the resized picture, each as
if it were alone in it: objects that compete for an anchor are what the estimate leaves out, beside chance.

Letters: K objects, L levels, n columns and m rows of cells near an object.
"""

from collections.abc import Sequence

import numpy as np

STRIDES = (4, 8, 16, 32, 64)  # pixels: P2 to P6
RATIOS = (0.5, 1.0, 2.0)  # height / width
SCALE = 8.0  # side of a square anchor, in strides
POSITIVE_IOU, LEAST_IOU = 0.7, 0.3
PADDING = 32  # pixels: sides of a picture in a batch are multiples of this
SAMPLE = 2_000  # objects


def positives_per_level(
    boxes: np.ndarray,
    sizes: np.ndarray,
    *,
    strides: Sequence[int] = STRIDES,
    scale: float = SCALE,
    ratios: Sequence[float] = RATIOS,
    sample: int = SAMPLE,
) -> tuple[np.ndarray, float]:
    """Mean number (L,) float64 of positive anchors of an object, and the share of objects that have none.

    Args:
        boxes: (K, 4) XYXY of the objects in the resized pictures, pixels.
        sizes: (K, 2) height and width of the resized picture of each.
        strides, scale, ratios: of the anchors.
        sample: objects looked at.
    """
    chosen = np.arange(len(boxes))
    if len(boxes) > sample:
        chosen = np.random.default_rng(0).choice(len(boxes), sample, replace=False)
    counts = np.zeros((len(chosen), len(strides)))
    for row, (box, size) in enumerate(zip(boxes[chosen].astype(np.float32), sizes[chosen], strict=True)):
        counts[row] = _positives(box, size, strides, scale, ratios)
    if not len(chosen):
        return np.zeros(len(strides)), 0.0
    return counts.mean(0), float((counts.sum(1) == 0).mean())


def _positives(
    box: np.ndarray, size: np.ndarray, strides: Sequence[int], scale: float, ratios: Sequence[float]
) -> np.ndarray:
    """(L,) positives of one object."""
    ious = {}
    for level, stride in enumerate(strides):
        cells = -(-(-(-size // PADDING) * PADDING) // stride)  # rows and columns of the level's map
        for ratio in ratios:
            half = 0.5 * stride * scale * np.array([ratio**-0.5, ratio**0.5])  # of width, of height
            iou = _ious(box, half, stride, cells)
            if iou.max(initial=0.0) >= LEAST_IOU:
                ious[level, ratio] = iou
    best = max((float(iou.max()) for iou in ious.values()), default=np.inf)
    counts = np.zeros(len(strides))
    for (level, _), iou in ious.items():
        counts[level] += ((iou >= POSITIVE_IOU) | (iou == best)).sum()
    return counts


def _ious(box: np.ndarray, half: np.ndarray, stride: int, cells: np.ndarray) -> np.ndarray:
    """(m, n) float32: IoU of an object with the anchors of one form whose centre is nearer than their sides reach.

    In float32, like the detectors: whether anchors tie depends on the rounding.
    """
    wide, high = box[2] - box[0], box[3] - box[1]
    largest = min(wide, 2 * half[0]) * min(high, 2 * half[1])
    if largest < LEAST_IOU * (wide * high + 4 * half[0] * half[1] - largest):
        return np.zeros((0, 0), np.float32)
    overlaps, lengths = [], []
    for axis in (1, 0):
        first = max(0, int(np.floor((box[axis] - half[axis]) / stride)))
        last = min(int(cells[1 - axis]), int(np.ceil((box[axis + 2] + half[axis]) / stride)) + 1)
        centres = np.arange(first, last, dtype=np.float32) * np.float32(stride)
        low, top = centres - np.float32(half[axis]), centres + np.float32(half[axis])
        overlaps.append((np.minimum(top, box[axis + 2]) - np.maximum(low, box[axis])).clip(min=0))
        lengths.append(top - low)
    shared = overlaps[1][None, :] * overlaps[0][:, None]
    areas = lengths[1][None, :] * lengths[0][:, None] + wide * high
    return shared / (areas - shared)
