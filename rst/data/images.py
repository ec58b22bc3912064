"""Picture files: decoded for training, or only looked at to see whether they could be; and their size when resized.

H, W  height and width in pixels
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rst.coco.errors import DataError

EXIF_ORIENTATION = 0x0112
ROTATED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)  # SyntaxError: PIL's for broken PNG


def resized(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) of a picture after the keep-ratio resize, pixels."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


class PictureFault(NamedTuple):
    """Why a picture cannot be used as it is annotated."""

    kind: str  # "missing picture", "unreadable picture" or "picture of another size"
    text: str
    size: list[int] | None = None  # height and width that it has


def read_picture(path: Path, height: int, width: int, source: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. A rotation noted in EXIF is applied where the annotated size asks for it.

    Args:
        path: the picture.
        height, width: its annotated size, pixels.
        source: the annotation file, for messages.

    Raises:
        DataError: it is gone, cannot be decoded, or has another size.
    """
    try:
        with Image.open(path) as picture:
            if _asks_for_rotation(picture, height, width):
                picture = ImageOps.exif_transpose(picture)
            if picture.size != (width, height):
                raise DataError(f"{path}: {_other_size(picture, height, width, str(source))}")
            return np.array(picture.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: the picture has vanished since {source} was read") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as a picture: {error}") from error


def look_at_picture(path: Path, height: int, width: int, decode: bool = False) -> PictureFault | None:
    """What `read_picture` would refuse it for, seen from the file's header alone unless it is to be decoded."""
    try:
        with Image.open(path) as picture:
            size = picture.size
            if _asks_for_rotation(picture, height, width):
                size = size[::-1]
            if size != (width, height):
                text = _other_size(picture, height, width, "its annotation")
                return PictureFault("picture of another size", text, [picture.height, picture.width])
            if decode:
                picture.load()
    except FileNotFoundError:
        return PictureFault("missing picture", "no such picture")
    except UNREADABLE as error:
        return PictureFault("unreadable picture", f"cannot be read as a picture: {error}")
    return None


def _asks_for_rotation(picture: Image.Image, height: int, width: int) -> bool:
    return picture.size == (height, width) != (width, height) and picture.getexif().get(EXIF_ORIENTATION) in ROTATED


def _other_size(picture: Image.Image, height: int, width: int, source: str) -> str:
    return (
        f"the picture has {picture.size[0]}x{picture.size[1]} pixels (width x height), {source} says {width}x{height}"
    )
