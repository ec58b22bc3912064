"""How the procedural sets are drawn: shapes with outlines and masks, where they lie, and which of them hides which.

All random numbers come from the caller's generator: an image is a pure function of its seed.

    H, W  height and width of an image, pixels
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rst.coco.masks import decode_segmentation, encode_mask

LEAST_RADIUS = 4.0  # pixels, of a crowd's objects
RADII = (1 / 24, 1 / 3)  # of the shorter side; no less than LEAST_RADIUS
MIN_VISIBLE = 0.3  # share of an object's pixels that later ones must leave visible
NEIGHBOURS = 0.5  # share of the objects that are placed beside one that is there: they touch or overlap
CLUTTER = (0, 3)  # flecks of an image that are no objects: least, and one more than most
CLOSENESS = (0.55, 1.0)  # distance of two neighbours' centres over the sum of their radii


def _crescent() -> list[tuple[float, float]]:
    """Round the back from tip to tip, and back along a circle about a point off the centre."""
    tip, off = 0.14, 0.55  # turns; radii
    back = [(tip + (1 - 2 * tip) * k / 24, 1.0) for k in range(25)]
    x, y = np.cos(2 * np.pi * tip) - off, np.sin(2 * np.pi * tip)
    angles = np.linspace(2 * np.pi - np.arctan2(y, x), np.arctan2(y, x), 18)[1:-1]
    points = off + np.hypot(x, y) * np.exp(1j * angles)
    return back + list(zip((np.angle(points) / (2 * np.pi)).tolist(), np.abs(points).tolist(), strict=True))


# corners of the shapes as (angle in turns, distance from the centre in radii)
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "disc": [(k / 32, 1.0) for k in range(32)],
    "square": [(k / 4, 1.0) for k in range(4)],
    "triangle": [(k / 3, 1.0) for k in range(3)],
    "star": [(k / 10, (1.0, 0.45)[k % 2]) for k in range(10)],
    "cross": [((k + shift) / 4, reach) for k in range(4) for shift, reach in ((-0.18, 1.0), (0.18, 1.0), (0.5, 0.4))],
    "ring": [(k / 32, 1.0) for k in range(32)],
    "bar": [(turn, 1.0) for turn in (-0.035, 0.035, 0.465, 0.535)],
    "crescent": _crescent(),
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


def draw_radius(random: np.random.Generator, height: int, width: int) -> float:
    """Radius of an object, pixels; every size has the same chance on a logarithmic scale."""
    least, largest = (min(height, width) * share for share in RADII)
    return float(np.exp(random.uniform(np.log(max(least, LEAST_RADIUS)), np.log(largest))))


def draw_clutter(random: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Masks (H, W) bool of irregular flecks that are no objects."""
    flecks = []
    for _ in range(random.integers(*CLUTTER)):
        corners = int(random.integers(5, 10))
        angles = 2 * np.pi * (np.arange(corners) + random.uniform(-0.3, 0.3, corners)) / corners
        rays = (
            0.7
            * draw_radius(random, height, width)
            * random.uniform(0.4, 1.0, (corners, 1))
            * np.stack([np.cos(angles), np.sin(angles)], 1)
        )
        mask = fill_polygon(random.uniform([0.0, 0.0], [width, height]) + rays, height, width)
        if mask.any():
            flecks.append(mask)
    return flecks


def place_shapes(
    random: np.random.Generator, height: int, width: int, count: int, draw_class: Callable[[], tuple[int, str]]
) -> list[Shape]:
    """At most `count` shapes from back to front; each leaves enough of those behind it visible.

    Many lie beside another one, so that they touch it or overlap. `draw_class` gives a category id and the name of its
    outline.
    """
    shapes: list[Shape] = []
    visible: list[np.ndarray] = []
    circles: list[tuple[np.ndarray, float]] = []  # centre and radius of each shape
    for _ in range(4 * count):  # a bounded number of attempts
        category_id, name = draw_class()
        radius = draw_radius(random, height, width)
        centre = random.uniform([0.0, 0.0], [width, height])
        if circles and random.uniform() < NEIGHBOURS:
            beside, its_radius = circles[random.integers(len(circles))]
            angle, distance = random.uniform(0.0, 2 * np.pi), random.uniform(*CLOSENESS) * (radius + its_radius)
            centre = (beside + distance * np.array([np.cos(angle), np.sin(angle)])).clip(0.0, [width, height])
        outline, mask = place_outline(random, name, radius, height, width, centre)
        seen_behind = [behind & ~mask for behind in visible]
        hides = any(
            np.count_nonzero(seen) < MIN_VISIBLE * np.count_nonzero(shape.mask)
            for seen, shape in zip(seen_behind, shapes, strict=True)
        )
        if hides or np.count_nonzero(mask) < 9:
            continue
        shapes.append(Shape(category_id, outline, mask))
        circles.append((centre, radius))
        visible = [*seen_behind, mask]
        if len(shapes) == count:
            break
    return shapes


def place_outline(
    random: np.random.Generator, name: str, radius: float, height: int, width: int, centre: np.ndarray
) -> tuple[list[float] | None, np.ndarray]:
    """Outline (x, y, x, y, ...; None for a ring) and mask (H, W) bool of a shape at a random angle."""
    turn = random.uniform()
    corners = np.array(OUTLINES[name])
    angles = 2 * np.pi * (corners[:, 0] + turn)
    rays = radius * corners[:, 1:] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = (centre + rays).round(2)
    mask = fill_polygon(points, height, width)
    if name == "ring":
        return None, mask & ~fill_polygon((centre + HOLE * rays).round(2), height, width)
    return points.ravel().tolist(), mask


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool: filled as a reader fills the annotation, so that polygon and mask agree to the pixel."""
    return decode_segmentation([points.ravel().tolist()], height, width, "a polygon").astype(bool)


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
