"""Run lengths by the thousand against pycocotools, whole and broken; the boxes of segmentations."""

from itertools import pairwise

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rst.coco.masks import check_segmentation, check_segmentations, encode_mask, extents
from rst.coco.run_lengths import CHUNK, whole_masks
from rst.data import DataError

random = np.random.default_rng(0)


def some_masks(count: int) -> list[np.ndarray]:
    """Random masks of many forms: empty, full, noise, rectangles across columns, one pixel."""
    masks = []
    for k in range(count):
        height, width = random.integers(1, 90, 2)
        mask = np.zeros((height, width), bool)
        if k % 5 == 1:
            mask[:] = True
        elif k % 5 == 2:
            mask = random.uniform(size=(height, width)) < random.uniform()
        elif k % 5 == 3:
            top, left = random.integers(0, height), random.integers(0, width)
            mask[top : top + random.integers(1, 60), left : left + random.integers(1, 60)] = True
        elif k % 5 == 4:
            mask[random.integers(0, height), random.integers(0, width)] = True
        masks.append(mask)
    return masks


def runs_of(mask: np.ndarray) -> list[int]:
    """The uncompressed form, by its definition."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    edges = [0, *changes.tolist(), len(flat)]
    runs = [b - a for a, b in pairwise(edges)]
    return [0, *runs] if flat[0] else runs


def test_what_pycocotools_writes_is_whole_in_either_form():
    masks = some_masks(300)
    pixels = np.array([mask.size for mask in masks])
    texts = [encode_mask(mask)["counts"] for mask in masks]
    assert whole_masks(texts, pixels).all()
    assert whole_masks([runs_of(mask) for mask in masks], pixels).all()
    mixed = [text if k % 2 else runs_of(mask) for k, (text, mask) in enumerate(zip(texts, masks, strict=True))]
    assert whole_masks(mixed, pixels).all()
    assert not whole_masks(texts, pixels + 1).any()


def test_long_runs_and_many_chunks():
    side = 20_000
    text = coco_mask.frPyObjects({"size": [side, side], "counts": [7, side * side - 10, 3]}, side, side)[
        "counts"
    ].decode()
    counts = [text] * (CHUNK + 3)
    counts[CHUNK + 1] = text[:-1]
    assert np.flatnonzero(~whole_masks(counts, np.full(len(counts), side * side))).tolist() == [CHUNK + 1]


@pytest.mark.parametrize("corrupt", [
    lambda t: t[:-1], lambda t: t + "1", lambda t: "1" + t, lambda t: "", lambda t: t[: len(t) // 2],
    lambda t: t.replace(t[3], " ", 1), lambda t: "é" + t[1:], lambda t: t + "`", lambda t: "oooooooo0" + t,
])  # fmt: skip
def test_a_corrupted_text_is_found_between_sound_ones(corrupt):
    mask = random.uniform(size=(40, 50)) < 0.3
    text = encode_mask(mask)["counts"]
    whole = whole_masks([text, corrupt(text), text], np.full(3, mask.size))
    assert whole.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "counts", [[], [1999], [2001], [2500, -500], [1000.0, 1000.0], [True] * 2000, None, 7, [[2000]], ["2000"]]
)
def test_corrupted_lists_and_what_is_neither(counts):
    assert whole_masks([[2000], counts, [0, 2000]], np.full(3, 2000)).tolist() == [True, False, True]


def test_nothing_to_check():
    assert whole_masks([], np.zeros(0, np.int64)).tolist() == []
    assert check_segmentations([], [], lambda *_: None) == []
    assert extents([], []).shape == (0, 4)


def test_extents_are_those_of_the_pixels():
    masks = some_masks(300)  # more than fit into a byte, in which pycocotools 2.0.11 counts elsewhere
    segmentations = [encode_mask(mask) for mask in masks]
    segmentations[::2] = [{"size": list(mask.shape), "counts": runs_of(mask)} for mask in masks[::2]]
    boxes = extents(segmentations, [mask.shape[0] for mask in masks])
    for mask, box in zip(masks, boxes, strict=True):
        if not mask.any():
            assert np.isnan(box).all()
            continue
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_extents_of_polygons_span_all_of_them():
    polygons = [[1.5, 2, 10, 2, 10, 8], [20, 1, 30, 1, 30, 4.25, 20, 4]]
    assert extents([polygons, None], [40, 40])[0].tolist() == [1.5, 1, 30, 8]
    assert np.isnan(extents([polygons, None], [40, 40])[1]).all()


def test_every_fault_is_reported_with_its_place_and_the_rest_is_usable():
    good = {"size": [4, 5], "counts": [20]}
    segmentations = [good, None, [[0, 0, 1, 1, 2, 0]], {"size": [4, 5], "counts": [19]}, [[1, 2]], [[1, "2"]], good]
    faults = {}
    usable = check_segmentations(segmentations, [[4, 5]] * 7, lambda index, text: faults.update({index: text}))
    assert usable == [good, None, [[0, 0, 1, 1, 2, 0]], None, None, None, good]
    assert set(faults) == {1, 3, 5}, "a polygon of one point is no wrong form"
    assert faults[3] == "run lengths do not add up to 4x5 pixels: [19]"
    with pytest.raises(DataError, match=r"^here: run lengths do not add up to 4x5 pixels: \[19\]$"):
        check_segmentation(segmentations[3], 4, 5, "here")
