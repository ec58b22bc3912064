"""The procedural set in LVIS's form: hundreds of classes with a long tail, annotated federatedly.

A class is a shape with a colour and a pattern ("red striped star"). As in LVIS (Gupta et al., CVPR 2019, section 3), a
image is not annotated for every class. For a class it has one of

    annotated                        every instance that is visible
    "not_exhaustive_category_ids"    some instances are annotated, others are not
    "neg_category_ids"               verified: the class is not in the image
    nothing                          the class may or may not be there; what is there is not annotated

Files are laid out like LVIS v1: an image has a `coco_url` and no `file_name`, both splits share one root,
and some images of the validation set lie in the training set's folder. Each category has `image_count`,
`instance_count` and `frequency` (r: up to 10 training images, c: up to 100, f: more), all of the training split.
There are no crowds.

    H, W  height and width of an image, pixels    C  classes
"""

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rst.coco.lvis import NEGATIVE, NOT_EXHAUSTIVE
from rst.data.samples.drawing import (
    draw_clutter,
    draw_size,
    place_shapes,
    visible_annotations,
)
from rst.data.samples.folders import write_json
from rst.data.samples.materials import PALETTE, Painter

COLOURS = {
    "red": (225, 35, 35), "orange": (240, 140, 20), "yellow": (240, 225, 40), "green": (40, 165, 50),
    "teal": (25, 160, 160), "blue": (40, 70, 225), "violet": (140, 50, 200), "pink": (245, 130, 190),
    "white": (245, 245, 245), "black": (15, 15, 15),
}  # fmt: skip
PATTERNS = ("plain", "striped", "barred", "checked", "dotted")
OUTLINES = ("disc", "square", "triangle", "star", "cross", "ring")
PERIOD, DOTS = 6, 3  # pixels after which stripes repeat, and dots
# All classes, in an order in which shapes, colours and patterns are spread over the frequencies; a set has the first C.
NAMES = [" ".join(words) for words in product(COLOURS, PATTERNS, OUTLINES)]
NAMES = [NAMES[i] for i in np.random.default_rng(0).permutation(len(NAMES))]
MOST_CLASSES = len(NAMES)

RARE, COMMON = 10, 100  # most training images of a rare class, of a common class (LVIS)
OBJECTS = (4, 15)  # per image: least, and one more than most
ANNOTATED = 0.9  # share of the classes in an image that are annotated
INCOMPLETE = 0.3  # share of the annotated classes with several instances that are annotated in part only
NEGATIVES = (3, 9)  # verified absent classes of an image: least, and one more than most
STRAY_EVERY = 4  # one in so many images of the validation set lies in the training set's folder
URL = "http://images.example.org"


def write(folder: Path, counts: dict[str, int], side: int, seed: int, classes: int) -> dict[str, Any]:
    """Fill `folder` with {train,val}/*.png and annotations/{train,val}.json; the summary counts what is annotated.

    Args:
        folder: an empty folder.
        counts: images of "train" and of "val".
        side: longer side of the images, pixels.
        seed: of everything random.
        classes: C, in [1, MOST_CLASSES].
    """
    for split in counts:
        (folder / split).mkdir()
    content = {
        split: _write_images(folder, split, count, side, [seed, 2 + k], classes, first=k * counts["train"])
        for k, (split, count) in enumerate(counts.items())
    }
    categories = _categories(content["train"][1], classes)
    summary = {}
    for split, (images, annotations) in content.items():
        found = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"{split}.json", found)
        seen = {annotation["category_id"] for annotation in annotations}
        summary[split] = {"images": len(images), "boxes": len(annotations), "classes": len(seen)}
    return summary


