"""How the procedural sets are drawn: textured ground, shapes with outlines and masks, and which of them hides which.

All random numbers come from the caller's generator: an image is a pure function of its seed.

    H, W  height and width of an image, pixels
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rst.coco.masks import decode_segmentation, encode_mask

LEAST_RADIUS = 4.0  # pixels
LARGEST_RADIUS = 1 / 3  # of the shorter side
MIN_VISIBLE = 0.3  # share of an object's pixels that later ones must leave visible

# corners of the shapes as (angle in turns, distance from the centre in radii)
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "disc": [(k / 32, 1.0) for k in range(32)],
    "square": [(k / 4, 1.0) for k in range(4)],
    "triangle": [(k / 3, 1.0) for k in range(3)],
    "star": [(k / 10, (1.0, 0.45)[k % 2]) for k in range(10)],
    "cross": [((k + shift) / 4, reach) for k in range(4) for shift, reach in ((-0.18, 1.0), (0.18, 1.0), (0.5, 0.4))],
    "ring": [(k / 32, 1.0) for k in range(32)],
}
HOLE = 0.55  # radius of a ring's hole, in radii


class Shape(NamedTuple):
    """A shape in its place."""

    category_id: int
    outline: list[float] | None  # x, y, x, y, ... in pixels; None for a shape with a hole
    mask: np.ndarray  # (H, W) bool


def draw_size(random: np.random.Generator, side: int) -> tuple[int, int]:
    """Height and width of an image: square, wide or upright."""
    short = side * 3 // 4
    return [(side, side), (short, side), (side, short)][random.integers(3)]


def paint_ground(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float64: noise of three coarsenesses around one colour."""
    ground = np.empty((height, width, 3))
    ground[:] = random.uniform(60, 190, 3)
    for cell, strength in ((64, 30.0), (16, 15.0), (4, 10.0)):
        coarse = random.normal(0.0, strength, (height // cell + 2, width // cell + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        ground += np.asarray(smooth)[..., None]
    return ground


def with_noise(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the finished image, with the noise of a camera."""
    return (pixels + random.normal(0.0, 5.0, pixels.shape)).round().clip(0, 255).astype(np.uint8)


def place_shapes(
    random: np.random.Generator, height: int, width: int, count: int, draw_class: Callable[[], tuple[int, str]]
) -> list[Shape]:
    """At most `count` shapes from back to front; each leaves enough of those behind it visible.

    `draw_class` gives a category id and the name of its outline.
    """
    shapes: list[Shape] = []
    visible: list[np.ndarray] = []
    for _ in range(4 * count):  # a bounded number of attempts
        category_id, name = draw_class()
        radius = np.exp(random.uniform(np.log(LEAST_RADIUS), np.log(min(height, width) * LARGEST_RADIUS)))
        outline, mask = place_outline(random, name, radius, height, width)
        seen_behind = [behind & ~mask for behind in visible]
        hides = any(
            np.count_nonzero(seen) < MIN_VISIBLE * np.count_nonzero(shape.mask)
            for seen, shape in zip(seen_behind, shapes, strict=True)
        )
        if hides or np.count_nonzero(mask) < 9:
            continue
        shapes.append(Shape(category_id, outline, mask))
        visible = [*seen_behind, mask]
        if len(shapes) == count:
            break
    return shapes


def place_outline(
    random: np.random.Generator, name: str, radius: float, height: int, width: int, centre: np.ndarray | None = None
) -> tuple[list[float] | None, np.ndarray]:
    """Outline (x, y, x, y, ...; None for a ring) and mask of a shape at a random angle, and place unless given."""
    if centre is None:
        centre = random.uniform([0.0, 0.0], [width, height])
    turn = random.uniform()
    corners = np.array(OUTLINES[name])
    angles = 2 * np.pi * (corners[:, 0] + turn)
    rays = radius * corners[:, 1:] * np.stack([np.cos(angles), np.sin(angles)], 1)

    def filled(points: np.ndarray) -> np.ndarray:
        # filled as a reader fills the annotation, so that polygon and mask agree to the pixel
        return decode_segmentation([points.ravel().tolist()], height, width, name).astype(bool)

    points = (centre + rays).round(2)
    if name == "ring":
        return None, filled(points) & ~filled((centre + HOLE * rays).round(2))
    return points.ravel().tolist(), filled(points)


def visible_annotations(shapes: list[Shape]) -> list[dict[str, Any]]:
    """An annotation, without ids, of what stays visible of each shape: its outline if that is all, else its mask."""
    annotations = []
    for k, (category_id, outline, mask) in enumerate(shapes):
        in_front = [other.mask for other in shapes[k + 1 :]]
        seen = mask & ~np.any(in_front, axis=0) if in_front else mask
        annotations.append(annotation(category_id, seen, outline if _is_whole(seen, mask, outline) else None))
    return annotations


def annotation(category_id: int, mask: np.ndarray, outline: list[float] | None) -> dict[str, Any]:
    """COCO's annotation of a mask, without ids; the box is the mask's, in whole pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "category_id": category_id,
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "area": int(mask.sum()),
        "segmentation": [outline] if outline is not None else encode_mask(mask),
    }


def _is_whole(seen: np.ndarray, mask: np.ndarray, outline: list[float] | None) -> bool:
    """Whether nothing hides the shape and no border cuts it, so that its outline is its mask."""
    if outline is None or (seen != mask).any():
        return False
    height, width = mask.shape
    return min(outline) >= 0 and max(outline[::2]) <= width and max(outline[1::2]) <= height
