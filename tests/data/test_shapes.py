"""The procedural set: the same every time, and as awkward as it promises."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rst.coco.masks import decode_segmentation
from rst.data.dataset import CocoDetection
from rst.data.samples import shapes
from rst.data.samples.materials import PATTERNS, Painter

SIDE = 96


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    shapes.prepare(folder, train=20, val=6, side=SIDE, seed=5)
    return folder


def masks_of(annotations, height, width):
    return [decode_segmentation(a["segmentation"], height, width, "").astype(bool) for a in annotations]


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path, prepared):
    shapes.prepare(tmp_path / "again", train=20, val=6, side=SIDE, seed=5)
    assert digests(tmp_path / "again") == digests(prepared)
    shapes.prepare(tmp_path / "other", train=20, val=6, side=SIDE, seed=6)
    ours, theirs = digests(prepared), digests(tmp_path / "other")
    assert not {ours[name] for name in ours if name.endswith(".png")} & set(theirs.values())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path, prepared):
    shapes.prepare(tmp_path / "few", train=3, val=1, side=SIDE, seed=5)
    few = {name: digest for name, digest in digests(tmp_path / "few").items() if name.endswith(".png")}
    assert few.items() <= digests(prepared).items()
    assert few["train/000000.png"] != few["val/000000.png"]


def test_the_reader_finds_no_fault_and_counts_agree(prepared):
    for split in ("train", "val"):
        summary = json.loads((prepared / "recipe.json").read_text())["summary"][split]
        data = CocoDetection(
            prepared / f"annotations/{split}.json", prepared / split, masks=True
        )  # warnings are errors
        targets = [data[i][1] for i in range(len(data))]
        assert sum(len(target["labels"]) for target in targets) == summary["boxes"]
        assert all(len(target["masks"]) == len(target["boxes"]) for target in targets)
        assert data.category_ids == sorted(shapes.CATEGORIES.values())


def test_boxes_and_areas_are_those_of_the_visible_masks_and_no_pixel_has_two_objects():
    polygons = 0
    for index in range(60):
        pixels, annotations = shapes.draw_image(index, SIDE, [1, 0])
        height, width = pixels.shape[:2]
        masks = masks_of(annotations, height, width)
        assert np.sum(masks, axis=0).max(initial=0) <= 1
        for annotation, mask in zip(annotations, masks, strict=True):
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum()
            polygons += isinstance(annotation["segmentation"], list)
    assert polygons > 50


def test_the_set_is_as_varied_as_promised():
    images = [shapes.draw_image(index, SIDE, [2, 0]) for index in range(150)]
    annotations = [annotation for _, found in images for annotation in found]
    objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
    crowds = [annotation for annotation in annotations if annotation["iscrowd"]]
    counts = Counter(annotation["category_id"] for annotation in objects)
    frequent = [counts[category] for category in shapes.CATEGORIES.values()]
    assert frequent[0] > 1.5 * frequent[1] > 1.5 * frequent[2] > 0
    assert 0 < min(frequent) < frequent[0] / 8
    areas = np.array([annotation["area"] for annotation in objects])
    assert areas.min() < 40
    assert areas.max() > SIDE * SIDE / 8
    assert len(crowds) > 15
    assert all(isinstance(annotation["segmentation"], dict) for annotation in crowds)
    assert sum(not found for _, found in images) >= 150 // shapes.EMPTY_EVERY
    assert {pixels.shape[:2] for pixels, _ in images} == {(SIDE, SIDE), (SIDE, SIDE * 3 // 4), (SIDE * 3 // 4, SIDE)}


def test_masks_matter_objects_touch_and_colour_does_not_tell_them_from_the_ground():
    filled, contrasts, touching = [], [], 0
    for index in range(60):
        pixels, annotations = shapes.draw_image(index, SIDE, [3, 0])
        objects = [found for found in annotations if not found["iscrowd"]]
        masks = masks_of(objects, *pixels.shape[:2])
        for found, mask in zip(objects, masks, strict=True):
            x, y, w, h = found["bbox"]
            filled.append(found["area"] / (w * h))
            around = np.zeros_like(mask)
            around[max(y - 4, 0) : y + h + 4, max(x - 4, 0) : x + w + 4] = True
            around &= ~np.any(masks, axis=0)
            if around.any():
                contrasts.append(np.abs(pixels[mask].mean(0) - pixels[around].mean(0)).max())
            grown = mask.copy()
            grown[1:] |= mask[:-1]
            grown[:, 1:] |= mask[:, :-1]
            touching += any((grown & other).any() for other in masks if other is not mask)
    assert np.median(filled) < 0.65
    assert touching > len(filled) / 2
    assert np.median(contrasts) < 60, "of 255; with flat objects of random colours it is 100"


def test_materials_of_one_palette_have_every_pattern():
    painter = Painter(np.random.default_rng(0), 40, 50)
    disc = np.hypot(*np.ogrid[-20:20, -25:25]) < 12
    for pattern in PATTERNS:
        before = painter.pixels.copy()
        painter.paint(disc, painter.new_material()._replace(pattern=pattern))
        assert (painter.pixels[~disc] == before[~disc]).all()
        assert (painter.pixels[disc] != before[disc]).all()
    assert painter.finished().dtype == np.uint8


@pytest.mark.parametrize(("argument", "value"), [("train", 0), ("val", 0), ("side", 63), ("seed", -1)])
def test_arguments_out_of_range_are_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must .*{value}"):
        shapes.prepare(tmp_path / "set", **{argument: value})
    assert list(tmp_path.iterdir()) == []
