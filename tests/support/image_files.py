"""Image files with an orientation in EXIF, and the ways to read one: for training, and by the check."""

import json

import numpy as np
from PIL import Image, ImageOps

from rst.data import CocoDetection
from rst.data.check import check_annotations
from rst.data.images import Decoding

ORIENTATION = 0x0112
LOSSLESS = {"png": {}, "tif": {}, "tiff": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}
UPRIGHT, STORED = Decoding("upright"), Decoding("stored")


def corner(height, width):
    """Black, with a red rectangle in the upper left corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:8, :4, 0] = 255
    return pixels


def save(path, pixels, orientation=None, **options):
    image = Image.fromarray(pixels)
    if orientation is not None and path.suffix.startswith(".tif"):
        options["tiffinfo"] = {ORIENTATION: orientation}
    elif orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(path, **options)
    return path


def turned(pixels, orientation):
    """The pixels upright, by Pillow's own function."""
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(image))


def annotate(path, height, width):
    content = {
        "images": [{"id": 7, "file_name": path.name, "height": height, "width": width}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 3, 3]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = path.parent / "instances.json"
    file.write_text(json.dumps(content))
    return file


def trained_on(path, size, decoding):
    data = CocoDetection(annotate(path, *size), path.parent, decoding=decoding)
    return data[0][0].permute(1, 2, 0).numpy()


def findings(path, size, decoding, decode=True):
    report = check_annotations(annotate(path, *size), path.parent, decode=decode, decoding=decoding)
    return [finding.kind for finding in report.findings], report
