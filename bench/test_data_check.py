"""`rst data check` on a set of COCO's size: the goal is a million annotations in under a minute on two cores.

The whole command is timed: Python starts, the file is read, every image's header is opened. Faults are planted; a run
that does not find exactly these fails.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from judging import CHECK
from PIL import Image
from pycocotools import mask as coco_mask

IMAGES, ANNOTATIONS, CLASSES = 118_000, 1_000_000, 80
SIZES = [(480, 640), (640, 480), (427, 640), (612, 612)]  # height and width, pixels
CORNERS = 12  # of a polygon; COCO's have a dozen or two
RUN_LENGTHS = 100  # every hundredth mask is run lengths, like COCO's crowds
LINKS = 20_000  # names (hard links) of one image file: file systems have a limit
AT_ONCE = 50_000  # annotations written together: all of them as Python objects would take gigabytes
SHAPE = f"{ANNOTATIONS:,} annotations of {IMAGES:,} images"


def write_images(folder: Path) -> list[dict[str, object]]:
    """Images that share a few files, and their entries."""
    folder.mkdir()
    random = np.random.default_rng(0)
    entries = []
    for i in range(IMAGES):
        height, width = SIZES[i % len(SIZES)]
        path = folder / f"{i:012d}.jpg"
        first = folder / f"{i // LINKS * LINKS + i % len(SIZES):012d}.jpg"
        if path == first:
            Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(path)
        else:
            path.hardlink_to(first)
        entries.append({"id": i + 1, "file_name": path.name, "height": height, "width": width})
    return entries


def write_annotations(file: Path, images: list[dict[str, object]]) -> dict[str, list[int]]:
    """The annotation file; returns the ids of the faulty annotations by kind of fault."""
    random = np.random.default_rng(1)
    owner = np.sort(random.integers(0, IMAGES, ANNOTATIONS))
    label = (CLASSES * random.beta(0.5, 2, ANNOTATIONS)).astype(int).clip(0, CLASSES - 1)
    turn = 2 * np.pi * np.arange(CORNERS) / CORNERS
    with file.open("wb") as out:
        out.write(b'{"images":' + orjson.dumps(images))
        out.write(b',"categories":' + orjson.dumps([{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]))
        out.write(b',"annotations":[')
        for start in range(0, ANNOTATIONS, AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, ANNOTATIONS))
            limits = np.array(SIZES)[owner[rows] % len(SIZES), ::-1]  # width and height
            radii = np.exp(random.uniform(np.log(3), np.log(150), (len(rows), 2)))
            centres = radii + random.random((len(rows), 2)) * (limits - 2 * radii)
            points = centres[:, None] + radii[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)
            points = points.round(2).clip(0, limits[:, None])
            corner, far = points.min(1), points.max(1)
            entries = [
                {
                    "id": row + 1,
                    "image_id": image + 1,
                    "category_id": k + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
                for row, image, k, box, area, outline in zip(
                    rows.tolist(),
                    owner[rows].tolist(),
                    label[rows].tolist(),
                    np.concatenate([corner, (far - corner).round(2)], 1).tolist(),
                    (0.7 * (far - corner).prod(1)).round(2).tolist(),
                    points.reshape(len(rows), -1).tolist(),
                    strict=True,
                )
            ]
            for entry, (width, height) in zip(entries[::RUN_LENGTHS], limits[::RUN_LENGTHS].tolist(), strict=True):
                (runs,) = coco_mask.frPyObjects(entry["segmentation"], height, width)
                entry["segmentation"] = {"size": [height, width], "counts": runs["counts"].decode()}
            if not start:
                entries[10]["bbox"] = [5.0, 5.0, 0.0, 9.0]
                entries[11]["category_id"] = CLASSES + 1
                entries[12]["area"] = -1
            out.write(b"," * bool(start) + orjson.dumps(entries)[1:-1])
        out.write(b"]}")
    return {"box without area": [11], "unknown category": [12], "malformed area": [13]}


@pytest.mark.skipif(sys.platform == "win32", reason="the images are hard links")
def test_a_million_annotations(benchmark, tmp_path):
    images, file, report = tmp_path / "images", tmp_path / "train.json", tmp_path / "report.json"
    planted = write_annotations(file, write_images(images))
    command = [sys.executable, "-m", "rst.cli.main", "data", "check", file, images, "--masks", "--output", report]
    benchmark.group = "data check"
    benchmark.extra_info.update(table=CHECK, shape=SHAPE, contender="rst data check")
    done = benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, text=True, check=False), rounds=1)
    assert done.returncode == 1, done.stderr
    found = json.loads(report.read_text())
    assert found["statistics"]["images"]["count"] == IMAGES
    ids: dict[str, list[int]] = {}
    for finding in found["findings"]:
        ids.setdefault(finding["kind"], []).append(finding["id"])
    assert ids == planted
