"""Drawings of images with masks, boxes, class names and scores.

n  detections    C  classes    H, W  height and width of the image, pixels
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rst.coco.masks import decode_segmentation
from rst.evaluation.fonts import drawable_name, label_font

GOLDEN = 0.618033988749895  # steps of the golden ratio spread any number of hues evenly
TRUTH = (255, 255, 255)
LARGEST_SCALE = 4  # of an image that is enlarged to be drawn on
MASK_OPACITY = 0.45

Colour = tuple[int, int, int]


def draw_detections(
    image: Image.Image | Tensor | np.ndarray,
    detections: dict[str, Any],
    class_names: Sequence[str],
    threshold: float = 0.5,
    *,
    truth: dict[str, Any] | None = None,
    least_side: int = 0,
) -> Image.Image:
    """Draw the detections of one image, the surest on top.

    Args:
        image: PIL image, array (H, W, 3) uint8, or tensor (3, H, W), uint8 or float in [0, 1]; it stays as it is.
        detections: "boxes" (n, 4) XYXY pixels, "labels" (n,) in [0, C), "scores" (n,), and perhaps "segmentations",
            n run lengths of H x W pixels, which are drawn half transparent.
        class_names: C names; one that no installed font has is drawn as "class 3".
        threshold: least score that is drawn.
        truth: "boxes" (m, 4) of the ground truth, drawn as thin dashed white lines.
        least_side: an image whose shorter side has fewer pixels is drawn two to four times as large, so that the text
            does not hide it.

    Returns:
        a new RGB image.

    Raises:
        ValueError: a tensor of another shape, or a label without a name.
    """
    canvas = to_rgb(image)
    boxes, labels, scores = (_numbers(detections[key]) for key in ("boxes", "labels", "scores"))
    drawn = [int(i) for i in np.argsort(scores, kind="stable") if scores[i] >= threshold]
    for label in labels[drawn].astype(int):
        if not 0 <= label < len(class_names):
            raise ValueError(f"label {label} has no name: class_names has {len(class_names)} entries")
    colours = {i: class_colour(int(labels[i])) for i in drawn}
    if "segmentations" in detections:
        pixels = np.array(canvas)
        for i in drawn:
            mask = decode_segmentation(detections["segmentations"][i], canvas.height, canvas.width, f"detection {i}")
            blend_mask(pixels, mask.astype(bool), colours[i])
        canvas = Image.fromarray(pixels)
    canvas, scale = enlarge(canvas, least_side, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 250))
    font_size = max(10, min(canvas.size) // 40)
    for box in scale * _numbers(truth["boxes"]) if truth is not None else []:
        _dashed_rectangle(draw, box, line)
    for i in drawn:
        box = scale * boxes[i]
        draw.rectangle(_corners(box), outline=colours[i], width=line)
        name = drawable_name(class_names[int(labels[i])], int(labels[i]))
        write_label(draw, box, f"{name} {scores[i]:.2f}", colours[i], font_size, canvas.size)
    return canvas


def class_colour(label: int) -> Colour:
    """A bright colour of its own for each class, RGB in [0, 255]."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * GOLDEN) % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_rgb(image: Image.Image | Tensor | np.ndarray) -> Image.Image:
    """A new RGB image; see `draw_detections` for what may be given."""
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def enlarge(image: Image.Image, least_side: int, resampling: Image.Resampling) -> tuple[Image.Image, int]:
    """The image so many times as large that its shorter side has `least_side` pixels, at most LARGEST_SCALE times."""
    scale = min(max(1, -(-least_side // min(image.size))), LARGEST_SCALE)
    return image.resize((scale * image.width, scale * image.height), resampling), scale


def blend_mask(
    pixels: np.ndarray,  # (H, W, 3) uint8, changed in place
    mask: np.ndarray,  # (h, w) bool; h <= H and w <= W, for an image that was padded
    colour: Colour,
) -> None:
    part = pixels[: mask.shape[0], : mask.shape[1]]
    part[mask] = ((1 - MASK_OPACITY) * part[mask] + MASK_OPACITY * np.array(colour)).round().astype(np.uint8)


def write_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float] | np.ndarray,
    text: str,
    colour: Colour,
    font_size: int,
    size: tuple[int, int],
) -> None:
    """The text on a ground of the box's colour, above the box where there is room, and always inside the image.

    `font_size` and `size`, of the image (width, height), are in pixels.
    """
    font = label_font(text, font_size)
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    x = max(0.0, min(float(box[0]), size[0] - width - 2))
    y = float(box[1]) - height - 2
    y = y if y >= 0 else max(0.0, min(float(box[1]), size[1] - height - 2))
    draw.rectangle([x, y, x + width + 2, y + height + 2], fill=colour)
    red, green, blue = colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma, ITU-R BT.601
    draw.text((x + 1, y), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _numbers(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().double().numpy()


def _corners(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, max(x0, x1), max(y0, y1)]  # PIL refuses a box without area; it is drawn as a point


def _dashed_rectangle(draw: ImageDraw.ImageDraw, box: np.ndarray, width: int) -> None:
    x0, y0, x1, y1 = _corners(box)
    dash = 4 * width
    for x in np.arange(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line([x, y, min(x + dash, x1), y], fill=TRUTH, width=width)
    for y in np.arange(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line([x, y, x, min(y + dash, y1)], fill=TRUTH, width=width)
