"""What a detector accepts: checked once per batch, with one wait for the device, then trusted everywhere below.

n  images    G  objects of an image    M  objects of the batch    C  classes    H, W  pixels
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..geometry.layout import PADDING, padded_sizes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WILDEST = 10.0  # no image in [0, 1], standardised or not, has such a value
SWAPPED = 0.01  # pixels by which corners may be swapped: more than rounding makes
WANTED = {"boxes": "(G, 4) float XYXY in pixels", "labels": "(G,) int64", "masks": "(G, H, W) bool or uint8"}


class Batch(NamedTuple):
    """Images of different sizes as one tensor."""

    pixels: Tensor  # (n, 3, H, W) normalised, padded with zeros below and to the right
    sizes: list[tuple[int, int]]  # height and width of each image, pixels
    padded_size: tuple[int, int]  # H and W


class NormalizeAndPad(nn.Module):
    """Normalises by ImageNet's mean and deviation, then pads. It does not resize.

    Args:
        divisible: the sides of a batch are multiples of this, pixels; 1 pads to the largest image alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, divisible: int = PADDING) -> None:
        super().__init__()
        self.divisible = divisible
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

    def padded_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        """Height and width of the batch of these images, pixels."""
        height, width = (max(sides) for sides in zip(*padded_sizes(image_sizes(images), self.divisible), strict=True))
        return height, width

    def restored(self, batch: Batch) -> Tensor:
        """(n, 3, H, W) in [0, 1]: the batch without its normalisation; the padding has the mean's colour."""
        return (batch.pixels * self.std + self.mean).clamp(0, 1)


def image_sizes(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each image, pixels."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def check_images(images: Sequence[Tensor], device: torch.device | None = None) -> list[Tensor]:
    """The images as plain tensors, once their types and shapes are right; no value is read.

    Args:
        images: each (3, H, W), floating point.
        device: where they must be; None: anywhere.

    Raises:
        TypeError: for images that are no tensors, or no sequence.
        ValueError: for an empty batch, a wrong shape, integers, another device.
    """
    if isinstance(images, (Mapping, str, bytes)) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(f"images is {_type_name(images)}, not a list of tensors (3, height, width)")
    if len(images) == 0:
        raise ValueError("images is empty")
    for i, image in enumerate(images):
        name = f"images[{i}]"
        require_tensor(image, name, "(3, height, width) float in [0, 1]")
        if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
            last = image.dim() == 3 and image.shape[2] == 3
            hint = "; the channels come first: image.permute(2, 0, 1)" if last else ""
            raise ValueError(f"{name} has shape {tuple(image.shape)}, not (3, height, width){hint}")
        if not image.is_floating_point():
            raise ValueError(f"{name} is {image.dtype}; a detector takes floating point in [0, 1]")
        if device is not None and image.device != device:
            raise ValueError(f"{name} is on {image.device}, the detector on {device}")
    return [image.as_subclass(Tensor) for image in images]


def check_range(images: Sequence[Tensor]) -> None:
    """Refuse images whose values are far from [0, 1]; it waits for the device.

    Standardised images pass, images in [0, 255] do not. NaN passes: the losses show it.

    Raises:
        ValueError: names the image and the value.
    """
    ends = torch.stack([torch.stack(image.detach().aminmax()) for image in images])  # (n, 2)
    wild = ends.abs() > WILDEST  # NaN is not: it shows in the losses
    if not bool(wild.any()):
        return
    i, end = wild.nonzero()[0].tolist()
    value = float(ends[i, end])
    advice = "; divide by 255" if 1 < value <= 255 else ""
    raise ValueError(f"images[{i}] holds {value:g}; a detector takes RGB in [0, 1]{advice}")


def require_tensor(value: Any, name: str, wanted: str) -> None:
    """TypeError, by name, for anything but a tensor: an array, a list, an image of PIL."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {_type_name(value)}, not a torch.Tensor {wanted}")


def _type_name(value: Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}."
    return "None" if value is None else f"{module}{kind.__name__}"


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
        TypeError: names what is no tensor, no mapping or no sequence.
        ValueError: names the target, the key and the value of a wrong length, shape, dtype, device or label, of a
            coordinate that is not finite, and of a box whose corners are swapped. A box without width or height is
            left out: rounding makes some.
    """
    if targets is None:
        raise ValueError("targets is None; a model in training mode needs one target per image")
    if isinstance(targets, (Mapping, str, bytes)) or not (hasattr(targets, "__len__") and hasattr(targets, "__iter__")):
        raise TypeError(f"targets is {_type_name(targets)}, not a list with one dict per image")
    if len(targets) != len(images):
        raise ValueError(f"targets has {len(targets)} elements for {len(images)} images")
    checked = [
        _check_target(f"targets[{i}]", target, image, masks)
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
        width_height = target["boxes"][:, 2:] - target["boxes"][:, :2]
        swapped = degenerate & (width_height < -SWAPPED).any(dim=1)
        if foreign.any():
            label = target["labels"][foreign][0]
            raise ValueError(f"targets[{i}]['labels'] holds {label}, which is not in [0, {num_classes})")
        if infinite.any():
            box = target["boxes"][infinite][0].tolist()
            raise ValueError(f"targets[{i}]['boxes'] holds {box}, which is not finite")
        if swapped.any():
            box = target["boxes"][swapped][0].tolist()
            raise ValueError(
                f"targets[{i}]['boxes'] holds {box}, whose second corner is left of or above the first: boxes are "
                f"XYXY, [x0, y0, x1, y1], not [x, y, width, height] as in COCO files"
            )
        checked[i] = {key: value[~degenerate] for key, value in target.items()}
    return checked


def _check_target(name: str, target: Mapping[str, Tensor], image: Tensor, masks: bool) -> dict[str, Tensor]:
    """The target as plain tensors of the right shapes and dtypes."""
    if not isinstance(target, Mapping):
        raise TypeError(f"{name} is {_type_name(target)}, not a dict with 'boxes' and 'labels'")
    size = (image.shape[-2], image.shape[-1])
    for key in ("boxes", "labels", "masks")[: 3 if masks else 2]:
        if key not in target:
            raise ValueError(f"{name} has no key {key!r}")
        require_tensor(target[key], f"{name}[{key!r}]", WANTED[key])
        if target[key].device != image.device:
            raise ValueError(f"{name}[{key!r}] is on {target[key].device}, its image on {image.device}")
    boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"].as_subclass(Tensor)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}['boxes'] has shape {tuple(boxes.shape)}, not (G, 4)")
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise ValueError(f"{name}['boxes'] is {boxes.dtype}; boxes are pixels, floating point")
    if boxes.is_floating_point() and torch.finfo(boxes.dtype).bits < 32:
        raise ValueError(f"{name}['boxes'] is {boxes.dtype}, which rounds pixels; boxes are torch.float32")
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
