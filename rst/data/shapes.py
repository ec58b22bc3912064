"""A procedural data set: flat shapes on textured ground, with boxes and masks, in COCO form.

It has what makes real data awkward: a long tail of classes, objects from a few pixels to two thirds of the picture,
occlusion, objects cut by the border, crowd regions, pictures without objects, upright and wide pictures, category ids
with gaps. Every picture is a pure function of (seed, split, index): the same arguments, numpy and pillow give the same
files to the bit.

Letters: H and W height and width of a picture, pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rst.data.folders import prepare_folder, write_json
from rst.data.masks import decode_segmentation, encode_mask

# by falling frequency; ids with gaps, because a reader must not take an id for a label
CATEGORIES = {"disc": 1, "square": 2, "triangle": 4, "star": 7, "cross": 11, "ring": 16}
TAIL = 0.5  # each class occurs this many times as often as the one before it
LEAST_RADIUS = 4.0  # pixels
MIN_VISIBLE = 0.3  # share of an object's pixels that later ones must leave visible
EMPTY_EVERY, CROWD_EVERY = 9, 5  # of the pictures, one in so many has no objects, has a crowd


def prepare(output: Path, *, train: int = 400, val: int = 80, side: int = 256, seed: int = 0) -> dict[str, Any]:
    """Make the set.

    Args:
        output: folder to make: {train,val}/*.png and annotations/{train,val}.json.
        train, val: pictures of each split.
        side: longer side of the pictures, pixels.
        seed: of everything random.

    Returns:
        {"train": {"images", "boxes", "crowds"}, "val": ...}

    Raises:
        ValueError: an argument out of range.
        DataError: `output` holds something else.
    """
    for name, count in (("train", train), ("val", val)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1 picture, got {count}")
    if side < 64:
        raise ValueError(f"side must be at least 64 pixels, got {side}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    counts = {"train": train, "val": val}

    def build(folder: Path) -> dict[str, Any]:
        return {name: _write_split(folder, name, counts[name], side, [seed, k]) for k, name in enumerate(counts)}

    return prepare_folder(Path(output), {"data": "shapes", **counts, "side": side, "seed": seed}, build)


def draw_picture(index: int, side: int, seed: list[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One picture (H, W, 3) uint8, and its annotations without ids."""
    random = np.random.default_rng([*seed, index])
    short = side * 3 // 4
    height, width = [(side, side), (short, side), (side, short)][random.integers(3)]
    pixels = _ground(random, height, width)
    annotations: list[dict[str, Any]] = []
    if index % EMPTY_EVERY != EMPTY_EVERY - 1:
        crowd = _paint_crowd(random, pixels) if index % CROWD_EVERY == CROWD_EVERY - 1 else None
        objects = _place_objects(random, height, width, count=int(random.integers(1, 9)))
        annotations = _paint_objects(random, pixels, objects)
        covered = np.any([mask for _, _, mask in objects], axis=0) if objects else np.zeros((height, width), bool)
        if crowd is not None and (crowd[1] & ~covered).any():
            annotations.append(_annotation(crowd[0], crowd[1] & ~covered, None, crowd=True))
    noise = random.normal(0.0, 5.0, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8), annotations


def _write_split(folder: Path, name: str, count: int, side: int, seed: list[int]) -> dict[str, int]:
    (folder / name).mkdir()
    images, annotations = [], []
    for index in range(count):
        pixels, found = draw_picture(index, side, seed)
        file_name = f"{index:06d}.png"
        Image.fromarray(pixels).save(folder / name / file_name, compress_level=3)
        images.append({"id": index + 1, "file_name": file_name, "width": pixels.shape[1], "height": pixels.shape[0]})
        annotations += [{"id": len(annotations) + k, "image_id": index + 1} | a for k, a in enumerate(found, 1)]
    categories = [{"id": category_id, "name": name} for name, category_id in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations" / f"{name}.json", content)
    crowds = sum(annotation["iscrowd"] for annotation in annotations)
    return {"images": count, "boxes": len(annotations) - crowds, "crowds": crowds}


def _ground(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float64: noise of three coarsenesses around one colour."""
    ground = np.empty((height, width, 3))
    ground[:] = random.uniform(60, 190, 3)
    for cell, strength in ((64, 30.0), (16, 15.0), (4, 10.0)):
        coarse = random.normal(0.0, strength, (height // cell + 2, width // cell + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        ground += np.asarray(smooth)[..., None]
    return ground


Object = tuple[str, list[float] | None, np.ndarray]  # class, outline as x, y pairs (None: has a hole), mask (H, W) bool


def _place_objects(random: np.random.Generator, height: int, width: int, count: int) -> list[Object]:
    """Objects from back to front; each leaves enough of those behind it visible."""
    names = list(CATEGORIES)
    frequency = TAIL ** np.arange(len(names))
    objects: list[Object] = []
    visible: list[np.ndarray] = []
    for _ in range(4 * count):  # a bounded number of attempts
        name = names[random.choice(len(names), p=frequency / frequency.sum())]
        radius = np.exp(random.uniform(np.log(LEAST_RADIUS), np.log(min(height, width) / 3)))
        outline, mask = _shape(random, name, radius, height, width)
        seen_behind = [behind & ~mask for behind in visible]
        hides = any(
            seen.sum() < MIN_VISIBLE * whole.sum() for seen, (_, _, whole) in zip(seen_behind, objects, strict=True)
        )
        if hides or mask.sum() < 9:
            continue
        objects.append((name, outline, mask))
        visible = [*seen_behind, mask]
        if len(objects) == count:
            break
    return objects


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


def _shape(
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


def _paint_objects(random: np.random.Generator, pixels: np.ndarray, objects: list[Object]) -> list[dict[str, Any]]:
    """Paint from back to front; annotate what stays visible."""
    for _, _, mask in objects:
        pixels[mask] = random.uniform(20, 235, 3)
    annotations = []
    for k, (name, outline, mask) in enumerate(objects):
        in_front = [other for _, _, other in objects[k + 1 :]]
        seen = mask & ~np.any(in_front, axis=0) if in_front else mask
        annotations.append(_annotation(name, seen, outline if _is_whole(seen, mask, outline) else None))
    return annotations


def _is_whole(seen: np.ndarray, mask: np.ndarray, outline: list[float] | None) -> bool:
    """Whether nothing hides the object and no border cuts it, so that its outline is its mask."""
    if outline is None or (seen != mask).any():
        return False
    height, width = mask.shape
    return min(outline) >= 0 and max(outline[::2]) <= width and max(outline[1::2]) <= height


def _paint_crowd(random: np.random.Generator, pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """A swarm of small objects of one class that nobody would mark one by one: the class and the mask of all (H, W)."""
    height, width = pixels.shape[:2]
    name = list(CATEGORIES)[random.integers(3)]
    centre = random.uniform([0.2 * width, 0.2 * height], [0.8 * width, 0.8 * height])
    swarm = np.zeros((height, width), bool)
    for _ in range(random.integers(12, 30)):
        offset = random.normal(0.0, min(height, width) / 12, 2)
        radius = random.uniform(LEAST_RADIUS, 2 * LEAST_RADIUS)
        _, mask = _shape(random, name, radius, height, width, centre + offset)
        pixels[mask] = random.uniform(20, 235, 3)
        swarm |= mask
    return name, swarm


def _annotation(name: str, mask: np.ndarray, outline: list[float] | None, crowd: bool = False) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "category_id": CATEGORIES[name],
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
        "area": int(mask.sum()),
        "iscrowd": int(crowd),
        "segmentation": [outline] if outline is not None else encode_mask(mask),
    }