def draw_image(index: int, side: int, seed: list[int], classes: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One image (H, W, 3) uint8, and the annotations, without ids, of all that is in it."""
    random = np.random.default_rng([*seed, index])
    height, width = draw_size(random, side)
    colours = np.array(list(COLOURS.values()), np.float64)
    painter = Painter(random, height, width, colours[random.choice(len(colours), PALETTE, replace=False)])
    for fleck in draw_clutter(random, height, width):
        painter.paint(fleck, painter.next_material())
    frequency = _frequency(classes)

    def draw_class() -> tuple[int, str]:
        label = int(random.choice(classes, p=frequency))
        return label + 1, NAMES[label].split()[-1]

    shapes = place_shapes(random, height, width, int(random.integers(*OBJECTS)), draw_class)
    for shape in shapes:
        colour, pattern, _ = NAMES[shape.category_id - 1].split()
        ink = shape.mask & _pattern(pattern, height, width)
        painter.pixels[shape.mask] = np.add(COLOURS[colour], 128) / 2  # a paler colour between the pattern
        painter.pixels[ink] = COLOURS[colour]
    return painter.finished(), visible_annotations(shapes)


def federate(
    random: np.random.Generator, annotations: list[dict[str, Any]], classes: int
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """The annotations that a federated set keeps of an image, and LVIS's two lists for it."""
    instances = Counter(annotation["category_id"] for annotation in annotations)
    kept: dict[int, int] = {}  # category id -> how many instances are annotated
    for category_id, count in instances.items():
        if random.uniform() < ANNOTATED:
            incomplete = count > 1 and random.uniform() < INCOMPLETE
            kept[category_id] = int(random.integers(1, count)) if incomplete else count
    counted: Counter[int] = Counter()
    said = []
    for annotation in annotations:
        category_id = annotation["category_id"]
        if counted[category_id] < kept.get(category_id, 0):
            counted[category_id] += 1
            said.append(annotation)
    # annotators are asked about frequent classes more often, by the root of the frequency: rare ones need negatives too
    weight = np.sqrt(_frequency(classes))
    weight[[category_id - 1 for category_id in instances]] = 0.0
    asked = min(int(random.integers(*NEGATIVES)), int((weight > 0).sum()))
    absent = random.choice(classes, asked, replace=False, p=weight / weight.sum()) + 1 if asked else []
    return said, {
        NEGATIVE: sorted(int(category_id) for category_id in absent),
        NOT_EXHAUSTIVE: sorted(c for c, count in kept.items() if count < instances[c]),
    }


def _write_images(
    folder: Path, split: str, count: int, side: int, seed: list[int], classes: int, first: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images and annotations of a split whose ids and file names begin after `first`."""
    images, annotations = [], []
    for index in range(count):
        pixels, everything = draw_image(index, side, seed, classes)
        said, lists = federate(np.random.default_rng([*seed, index, 1]), everything, classes)
        place = "train" if index % STRAY_EVERY == STRAY_EVERY - 1 else split
        image_id, name = first + index + 1, f"{place}/{first + index:06d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=3)
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        images.append({"id": image_id, **size, "coco_url": f"{URL}/{name}", **lists})
        annotations += [{"id": len(annotations) + k, "image_id": image_id} | a for k, a in enumerate(said, 1)]
    return images, annotations


def _categories(annotations: list[dict[str, Any]], classes: int) -> list[dict[str, Any]]:
    """LVIS's categories, with what the training split's annotations say of their frequency."""
    instances = Counter(annotation["category_id"] for annotation in annotations)
    images = Counter(
        category_id for _, category_id in {(found["image_id"], found["category_id"]) for found in annotations}
    )
    return [
        {
            "id": category_id,
            "name": NAMES[category_id - 1].replace(" ", "_"),
            "synset": f"{NAMES[category_id - 1].replace(' ', '_')}.n.01",
            "image_count": images[category_id],
            "instance_count": instances[category_id],
            "frequency": "r" if images[category_id] <= RARE else "c" if images[category_id] <= COMMON else "f",
        }
        for category_id in range(1, classes + 1)
    ]


def _frequency(classes: int) -> np.ndarray:
    """(C,) float64: the share of each class among the objects, by Zipf's law."""
    weight = 1.0 / np.arange(1, classes + 1)
    return weight / weight.sum()


def _pattern(name: str, height: int, width: int) -> np.ndarray:
    """(H, W) bool: where a pattern has ink."""
    y, x = np.ogrid[:height, :width]
    columns, rows = x % PERIOD < PERIOD // 2, y % PERIOD < PERIOD // 2
    inked = {
        "plain": np.ones((1, 1), bool),
        "striped": columns,
        "barred": rows,
        "checked": columns ^ rows,
        "dotted": (x % DOTS == 0) & (y % DOTS == 0),
    }
    return np.broadcast_to(inked[name], (height, width))
