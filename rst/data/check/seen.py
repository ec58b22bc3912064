"""Objects as a training sees them: at the sizes to which its transforms resize the images.

N  images    K  objects    S  short sides    M  objects looked at, each at one size
"""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from rst.coco.columns import Columns
from rst.data.annotations import Annotations
from rst.data.transforms import MIN_SIDE, IoUCrop, ResizeSquare

LOOKED_AT = 1_000_000  # objects, at all sizes together: a second or two
SAMPLE = 100  # images that go through transforms which do more to a box than to resize it


class Objects(NamedTuple):
    """The objects of a set that are trained on: no crowds, none marked to be ignored, none at fault."""

    sizes: np.ndarray  # (N, 2) height and width of the images, pixels
    image: np.ndarray  # (K,) index in [0, N)
    boxes: np.ndarray  # (K, 4) XYXY pixels
    labels: np.ndarray  # (K,) in [0, C)
    class_names: list[str]  # C

    @classmethod
    def of_columns(cls, columns: Columns, corners: np.ndarray) -> "Objects":
        """Of a file in check; `corners` (K, 4) are NaN where there is no usable box."""
        good = ~columns.ignored & np.isfinite(corners[:, 0]) & (columns.label >= 0) & (columns.image >= 0)
        image = columns.image[good]
        return cls(columns.sizes, image, corners[good], columns.label[good], columns.class_names)

    @classmethod
    def of_table(cls, table: Annotations) -> "Objects":
        """Of a file that was read."""
        image = np.repeat(np.arange(len(table.sizes)), np.diff(table.first))
        return cls(table.sizes, image, table.boxes, table.labels, table.class_names)


class Seen(NamedTuple):
    """Objects after the transforms."""

    sizes: torch.Tensor  # (M, 2) int64, height and width of their image, pixels
    boxes: torch.Tensor  # (M, 4) float32 XYXY pixels
    labels: np.ndarray  # (M,)
    drawn: int  # objects of the set that were looked at

    def at(self, rows: np.ndarray) -> "Seen":
        return Seen(self.sizes[rows], self.boxes[rows], self.labels[rows], self.drawn)

    def enlarged(self, factor: int) -> "Seen":
        """The same with images of `factor` times the sides."""
        return self._replace(sizes=self.sizes * factor, boxes=self.boxes * factor)


def resizing(transforms: Any) -> ResizeSquare | None:
    """The step of the transforms that resizes; None where others change the size of a box too, or they are unknown."""
    steps = list(getattr(transforms, "transforms", []))
    if any(isinstance(step, (IoUCrop, v2.RandomZoomOut)) for step in steps):
        return None
    return next((step for step in steps if isinstance(step, ResizeSquare)), None)


def seen_objects(objects: Objects, transforms: Callable[..., Any]) -> Seen:
    """The objects at every size to which the training resizes their image, without those that it leaves out then.

    Where they are too many, the frequent classes are thinned out. Where the transforms also crop or expand, the objects
    of a sample of images go through them.
    """
    resize = resizing(transforms)
    if resize is None:
        return _transformed(objects, transforms)
    sides = sorted(set(resize.sides))
    rows = draw(objects.labels, LOOKED_AT // len(sides))
    drawn, least = len(rows), max((step.min_size for step in _before(transforms, resize)), default=0.0)
    boxes = objects.boxes[rows]
    rows = rows[(boxes[:, 2:] - boxes[:, :2] >= least).all(1)]
    parts = []
    for side in sides:
        own = objects.sizes[objects.image[rows]]
        sizes = resize.resized(own, side)
        boxes = (objects.boxes[rows] * (sizes / own)[:, [1, 0, 1, 0]]).astype(np.float32)
        kept = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(1)
        parts.append((sizes[kept], boxes[kept], objects.labels[rows][kept]))
    sizes, boxes, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Seen(torch.from_numpy(sizes), torch.from_numpy(boxes), labels, drawn)


def draw(labels: np.ndarray, most: int) -> np.ndarray:
    """The positions of about `most` of the labels, ascending: all of the rare classes, equally many of the others."""
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.sort(np.unique(labels, return_counts=True)[1])
    # with the k rarest classes whole, this many of each other class fill up the rest
    fair = (most - (counts.cumsum() - counts)) / np.arange(len(counts), 0, -1)
    each = max(int(fair[counts > fair][0]), 1)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    first = np.searchsorted(labels[order], labels[order])  # where the class of each begins
    return np.sort(order[np.arange(len(order)) - first < each])


def draw_images(image: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` of the images that have objects, by their numbers."""
    images = np.unique(image)
    return images if len(images) <= most else np.random.default_rng(0).choice(images, most, replace=False)


def blank(
    objects: Objects, index: int, transforms: Callable[..., Any], masks: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """A blank image and its target, as the training would get them; masks are rectangles."""
    rows = np.flatnonzero(objects.image == index)
    height, width = objects.sizes[index].tolist()
    boxes = torch.from_numpy(objects.boxes[rows].astype(np.float32))
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
        "labels": torch.from_numpy(objects.labels[rows].astype(np.int64)),
    }
    if masks:
        planes = torch.zeros(len(rows), height, width, dtype=torch.uint8)
        for plane, (x0, y0, x1, y1) in zip(planes, objects.boxes[rows].tolist(), strict=True):
            plane[int(y0) : ceil(y1), int(x0) : ceil(x1)] = 1
        target["masks"] = tv_tensors.Mask(planes)
    image, target = transforms(tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8)), target)
    plain = {key: value.as_subclass(torch.Tensor) for key, value in target.items()}
    return image.as_subclass(torch.Tensor), plain


def _before(transforms: Any, resize: ResizeSquare) -> list[v2.SanitizeBoundingBoxes]:
    steps = list(transforms.transforms)
    return [step for step in steps[: steps.index(resize)] if isinstance(step, v2.SanitizeBoundingBoxes)]


def _transformed(objects: Objects, transforms: Callable[..., Any]) -> Seen:
    images = draw_images(objects.image, SAMPLE)
    sizes, boxes, labels = [torch.zeros(0, 2, dtype=torch.int64)], [torch.zeros(0, 4)], [np.zeros(0, np.int64)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the transforms draw sizes and crops
        for index in images.tolist():
            image, target = blank(objects, index, transforms, masks=False)
            count = len(target["boxes"])
            sizes.append(torch.tensor([image.shape[-2:]]).expand(count, 2))
            boxes.append(target["boxes"])
            labels.append(target["labels"].numpy())
    drawn = int(np.isin(objects.image, images).sum())
    return Seen(torch.cat(sizes), torch.cat(boxes), np.concatenate(labels), drawn)
