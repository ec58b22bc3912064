"""COCO detection data as a torch Dataset of tv_tensors.

Differences from torchvision's reader: images without objects keep their (empty) targets, crowds are left out of the
targets, and every fault in the files is named. The annotations of a whole set live in a few numpy arrays, which worker
processes share without copying.

    n  objects of an image    H, W  its height and width in pixels
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from rst.coco.masks import decode_segmentation
from rst.data.annotations import Annotations, FaultyBoxes, read_annotations
from rst.data.image_files import FileNames
from rst.data.images import DEFAULT_DECODING, Decoding, read_image
from rst.data.repeats import repeat_factors


class CocoDetection(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images with the boxes, labels and masks of a COCO annotation file.

    Args:
        annotations: COCO or LVIS JSON file.
        images: folder that its `file_name`s are relative to; for LVIS the folder that holds train2017 and val2017.
        transforms: maps (image, target) to the same; see `rst.data.transforms`.
        keep_empty: keep images without objects; the published COCO recipes leave them out.
        masks: add "masks" to the targets.
        faulty_boxes: boxes without area or wholly outside their image: "refuse" the file, or "leave_out" and warn.
        file_names: "exact", or "forgiving": see `rst.data.image_files`.
        decoding: which way up images are, and how large they may be; see `rst.data.images`.

    `ds[i]` is (image, target):
        image                   tv_tensors.Image (3, H, W) uint8 RGB, or what `transforms` makes of it
        target["boxes"]         tv_tensors.BoundingBoxes (n, 4) float32 XYXY, pixels, clipped to the image
        target["labels"]        (n,) int64 in [0, num_classes), the index into `category_ids`
        target["image_id"]      int
        target["original_size"] (height, width) of the file, ints, before the transforms
        target["size"]          (height, width) of `image`, ints, after the transforms
        target["masks"]         tv_tensors.Mask (n, H, W) uint8 in {0, 1}, with `masks=True`

    Attributes: category_ids (ascending; the index is the label), class_names, num_classes, image_ids,
        aspect_ratios (width / height, one per image), left_out (what was wrong with boxes left out, counts).

    Raises:
        DataError: on construction for a file that cannot be read as COCO (see `read_annotations`), faulty boxes or a
            image that is missing; on access for an image that cannot be decoded or has another size than annotated.

    Warns:
        DataWarning: once, if faulty boxes were left out; once, if file names were forgiven.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        transforms: Callable[..., Any] | None = None,
        keep_empty: bool = True,
        masks: bool = False,
        faulty_boxes: FaultyBoxes = "refuse",
        file_names: FileNames = "exact",
        decoding: Decoding = DEFAULT_DECODING,
    ):
        self.annotation_file, self.folder = Path(annotations), Path(images)
        self.transforms, self.masks, self.decoding = transforms, masks, decoding
        table = read_annotations(
            self.annotation_file, self.folder, masks=masks, faulty_boxes=faulty_boxes, file_names=file_names
        )
        self._table: Annotations = table if keep_empty else table.without_empty()
        self.category_ids, self.class_names = table.category_ids, table.class_names
        self.left_out = table.left_out

    def __len__(self) -> int:
        return len(self._table.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    @property
    def image_ids(self) -> list[int]:
        return self._table.image_ids.tolist()

    @property
    def aspect_ratios(self) -> np.ndarray:
        return self._table.sizes[:, 1] / self._table.sizes[:, 0]

    @property
    def table(self) -> Annotations:
        """The content of the annotation file, without the images left out."""
        return self._table

    def repeat_factors(self, threshold: float) -> np.ndarray:
        """(len(self),) float64: how often each image occurs in an epoch; see `rst.data.repeats`."""
        table = self._table
        owners = np.repeat(np.arange(len(self)), np.diff(table.first))
        return repeat_factors(owners, table.labels, len(self), threshold)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        table = self._table
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a set of {len(self)} images")
        index %= len(self)
        height, width = (int(side) for side in table.sizes[index])
        path = self.folder / table.file_names[index]
        pixels = read_image(path, (height, width), self.annotation_file, self.decoding)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
        rows = slice(int(table.first[index]), int(table.first[index + 1]))
        boxes = torch.from_numpy(table.boxes[rows].copy())
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # type: ignore[call-overload]
            "labels": torch.from_numpy(table.labels[rows].astype(np.int64)),
            "image_id": int(table.image_ids[index]),
            "original_size": (height, width),
        }
        if self.masks:
            where = f"{self.annotation_file}: image {target['image_id']}"
            stack = [
                decode_segmentation(table.segmentation(row), height, width, where)
                for row in range(rows.start, rows.stop)
            ]
            planes = np.stack(stack) if stack else np.zeros((0, height, width), np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(planes))
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        target["size"] = (int(image.shape[-2]), int(image.shape[-1]))
        return image, target
