"""What a detector accepts: checked once per batch, with one wait for the device, then trusted everywhere below.

n  images    G  ground-truth boxes of an image    C  classes
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PADDING = 32  # pixels: the side of an image in a batch is a multiple of this


def padded_sizes(image_sizes: Sequence[tuple[int, int]], divisible: int = PADDING) -> list[tuple[int, int]]:
    """Height and width of each image padded on its own, before the batch's largest pads it further; pixels."""
    return [
        (math.ceil(height / divisible) * divisible, math.ceil(width / divisible) * divisible)
        for height, width in image_sizes
    ]


class NormalizeAndPad(GeneralizedRCNNTransform):
    """torchvision's transform without its resizing: images come at the size at which they are to be seen.

    Args:
        size_divisible: the batch is padded with zeros, after normalisation, to multiples of this many pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size_divisible: int) -> None:
        super().__init__(0, 0, list(IMAGENET_MEAN), list(IMAGENET_STD), size_divisible)
        # Buffers move with the model: torchvision copies both lists to the device anew for every image.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Images (3, H, W) in [0, 1] as one padded batch with their sizes; targets as they are."""
        return super().forward(images, targets)


def check_images(images: Sequence[Tensor]) -> list[Tensor]:
    """The images as plain tensors; ValueError for a batch of none, a wrong shape, or integers."""
    if len(images) == 0:
        raise ValueError("images is empty")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ValueError(f"images[{i}] has shape {tuple(image.shape)}, not (3, height, width)")
        if not image.is_floating_point():
            raise ValueError(f"images[{i}] is {image.dtype}; a detector takes floating point in [0, 1]")
    return [image.as_subclass(Tensor) for image in images]


def check_targets(
    targets: Sequence[Mapping[str, Tensor]] | None,
    images: Sequence[Tensor],
    num_classes: int,
) -> list[dict[str, Tensor]]:
    """Targets of a training step as plain tensors, float32 boxes and int64 labels, without degenerate boxes.

    Args:
        targets: per image "boxes" (G, 4) XYXY in pixels and "labels" (G,) in [0, C).
        images: of the same length.
        num_classes: C.

    Raises:
        ValueError: names the target, the key and the value of a wrong length, shape, dtype, label, or of a coordinate
            that is not finite. A box without width or height is left out in silence: rounding makes them.
    """
    if targets is None:
        raise ValueError("targets is None; a model in training mode needs one target per image")
    if len(targets) != len(images):
        raise ValueError(f"targets has {len(targets)} elements for {len(images)} images")
    checked = []
    for i, target in enumerate(targets):
        for key in ("boxes", "labels"):
            if key not in target:
                raise ValueError(f"targets[{i}] has no key {key!r}")
        boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"].as_subclass(Tensor)
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"targets[{i}]['boxes'] has shape {tuple(boxes.shape)}, not (G, 4)")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(f"targets[{i}]['labels'] has shape {tuple(labels.shape)} for {len(boxes)} boxes")
        if labels.dtype != torch.int64:
            raise ValueError(f"targets[{i}]['labels'] is {labels.dtype}, not torch.int64")
        checked.append({"boxes": boxes.float(), "labels": labels})

    boxes = torch.cat([target["boxes"] for target in checked])
    labels = torch.cat([target["labels"] for target in checked])
    foreign = (labels < 0) | (labels >= num_classes)
    infinite = ~boxes.isfinite().all(dim=1)
    degenerate = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if not bool((foreign | infinite | degenerate).any()):
        return checked

    for i, target in enumerate(checked):
        boxes, labels = target["boxes"], target["labels"]
        foreign = (labels < 0) | (labels >= num_classes)
        if foreign.any():
            raise ValueError(f"targets[{i}]['labels'] holds {labels[foreign][0]}, which is not in [0, {num_classes})")
        infinite = ~boxes.isfinite().all(dim=1)
        if infinite.any():
            raise ValueError(f"targets[{i}]['boxes'] holds {boxes[infinite][0].tolist()}, which is not finite")
        solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        target["boxes"], target["labels"] = boxes[solid], labels[solid]
    return checked
