"""What a detector accepts: checked once per batch, with one wait for the device, then trusted everywhere below.

n  images    G  objects of an image    M  objects of the batch    C  classes    H, W  pixels
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..geometry.layout import padded_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Batch(NamedTuple):
    """Images of different sizes as one tensor."""

    pixels: Tensor  # (n, 3, H, W) normalised, padded with zeros below and to the right
    sizes: list[tuple[int, int]]  # height and width of each image, pixels
    padded_size: tuple[int, int]  # H and W


class NormalizeAndPad(nn.Module):
    """Normalises by ImageNet's mean and deviation, then pads to multiples of `PADDING`. It does not resize."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, images: Sequence[Tensor]) -> Batch:
        """Images (3, H, W) in [0, 1] as one padded batch."""
        padded_size = self.padded_size(images)
        normalized = [(image.float() - self.mean) / self.std for image in images]
        pixels = normalized[0].new_zeros(len(images), 3, *padded_size)
        for place, image in zip(pixels, normalized, strict=True):
            place[:, : image.shape[-2], : image.shape[-1]].copy_(image)
        return Batch(pixels, image_sizes(images), padded_size)

    @staticmethod
    def padded_size(images: Sequence[Tensor]) -> tuple[int, int]:
        """Height and width of the batch of these images, pixels."""
        height, width = (max(sides) for sides in zip(*padded_sizes(image_sizes(images)), strict=True))
        return height, width

    def restored(self, batch: Batch) -> Tensor:
        """(n, 3, H, W) in [0, 1]: the batch without its normalisation; the padding has the mean's colour."""
        return (batch.pixels * self.std + self.mean).clamp(0, 1)


def image_sizes(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each image, pixels."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def check_images(images: Sequence[Tensor]) -> list[Tensor]:
    """The images as plain tensors; ValueError for an empty batch, a wrong shape, or integers."""
    if len(images) == 0:
        raise ValueError("images is empty")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ValueError(f"images[{i}] has shape {tuple(image.shape)}, not (3, height, width)")
        if not image.is_floating_point():
            raise ValueError(f"images[{i}] is {image.dtype}; a detector takes floating point in [0, 1]")
    return [image.as_subclass(Tensor) for image in images]


def has_area(
    boxes: Tensor,  # (G, 4)
) -> Tensor:
    """(G,) bool: which boxes have a width and a height."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def check_targets(
    targets: Sequence[Mapping[str, Tensor]] | None,
    images: Sequence[Tensor],
    num_classes: int,
    *,
    masks: bool = False,
) -> list[dict[str, Tensor]]:
    """Targets of a training step as plain tensors, float32 boxes and int64 labels, without degenerate boxes.

    Args:
        targets: per image "boxes" (G, 4) XYXY in pixels, "labels" (G,) in [0, C) and, with `masks`, "masks" (G, H, W)
            bool or uint8 of the image's size.
        images: of the same length.
        num_classes: C.
        masks: whether the detector needs masks; otherwise they are left out.

    Raises:
        ValueError: names the target, the key and the value of a wrong length, shape, dtype, label, or of a coordinate
            that is not finite. A box without width or height is left out: rounding makes some.
    """
    if targets is None:
        raise ValueError("targets is None; a model in training mode needs one target per image")
    if len(targets) != len(images):
        raise ValueError(f"targets has {len(targets)} elements for {len(images)} images")
    checked = [
        _check_target(f"targets[{i}]", target, (image.shape[-2], image.shape[-1]), masks)
        for i, (target, image) in enumerate(zip(targets, images, strict=True))
    ]
    boxes = torch.cat([target["boxes"] for target in checked])
    labels = torch.cat([target["labels"] for target in checked])
    foreign = (labels < 0) | (labels >= num_classes)
    infinite = ~boxes.isfinite().all(dim=1)
    faults = torch.stack((foreign, infinite, ~has_area(boxes)))  # (3, M)
    if not bool(faults.any()):
        return checked

    for i, of_image in enumerate(faults.split([len(target["boxes"]) for target in checked], dim=1)):
        target, (foreign, infinite, degenerate) = checked[i], of_image
        if foreign.any():
            label = target["labels"][foreign][0]
            raise ValueError(f"targets[{i}]['labels'] holds {label}, which is not in [0, {num_classes})")
        if infinite.any():
            box = target["boxes"][infinite][0].tolist()
            raise ValueError(f"targets[{i}]['boxes'] holds {box}, which is not finite")
        checked[i] = {key: value[~degenerate] for key, value in target.items()}
    return checked


def _check_target(name: str, target: Mapping[str, Tensor], size: tuple[int, int], masks: bool) -> dict[str, Tensor]:
    """The target as plain tensors of the right shapes and dtypes."""
    for key in ("boxes", "labels", "masks")[: 3 if masks else 2]:
        if key not in target:
            raise ValueError(f"{name} has no key {key!r}")
    boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"].as_subclass(Tensor)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}['boxes'] has shape {tuple(boxes.shape)}, not (G, 4)")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(f"{name}['labels'] has shape {tuple(labels.shape)} for {len(boxes)} boxes")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name}['labels'] is {labels.dtype}, not torch.int64")
    checked = {"boxes": boxes.float(), "labels": labels}
    if masks:
        given = target["masks"].as_subclass(Tensor)
        if tuple(given.shape) != (len(boxes), *size):
            raise ValueError(f"{name}['masks'] has shape {tuple(given.shape)}, not {(len(boxes), *size)}")
        if given.dtype not in (torch.bool, torch.uint8):
            raise ValueError(f"{name}['masks'] is {given.dtype}, not torch.bool or torch.uint8")
        checked["masks"] = given
    return checked
