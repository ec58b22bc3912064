"""Image files: decoded in one way for training, evaluation, prediction and the check; and their size when resized.

Orientation. A camera stores the pixels as its sensor lies, and in EXIF how to turn them (2 to 8; 5 to 8 exchange the
sides). Where an annotated size fits only one of the two forms, it decides. Elsewhere (no annotation, a square image,
orientation 2, 3 or 4) `Decoding.exif` decides. Its default is "upright": browsers, most annotation tools, OpenCV and
detectron2 turn images, so boxes are drawn on upright ones. torchvision's reader of COCO takes them as stored.

Depth. Of 16 bits the higher 8 are used (value // 256), as Pillow does with 16-bit colour. 32-bit grey, integer or
float, has no known range and is refused. Of several pages or frames the first one is used.

H, W  height and width in pixels
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from rst.coco.errors import DataError

Exif = Literal["upright", "stored"]
# What happened to an image that EXIF says how to turn: it was "turned" or "left", because the "size" or "setting" said.
Turn = Literal["", "turned by size", "turned by setting", "left by size", "left by setting"]
MAX_PIXELS = 178_956_970  # Pillow's limit against files that decompress to far more than their own size

ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ROTATED = (5, 6, 7, 8)  # orientations that exchange height and width
OPPOSITE = {6: 8, 8: 6}  # the orientation whose turn undoes another's, where it is not its own
SIXTEEN_BITS_AS_I = ("PNG", "PPM")  # formats whose mode I holds 16 bits


@dataclass(frozen=True)
class Decoding:
    """How image files are decoded.

    Attributes:
        exif: where the annotated size does not decide: "upright" turns an image as its EXIF says, "stored" does not.
        max_pixels: images with more pixels are refused; None refuses none.
    """

    exif: Exif = "upright"
    max_pixels: int | None = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.exif not in get_args(Exif):
            raise ValueError(f"exif must be 'upright' or 'stored', got {self.exif!r}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, or null for no limit, got {self.max_pixels}")


DEFAULT_DECODING = Decoding()


class ImageFault(NamedTuple):
    """Why an image cannot be used as it is annotated."""

    kind: str  # "missing image file", "unreadable image file" or "image file of another size"
    text: str
    size: list[int] | None = None  # height and width that it has


class Inspection(NamedTuple):
    """What a check wants to know of an image file."""

    fault: ImageFault | None = None
    turn: Turn = ""
    pages: bool = False  # more than one
    sixteen_bits: bool = False  # grey


class UnusableError(Exception):
    """An image that cannot be used; `read_image` makes a DataError of it, `inspect_image` a finding."""

    def __init__(self, kind: str, text: str, size: tuple[int, ...] | None = None):
        super().__init__(text)
        self.fault = ImageFault(kind, text, None if size is None else list(size))


def resized(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) of an image after the keep-ratio resize, pixels."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def read_image(
    path: Path, size: tuple[int, int] | None = None, source: Path | None = None, decoding: Decoding = DEFAULT_DECODING
) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Args:
        path: the image file.
        size: its annotated height and width in pixels.
        source: the annotation file, for messages.
        decoding: orientation and limit.

    Raises:
        DataError: the file is gone, cannot be decoded, has more pixels than allowed, has a depth without a rule, or
            another size.
    """
    try:
        pixels, _ = _look(path, size, str(source), decoding, whole=True)
    except UnusableError as error:
        if error.fault.kind == "missing image file":
            raise DataError(f"{path}: the image has vanished since {source or 'its folder'} was read") from None
        raise DataError(f"{path}: {error.fault.text}") from error.__cause__
    assert pixels is not None
    return pixels


def inspect_image(
    path: Path, height: int, width: int, decode: bool = False, decoding: Decoding = DEFAULT_DECODING
) -> Inspection:
    """Why `read_image` would refuse the file, if it would, and what it would do; without `decode` by the header."""
    try:
        return _look(path, (height, width), "its annotation", decoding, whole=decode)[1]
    except UnusableError as error:
        return Inspection(error.fault)


