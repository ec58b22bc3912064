"""Image files of many formats and modes, and ways to spoil them; all from a seed."""

import io
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 36
ORIENTATION = 0x0112


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x0128] = 2  # ResolutionUnit
    exif[0x011A] = 72.0  # XResolution
    exif[0x010F] = "a camera's name"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    return exif.tobytes()


def _image(mode: str, generator: np.random.Generator) -> Image.Image:
    blocks = generator.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    image = Image.fromarray(blocks.repeat(4, 0).repeat(4, 1))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.int32 if mode == "I" else np.float32))
    return image.convert(mode)


# Format, mode and options of `Image.save`; "frames" are images appended.
SOUND: list[tuple[str, str, dict]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "exif": 6}),
    ("JPEG", "RGB", {"exif": 3, "quality": 30}),
    ("JPEG", "L", {"exif": 8}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {"exif": 5}),
    ("PNG", "RGBA", {}),
    ("PNG", "LA", {"exif": 4}),
    ("PNG", "P", {"transparency": bytes(range(200))}),
    ("PNG", "1", {}),
    ("PNG", "L", {"transparency": 7}),
    ("PNG", "I;16", {}),
    ("PNG", "RGB", {"frames": 2}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw", "orientation": 6}),
    ("TIFF", "RGB", {"compression": "tiff_deflate", "orientation": 3}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "CMYK", {}),
    ("TIFF", "I;16", {"compression": "packbits"}),
    ("TIFF", "I", {}),
    ("TIFF", "F", {}),
    ("TIFF", "1", {"compression": "group4", "orientation": 8}),
    ("TIFF", "P", {"frames": 2}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("BMP", "1", {}),
    ("WEBP", "RGB", {"exif": 7}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"frames": 2}),
    ("GIF", "P", {"transparency": 3}),
    ("GIF", "L", {"frames": 2}),
]
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "gif"}


def sound_images(seed: int) -> list[tuple[str, bytes]]:
    """(suffix, content) of one sound file of each entry of SOUND."""
    generator = np.random.default_rng(seed)
    files = []
    for form, mode, options in SOUND:
        options = dict(options)
        more = [_image(mode, generator) for _ in range(options.pop("frames", 0))]
        if more:
            options |= {"save_all": True, "append_images": more}
        if "exif" in options:
            options["exif"] = _exif(options["exif"])
        if "orientation" in options:
            options["tiffinfo"] = {ORIENTATION: options.pop("orientation")}
        stream = io.BytesIO()
        _image(mode, generator).save(stream, form, **options)
        files.append((SUFFIXES[form], stream.getvalue()))
    return files


def _flip_bytes(data: bytearray, g: np.random.Generator) -> None:
    for _ in range(int(g.integers(1, 12))):
        data[g.integers(len(data))] = g.integers(256)


def _flip_header(data: bytearray, g: np.random.Generator) -> None:
    for _ in range(int(g.integers(1, 5))):
        data[g.integers(min(len(data), 120))] = g.integers(256)


def _flip_bit(data: bytearray, g: np.random.Generator) -> None:
    data[g.integers(len(data))] ^= 1 << int(g.integers(8))


def _truncate(data: bytearray, g: np.random.Generator) -> None:
    del data[g.integers(len(data)) :]


def _erase(data: bytearray, g: np.random.Generator) -> None:
    start = int(g.integers(len(data)))
    end = min(len(data), start + int(g.integers(1, 64)))
    data[start:end] = bytes([int(g.choice([0, 255]))]) * (end - start)


def _cut(data: bytearray, g: np.random.Generator) -> None:
    start = int(g.integers(len(data)))
    del data[start : start + int(g.integers(1, 64))]


def _repeat(data: bytearray, g: np.random.Generator) -> None:
    start = int(g.integers(len(data)))
    data[start:start] = data[start : start + int(g.integers(1, 64))]


def _write_number(data: bytearray, g: np.random.Generator) -> None:
    """A count, size or offset of two or four bytes becomes extreme."""
    width, order = g.choice(["H", "I"]), g.choice(["<", ">"])
    value = (
        int(g.choice([0, 1, 7, 255, 32767, 65535])) if width == "H" else int(g.choice([0, 1, 2**16, 2**31, 2**32 - 1]))
    )
    start = int(g.integers(max(1, min(len(data), 400) - 4)))
    data[start : start + struct.calcsize(width)] = struct.pack(order + width, value)


def _spoil_exif(data: bytearray, g: np.random.Generator) -> None:
    """Bytes of the EXIF block, or what is at its place in files without one."""
    start = max(data.find(b"II*\0"), data.find(b"MM\0*"), 0)
    for _ in range(int(g.integers(1, 6))):
        data[min(start + int(g.integers(90)), len(data) - 1)] = g.choice([0, 1, 2, 3, 5, 7, 12, 128, 255])


WAYS: list[Callable[[bytearray, np.random.Generator], None]] = [
    _flip_bytes,
    _flip_header,
    _flip_bit,
    _truncate,
    _erase,
    _cut,
    _repeat,
    _write_number,
    _spoil_exif,
]


def spoilt_images(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of `count` files, each a sound one spoilt in one or two ways."""
    sound = sound_images(seed)
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        suffix, content = sound[number % len(sound)]
        data = bytearray(content)
        for way in generator.choice(len(WAYS), int(generator.integers(1, 3))):
            if data:
                WAYS[way](data, generator)
        yield suffix, bytes(data)
