"""A detector that returns the ground truth: whatever comes out of the toolkit must be AP 1 and oLRP 0.

It finds an image in its data set by a thumbnail. Its anchors are squares at every cell of two levels; an object's
positives are those with an IoU of at least 0.3.

    k  objects of an image    n  images    P  positives
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.ops import box_iou

from rst.data import CocoDetection
from rst.data.transforms import evaluation_transforms

LEVELS = {2: 16.0, 4: 64.0}  # level -> side of its anchors, pixels
STRIPE = 32  # pixels: the sides of a batch are multiples of it


class Positives(NamedTuple):
    """The detectors' contract."""

    image: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) float32 XYXY pixels
    truth: Tensor  # (P,) int64: index of the object in its image's target
    level: Tensor  # (P,) int64: 2 for P2, of stride 4


class Oracle(nn.Module):
    def __init__(self, data: CocoDetection, iou_types: tuple[str, ...], masks: bool):
        super().__init__()
        self.data, self.iou_types, self.masks = data, iou_types, masks
        self.num_classes, self.heads = data.num_classes, {"mask": "mask head"}
        self.weight = nn.Parameter(torch.zeros(()))
        self.thumbnails = torch.stack([thumbnail(data[i][0]) for i in range(len(data))])
        self.statistics: dict[str, Tensor] = {}

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        if self.training:
            assert targets is not None
            for image, target in zip(images, targets, strict=True):
                assert ("masks" in target) == self.masks
                if self.masks:
                    assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
            self.statistics = {"spearman_mask": torch.tensor(0.5)}
            return {"loss_mask_dice": (self.weight - 1) ** 2}
        return [self._detections(image) for image in images]

    def _detections(self, image: Tensor) -> dict[str, Tensor]:
        distance = (self.thumbnails - thumbnail(image).cpu()).abs().sum(1)
        target = self.data[int(distance.argmin())][1]
        found = {"boxes": target["boxes"], "labels": target["labels"]}
        found["scores"] = torch.linspace(0.5, 1.0, len(target["labels"]))
        if "masks" in target:
            found["masks"] = target["masks"].bool()
        return {key: value.as_subclass(Tensor) for key, value in found.items()}

    def as_seen(self, images: list[Tensor]) -> Tensor:
        height, width = (-(-max(image.shape[axis] for image in images) // STRIPE) * STRIPE for axis in (1, 2))
        batch = torch.full((len(images), 3, height, width), 0.25)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return batch

    def positives(self, images: list[Tensor], targets: list[dict[str, Any]]) -> dict[str, Positives]:
        height, width = self.as_seen(images).shape[2:]
        parts = []
        for level, side in LEVELS.items():
            x, y = torch.meshgrid(torch.arange(0, width, 2**level), torch.arange(0, height, 2**level), indexing="xy")
            centres = torch.stack([x, y], -1).reshape(-1, 2).float()
            anchors = torch.cat([centres - side / 2, centres + side / 2], 1)
            for k, target in enumerate(targets):
                if len(target["boxes"]):
                    iou, truth = box_iou(target["boxes"], anchors).max(0)
                    rows = (iou >= 0.3).nonzero().squeeze(1)
                    parts.append((torch.full_like(rows, k), anchors[rows], truth[rows], torch.full_like(rows, level)))
        if not parts:
            nothing = torch.zeros(0, dtype=torch.int64)
            return {"mask": Positives(nothing, torch.zeros(0, 4), nothing, nothing)}
        return {"mask": Positives(*(torch.cat(column) for column in zip(*parts, strict=True)))}


def thumbnail(image: Tensor) -> Tensor:
    """(48,) mean colours of an image (3, H, W) in 4 x 4 cells."""
    return adaptive_avg_pool2d(image.as_subclass(Tensor).float(), 4).flatten()


def oracle(
    num_classes: int,
    annotations: str,
    images: str,
    side: int = 64,
    masks: bool = True,
    iou_types: list[str] | None = None,
    weights: str | None = None,
) -> Oracle:
    """Make one.

    Args:
        num_classes: C, of the file.
        annotations, images: the data set whose truth it returns.
        side: longer side of the images as the detector gets them, pixels.
        masks: return masks, and expect them in training.
        iou_types: what is validated; boxes and masks, or boxes without masks, by default.
        weights: must be None.
    """
    assert weights is None
    transforms = evaluation_transforms(side, side)
    data = CocoDetection(annotations, images, masks=masks, transforms=transforms)
    assert data.num_classes == num_classes
    return Oracle(data, tuple(iou_types or (["bbox", "segm"] if masks else ["bbox"])), masks)