def _look(
    path: Path, size: tuple[int, int] | None, source: str, decoding: Decoding, whole: bool
) -> tuple[np.ndarray | None, Inspection]:
    """The pixels, if the `whole` file is wanted, and what is to know about them. Whatever a decoder raises is caught:
    on spoilt files they raise errors of a dozen types."""
    try:
        # From an open file: Pillow (13.0) maps a named one, and then garbles grey TIFF of the orientations 5 to 8.
        with _without_pillows_limit(), path.open("rb") as stream, Image.open(stream) as image:
            _refuse_large(image.size, decoding)
            tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
            sixteen_bits = _is_sixteen_bits(image)
            orientation = _orientation(image, size, whole) if tiff or not whole else 1
            if whole:
                image.load()
                _refuse_large(image.size, decoding)
                orientation = orientation if tiff else _orientation(image, size, whole)
            shown, other = image.size[::-1], image.size[:: 1 if orientation in ROTATED else -1]
            stored, upright = (other, shown) if tiff else (shown, other)  # Pillow turns TIFF when it loads it
            turned, turn = _choose(orientation, stored, upright, size, decoding.exif)
            found = upright if turned else stored
            if size is not None and found != size:
                raise UnusableError("image file of another size", _other_size(stored, upright, size, source), found)
            pixels = None
            if whole:
                rgb = _rgb(image)
                if orientation != 1 and turned != tiff:
                    rgb = rgb.transpose(TURNS[OPPOSITE.get(orientation, orientation) if tiff else orientation])
                pixels = np.array(rgb)
            return pixels, Inspection(None, turn, _has_pages(image), sixteen_bits)
    except UnusableError:
        raise
    except FileNotFoundError:
        raise UnusableError("missing image file", "no such image file") from None
    except UnidentifiedImageError:
        raise UnusableError("unreadable image file", "cannot be read as an image: of no known format") from None
    except Exception as error:
        said = str(error) if isinstance(error, OSError | SyntaxError | ValueError) and str(error) else repr(error)
        said = "it needs more memory than there is" if isinstance(error, MemoryError) else said
        raise UnusableError("unreadable image file", f"cannot be read as an image: {said}") from error


def _choose(
    orientation: int, stored: tuple[int, ...], upright: tuple[int, ...], size: tuple[int, int] | None, exif: Exif
) -> tuple[bool, Turn]:
    """Whether the image is to be upright, and why."""
    if orientation == 1:
        return False, ""
    if stored != upright and size in (stored, upright):
        return (True, "turned by size") if size == upright else (False, "left by size")
    return (True, "turned by setting") if exif == "upright" else (False, "left by setting")


def _orientation(image: Image.Image, size: tuple[int, int] | None, whole: bool) -> int:
    """1 to 8; 1 too where EXIF is broken, which costs nothing else."""
    # A PNG whose EXIF does not come before its pixels is decoded by `getexif`: too slow, unless the size may need it.
    needed = whole or image.size == size != image.size[::-1]
    try:
        value: Any = (image.getexif() if needed else Image.Image.getexif(image)).get(ORIENTATION, 1)
        return int(value) if value in TURNS else 1
    except Exception:
        return 1


def _is_sixteen_bits(image: Image.Image) -> bool:
    """Whether the image is grey with 16 bits.

    Raises:
        UnusableError: grey with 32 bits.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS_AS_I):
        return True
    if image.mode in ("I", "F"):
        depth = "32-bit integers" if image.mode == "I" else "32-bit floats"
        text = f"mode {image.mode} ({depth}) has no rule for 8 bits: save it with 8 or 16 bits"
        raise UnusableError("unreadable image file", f"cannot be used: {text}")
    return False


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        bits = image.tag_v2.get(258, (16,))[0] if isinstance(image, TiffImagePlugin.TiffImageFile) else 16
        values = np.asarray(image).astype(np.int64) >> max(bits - 8, 0)  # 12-bit TIFF has values up to 4095
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    image.info.pop("transparency", None)  # dropped in any case, but convert would look at it and warn
    return image.convert("RGB")


def _has_pages(image: Image.Image) -> bool:
    if image.format == "MPO":  # a JPEG photograph with previews or depth behind it
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first page is not used
        return False


def _refuse_large(size: tuple[int, int], decoding: Decoding) -> None:
    pixels, limit = size[0] * size[1], decoding.max_pixels
    if limit is not None and pixels > limit:
        text = (
            f"has {size[0]}x{size[1]} = {pixels:,} pixels, max_pixels is {limit:,} (a guard against files made to "
            f"exhaust the memory): raise data.max_pixels if the file is right"
        )
        raise UnusableError("unreadable image file", text)


def _other_size(stored: tuple[int, ...], upright: tuple[int, ...], annotated: tuple[int, int], source: str) -> str:
    turned = f", {upright[1]}x{upright[0]} upright" if upright != stored else ""
    return (
        f"the image has {stored[1]}x{stored[0]} pixels (width x height){turned}, "
        f"{source} says {annotated[1]}x{annotated[0]}"
    )


class _Limit:
    """Pillow's limit, a global of that module, while some thread decodes."""

    lock = threading.Lock()
    users = 0
    pillows: int | None = None


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """`max_pixels` stands in for Pillow's limit, which would also warn of every image with more than half of it."""
    with _Limit.lock:
        if not _Limit.users:
            _Limit.pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _Limit.users += 1
    try:
        yield
    finally:
        with _Limit.lock:
            _Limit.users -= 1
            if not _Limit.users:
                Image.MAX_IMAGE_PIXELS = _Limit.pillows
