"""A procedural data set: shapes on textured ground, with boxes and masks, in COCO form.

It has the difficulties of real data: a long tail of classes, objects from a few pixels to two thirds of the image, thin
and hollow ones, objects that touch, overlap and hide each other, textures that they share with the ground, clutter that
is no object, objects cut by the border, crowd regions, images without objects, upright and wide images, category ids
with gaps. Every image is a pure function of (seed, split, index): the same arguments, numpy and pillow give the same
files to the bit. The variant "lvis" has hundreds of classes and LVIS's way of annotating: `shapes_lvis.py`.

    H, W  height and width of an image, pixels
"""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from rst.data.samples import shapes_lvis
from rst.data.samples.drawing import (
    LEAST_RADIUS,
    annotation,
    draw_clutter,
    draw_size,
    place_outline,
    place_shapes,
    visible_annotations,
)
from rst.data.samples.folders import prepare_folder, write_json
from rst.data.samples.materials import Painter

Variant = Literal["coco", "lvis"]

# by falling frequency; ids with gaps, because a reader must not take an id for a label
CATEGORIES = {"disc": 1, "star": 2, "ring": 4, "bar": 7, "crescent": 11, "triangle": 16}
TAIL = 0.55  # each class occurs this many times as often as the one before it
DRAWINGS = 2  # raised when the same arguments give other files, so that a set made before is not taken for this one
EMPTY_EVERY, CROWD_EVERY = 9, 5  # of the images, one in so many has no objects, has a crowd


def prepare(
    output: Path,
    *,
    train: int = 400,
    val: int = 80,
    side: int = 256,
    seed: int = 0,
    variant: Variant = "coco",
    classes: int | None = None,
) -> dict[str, Any]:
    """Make the set.

    Args:
        output: folder to make: {train,val}/*.png and annotations/{train,val}.json.
        train, val: images of each split.
        side: longer side of the images, pixels.
        seed: of everything random.
        variant: "coco", six classes; or "lvis", up to 300 classes annotated as LVIS is (see `shapes_lvis.py`).
        classes: how many classes the variant "lvis" has (300 if None).

    Returns:
        {"train": {"images", "boxes", "crowds"}, "val": ...}; the variant "lvis" has "classes" in place of "crowds".

    Raises:
        ValueError: an argument out of range.
        DataError: `output` holds something else.
    """
    for name, count in (("train", train), ("val", val)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1 image, got {count}")
    if side < 64:
        raise ValueError(f"side must be at least 64 pixels, got {side}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be 'coco' or 'lvis', got {variant!r}")
    if classes is not None and (variant != "lvis" or not 1 <= classes <= shapes_lvis.MOST_CLASSES):
        raise ValueError(
            f"classes must lie in [1, {shapes_lvis.MOST_CLASSES}] and belongs to the variant 'lvis' "
            f"(the variant 'coco' has {len(CATEGORIES)}), got {classes} with {variant!r}"
        )
    counts = {"train": train, "val": val}
    recipe: dict[str, Any] = {"data": "shapes", "drawings": DRAWINGS, **counts, "side": side, "seed": seed}
    if variant == "lvis":
        number = classes or shapes_lvis.MOST_CLASSES
        recipe |= {"variant": variant, "classes": number}
        return prepare_folder(Path(output), recipe, lambda f: shapes_lvis.write(f, counts, side, seed, number))

    def build(folder: Path) -> dict[str, Any]:
        return {name: _write_split(folder, name, counts[name], side, [seed, k]) for k, name in enumerate(counts)}

    return prepare_folder(Path(output), recipe, build)


def draw_image(index: int, side: int, seed: list[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One image (H, W, 3) uint8, and its annotations without ids."""
    random = np.random.default_rng([*seed, index])
    height, width = draw_size(random, side)
    painter = Painter(random, height, width)
    for fleck in draw_clutter(random, height, width):
        painter.paint(fleck, painter.next_material())
    annotations: list[dict[str, Any]] = []
    if index % EMPTY_EVERY != EMPTY_EVERY - 1:
        crowd = _paint_crowd(random, painter) if index % CROWD_EVERY == CROWD_EVERY - 1 else None
        names, frequency = list(CATEGORIES), TAIL ** np.arange(len(CATEGORIES))

        def draw_class() -> tuple[int, str]:
            name = names[random.choice(len(names), p=frequency / frequency.sum())]
            return CATEGORIES[name], name

        shapes = place_shapes(random, height, width, int(random.integers(1, 9)), draw_class)
        for shape in shapes:
            painter.paint(shape.mask, painter.next_material())
        annotations = [found | {"iscrowd": 0} for found in visible_annotations(shapes)]
        covered = np.any([shape.mask for shape in shapes], axis=0) if shapes else np.zeros((height, width), bool)
        if crowd is not None and (crowd[1] & ~covered).any():
            annotations.append(annotation(crowd[0], crowd[1] & ~covered, None) | {"iscrowd": 1})
    return painter.finished(), annotations


def _write_split(folder: Path, name: str, count: int, side: int, seed: list[int]) -> dict[str, int]:
    (folder / name).mkdir()
    images, annotations = [], []
    for index in range(count):
        pixels, found = draw_image(index, side, seed)
        file_name = f"{index:06d}.png"
        Image.fromarray(pixels).save(folder / name / file_name, compress_level=3)
        images.append({"id": index + 1, "file_name": file_name, "width": pixels.shape[1], "height": pixels.shape[0]})
        annotations += [{"id": len(annotations) + k, "image_id": index + 1} | a for k, a in enumerate(found, 1)]
    categories = [{"id": category_id, "name": name} for name, category_id in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations" / f"{name}.json", content)
    crowds = sum(annotation["iscrowd"] for annotation in annotations)
    return {"images": count, "boxes": len(annotations) - crowds, "crowds": crowds}


def _paint_crowd(random: np.random.Generator, painter: Painter) -> tuple[int, np.ndarray]:
    """A swarm of small objects of one class, annotated as one crowd: category id and mask of all (H, W)."""
    height, width = painter.height, painter.width
    name = list(CATEGORIES)[random.integers(3)]
    centre = random.uniform([0.2 * width, 0.2 * height], [0.8 * width, 0.8 * height])
    swarm = np.zeros((height, width), bool)
    for _ in range(random.integers(12, 30)):
        offset = random.normal(0.0, min(height, width) / 12, 2)
        radius = random.uniform(LEAST_RADIUS, 2 * LEAST_RADIUS)
        _, mask = place_outline(random, name, radius, height, width, centre + offset)
        if mask.any():
            painter.paint(mask, painter.next_material())
        swarm |= mask
    return CATEGORIES[name], swarm
