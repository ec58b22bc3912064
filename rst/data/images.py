"""Image files: decoded, or only checked by their headers; and their size when resized.

H, W  height and width in pixels
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rst.coco.errors import DataError

EXIF_ORIENTATION = 0x0112
ROTATED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # SyntaxError: PIL's for broken PNG


def resized(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) of an image after the keep-ratio resize, pixels."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def absent_images(names: Sequence[str], folder: Path) -> tuple[list[int], int]:
    """Indices of the files that are not below `folder`, by one listing of each folder that they name.

    Also how many other files lie in these folders.
    """
    listed: dict[str, set[str]] = {}
    absent, used = [], set()
    for index, name in enumerate(names):
        parent, base = os.path.split(name)
        if parent not in listed:
            place = folder / parent
            entries = os.scandir(place) if place.is_dir() else ()
            listed[parent] = {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
        if base in listed[parent]:
            used.add(name)
        else:
            absent.append(index)
    return absent, sum(map(len, listed.values())) - len(used)


def hint_where(name: str, folder: Path) -> str:
    """The end of a message on a missing image: the neighbouring folder that has it, if one does."""
    nearby = [folder.parent, *sorted(path for path in folder.iterdir() if path.is_dir())]
    for place in nearby:
        if (place / name).is_file():
            return f"; it is below {place}, name that folder"
    return ""


class ImageFault(NamedTuple):
    """Why an image cannot be used as it is annotated."""

    kind: str  # "missing image file", "unreadable image file" or "image file of another size"
    text: str
    size: list[int] | None = None  # height and width that it has


def read_image(path: Path, size: tuple[int, int] | None = None, source: Path | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Args:
        path: the image file.
        size: its annotated height and width in pixels. A rotation noted in EXIF is applied where this size asks for it,
            and always where there is no size.
        source: the annotation file, for messages.

    Raises:
        DataError: the file is gone, cannot be decoded, or has another size.
    """
    try:
        with Image.open(path) as image:
            turned = size is None or _asks_for_rotation(image, *size)
            pixels = np.array((ImageOps.exif_transpose(image) if turned else image).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: the image has vanished since {source or 'its folder'} was read") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if size is not None and pixels.shape[:2] != size:
        raise DataError(f"{path}: {_other_size(pixels.shape[:2], size, str(source))}")
    return pixels


def inspect_image(path: Path, height: int, width: int, decode: bool = False) -> ImageFault | None:
    """Why `read_image` would refuse the file, None if it would not; without `decode` only the header is read."""
    try:
        with Image.open(path) as image:
            size = image.size
            if _asks_for_rotation(image, height, width):
                size = size[::-1]
            if size != (width, height):
                found = (image.height, image.width)
                text = _other_size(found, (height, width), "its annotation")
                return ImageFault("image file of another size", text, list(found))
            if decode:
                image.load()
    except FileNotFoundError:
        return ImageFault("missing image file", "no such image file")
    except UNREADABLE as error:
        return ImageFault("unreadable image file", f"cannot be read as an image: {error}")
    return None


def _asks_for_rotation(image: Image.Image, height: int, width: int) -> bool:
    return image.size == (height, width) != (width, height) and image.getexif().get(EXIF_ORIENTATION) in ROTATED


def _other_size(found: tuple[int, ...], annotated: tuple[int, int], source: str) -> str:
    (height, width), (h, w) = found, annotated
    return f"the image has {width}x{height} pixels (width x height), {source} says {w}x{h}"
