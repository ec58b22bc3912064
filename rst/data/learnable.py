"""Whether a set holds anything to learn from, and anything to find.

N  images    K  objects
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rst.coco.errors import DataError
from rst.data.annotations import Annotations

THIN = 1.0  # pixels after resizing: thinner boxes are left out (`rst.data.transforms`)


def require_objects(
    table: Annotations,
    file: Path,
    *,
    min_box_side: float,
    short_sides: Sequence[int],
    max_side: int,
    keep_ratio: bool,
    iou_crop: bool,
) -> None:
    """Refuse a training set without one object that the transforms leave.

    Args:
        table, file: the set.
        min_box_side, short_sides, max_side, keep_ratio, iou_crop: of `DetectionData`.

    Raises:
        DataError: names the file, and where its annotations went.
    """
    sides = table.boxes[:, 2:] - table.boxes[:, :2]  # (K, 2) width and height, pixels
    large = (sides >= min_box_side).all(1)
    owners = np.repeat(np.arange(len(table.sizes)), np.diff(table.first))
    scales = _largest_scales(table.sizes, max(short_sides), max_side, keep_ratio)
    if iou_crop:  # a crop, of 0.3 of a side or more, is resized as an image is
        scales = scales / 0.3
    visible = large & (sides * scales[owners] > THIN / 2).all(1)  # half a pixel of rounding in the image's size
    if visible.any():
        return
    small = f"smaller than data.min_box_side {min_box_side:g}"
    parts = [
        (table.ignored, "crowds or marked 'ignore'"),
        *((len(ids), f"left out: {reason}") for reason, ids in table.left_out.items()),
        (int((~large).sum()), small),
        (int((large & ~visible).sum()), "thinner than a pixel once resized"),
    ]
    where = ", ".join(f"{count:,} {reason}" for count, reason in parts if count)
    raise DataError(
        f"{file}: there is no object to learn from: it has {table.annotations:,} annotations"
        + f", {where}" * bool(where)
    )


def require_truth(table: Annotations, file: Path) -> None:
    """Refuse a validation set without one object: average precision has no value there.

    Raises:
        DataError: names the file and what there is instead.
    """
    if len(table.boxes) or table.left_out:
        return
    raise DataError(
        f"{file}: there is no object to find, so AP is not defined: of {table.annotations:,} annotations "
        f"{table.ignored:,} are crowds or marked 'ignore'. Without a validation: --trainer.limit_val_batches 0"
    )


def _largest_scales(sizes: np.ndarray, short_side: int, max_side: int, keep_ratio: bool) -> np.ndarray:
    """(N, 2) factors of width and height at the largest size of the training."""
    if not keep_ratio:
        return short_side / sizes[:, ::-1]
    factor = np.minimum(short_side / sizes.min(1), max_side / sizes.max(1))
    return np.repeat(factor[:, None], 2, 1)
