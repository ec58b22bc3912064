"""Pictures with boxes, class names and scores."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GOLDEN = 0.618033988749895  # steps of the golden ratio spread any number of hues evenly
TRUTH = (255, 255, 255)
LARGEST_SCALE = 4  # of a picture that is enlarged to be drawn on


def draw_detections(
    image: Image.Image | Tensor,
    detections: dict[str, Any],
    class_names: Sequence[str],
    threshold: float = 0.5,
    *,
    truth: dict[str, Any] | None = None,
    least_side: int = 0,
) -> Image.Image:
    """Draw the detections of one picture, the surest on top.

    Args:
        image: PIL picture, or tensor (3, H, W), uint8 or float in [0, 1]; it stays as it is.
        detections: "boxes" (n, 4) XYXY pixels, "labels" (n,) in [0, C), "scores" (n,).
        class_names: C names.
        threshold: least score that is drawn.
        truth: "boxes" (m, 4) of the ground truth, drawn as thin dashed white lines.
        least_side: a picture whose shorter side has fewer pixels is drawn two to four times as large, so that
            the text leaves something of it to be seen.

    Returns:
        a new RGB picture.

    Raises:
        ValueError: a tensor of another shape, or a label without a name.
    """
    picture = _to_picture(image)
    scale = min(max(1, -(-least_side // min(picture.size))), LARGEST_SCALE)
    picture = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 250))
    font = ImageFont.load_default(size=max(10, min(picture.size) // 40))
    for box in scale * _numbers(truth["boxes"]) if truth is not None else []:
        _dashed_rectangle(draw, box, line)

    boxes, labels, scores = (_numbers(detections[key]) for key in ("boxes", "labels", "scores"))
    boxes = scale * boxes
    for i in np.argsort(scores, kind="stable"):
        if scores[i] < threshold:
            continue
        label = int(labels[i])
        if not 0 <= label < len(class_names):
            raise ValueError(f"label {label} has no name: class_names has {len(class_names)} entries")
        colour = class_colour(label)
        draw.rectangle(_corners(boxes[i]), outline=colour, width=line)
        _write(draw, boxes[i], f"{class_names[label]} {scores[i]:.2f}", colour, font, picture.size)
    return picture


def class_colour(label: int) -> tuple[int, int, int]:
    """A bright colour of its own for each class, RGB in [0, 255]."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * GOLDEN) % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _to_picture(image: Image.Image | Tensor) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def _numbers(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().double().numpy()


def _corners(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, max(x0, x1), max(y0, y1)]  # a box of no area is a point, not an error of PIL's


def _write(
    draw: ImageDraw.ImageDraw,
    box: np.ndarray,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """The text on a ground of the box's colour, above the box where there is room, inside the picture always."""
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    x = max(0.0, min(float(box[0]), size[0] - width - 2))
    y = float(box[1]) - height - 2
    y = y if y >= 0 else max(0.0, min(float(box[1]), size[1] - height - 2))
    draw.rectangle([x, y, x + width + 2, y + height + 2], fill=colour)
    red, green, blue = colour
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma, ITU-R BT.601
    draw.text((x + 1, y), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _dashed_rectangle(draw: ImageDraw.ImageDraw, box: np.ndarray, width: int) -> None:
    x0, y0, x1, y1 = _corners(box)
    dash = 4 * width
    for x in np.arange(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line([x, y, min(x + dash, x1), y], fill=TRUTH, width=width)
    for y in np.arange(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line([x, y, x, min(y + dash, y1)], fill=TRUTH, width=width)
