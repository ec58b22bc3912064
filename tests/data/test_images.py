"""How an image is decoded: depth, modes, limits, pages and errors; the same in training, prediction and check."""

import struct
import zlib

import numpy as np
import pytest
from image_files import ORIENTATION, STORED, UPRIGHT, annotate, corner, findings, save, trained_on, turned
from PIL import Image, ImageFile

from rst.data import CocoDetection, DataError
from rst.data.images import MAX_PIXELS, Decoding, inspect_image, read_image


def png_of_16_bits(pixels):
    """A PNG by hand, which Pillow cannot write in colour: (H, W) or (H, W, 3) uint16."""
    height, width = pixels.shape[:2]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of(values, bits, order="<"):
    """A grey TIFF by hand: rows of `bits` each, packed by the caller."""
    height, width = 4, 8
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(values)))
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", 8 + len(values)) + values + directory


RAMP = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
SIXTEEN_BITS = {
    "grey.png": png_of_16_bits(RAMP),
    "colour.png": png_of_16_bits(np.stack([RAMP] * 3, 2)),
    "little.tif": tiff_of(RAMP.astype("<u2").tobytes(), 16),
    "big.tif": tiff_of(RAMP.astype(">u2").tobytes(), 16, ">"),
    "grey.pgm": b"P5 8 4 65535\n" + RAMP.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_of_sixteen_bits_the_higher_eight_are_used(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(SIXTEEN_BITS[name])
    expected = np.stack([RAMP // 256] * 3, 2)
    assert (read_image(path) == expected).all()
    assert (trained_on(path, (4, 8), UPRIGHT) == expected).all()
    kinds, report = findings(path, (4, 8), UPRIGHT)
    assert kinds == []
    remarks = [f"{path} is grey with 16 bits: the higher 8 are used"] * (name != "colour.png")
    assert [note for note in report.notes if "16 bits" in note] == remarks


@pytest.mark.parametrize("saved", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}])
def test_sixteen_bits_written_by_pillow_and_turned(tmp_path, saved):
    path = tmp_path / "grey.tif"
    Image.fromarray(RAMP).save(path, tiffinfo={ORIENTATION: 6}, **saved)
    grey = np.stack([RAMP // 256] * 3, 2).astype(np.uint8)
    assert (read_image(path) == turned(grey, 6)).all()
    assert (read_image(path, decoding=STORED) == grey).all()


def test_twelve_bits_use_their_own_range(tmp_path):
    values = RAMP.astype(np.int64) >> 4
    first, second = values.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    path = tmp_path / "twelve.tif"
    path.write_bytes(tiff_of(packed, 12))
    assert (read_image(path)[..., 0] == RAMP >> 8).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.int16])
def test_a_depth_without_a_rule_is_refused_by_name_and_mode(tmp_path, dtype):
    path = tmp_path / "depth.tif"
    Image.fromarray(RAMP.astype(np.int32 if dtype == np.int16 else dtype)).save(path)
    if dtype == np.int16:
        content = tiff_of((RAMP >> 1).astype("<i2").tobytes(), 16)
        path.write_bytes(content.replace(struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 339, 4, 1, 2)))
    mode = "F" if dtype == np.float32 else "I"
    message = rf"depth.tif: cannot be used: mode {mode} \(.*\) has no rule for 8 bits"
    for read in (lambda: read_image(path), lambda: trained_on(path, (4, 8), UPRIGHT)):
        with pytest.raises(DataError, match=message):
            read()
    for decode in (False, True):
        kinds, report = findings(path, (4, 8), UPRIGHT, decode)
        assert kinds == ["unreadable image file"]
        assert f"mode {mode}" in report.findings[0].message


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("1", "a.png", {}),
        ("L", "a.png", {"transparency": 3}),
        ("LA", "a.png", {}),
        ("P", "a.png", {"transparency": bytes(range(256))}),
        ("P", "a.gif", {"transparency": 3}),
        ("RGB", "a.png", {"transparency": (0, 1, 2)}),
        ("RGBA", "a.png", {}),
        ("RGBA", "a.webp", {"lossless": True}),
        ("CMYK", "a.jpg", {}),
        ("CMYK", "a.tif", {}),
        ("YCbCr", "a.jpg", {}),
        ("LAB", "a.tif", {}),
    ],
)
def test_other_modes_are_converted_as_pillow_does(tmp_path, mode, name, options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    image = Image.new("LAB", (64, 40), (99, 30, 200)) if mode == "LAB" else Image.fromarray(noise).convert(mode)
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as opened:
        opened.info.pop("transparency", None)  # Pillow's warning
        expected = np.array(opened.convert("RGB"))
    assert (read_image(tmp_path / name) == expected).all()


FRAMES = {"pages.tif": {}, "moving.gif": {}, "moving.webp": {"lossless": True}, "moving.png": {}}


@pytest.mark.parametrize("name", FRAMES)
def test_of_several_pages_the_first_is_used_and_the_check_says_so(tmp_path, name):
    red, blue = (Image.new("RGB", (64, 40), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    path = tmp_path / name
    red.save(path, save_all=True, append_images=[blue, blue], **FRAMES[name])
    assert read_image(path)[5, 5].tolist() == [255, 0, 0]
    assert trained_on(path, (40, 64), UPRIGHT)[5, 5].tolist() == [255, 0, 0]
    for decode in (False, True):
        kinds, report = findings(path, (40, 64), UPRIGHT, decode)
        assert kinds == []
        assert f"{path} has several pages or frames: the first is used" in report.notes


def test_a_limit_on_pixels_that_a_key_lifts(tmp_path):
    path = save(tmp_path / "large.png", corner(40, 64))
    message = r"large.png: has 64x40 = 2,560 pixels, max_pixels is 2,559 .*: raise data.max_pixels"
    for read in (
        lambda: read_image(path, decoding=Decoding(max_pixels=2559)),
        lambda: trained_on(path, (40, 64), Decoding(max_pixels=2559)),
    ):
        with pytest.raises(DataError, match=message):
            read()
    for decode in (False, True):
        assert findings(path, (40, 64), Decoding(max_pixels=2559), decode)[0] == ["unreadable image file"]
        assert findings(path, (40, 64), Decoding(max_pixels=2560), decode)[0] == []


def test_photographs_beyond_pillows_limit(tmp_path):
    path = tmp_path / "huge.png"
    side = 13_378  # squared just above the limit
    Image.new("1", (side, side)).save(path)
    assert side**2 > MAX_PIXELS
    assert inspect_image(path, side, side).fault is not None
    assert inspect_image(path, side, side, decoding=Decoding(max_pixels=None)).fault is None
    assert inspect_image(path, side, side, decoding=Decoding(max_pixels=side**2)).fault is None


def test_pillows_own_limit_neither_warns_nor_refuses_nor_changes(tmp_path, monkeypatch):
    path = save(tmp_path / "photo.tif", corner(40, 64))
    for limit in (2000, 500, None):  # Pillow would warn, would refuse; and a program without any limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert read_image(path).shape == (40, 64, 3)  # a warning would be an error here
        path.with_name("broken.tif").write_bytes(path.read_bytes()[:90])
        with pytest.raises(DataError):
            read_image(path.with_name("broken.tif"))
        assert findings(path, (40, 64), UPRIGHT)[0] == []
        assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "error",
    [
        struct.error("argument"),
        KeyError("tag"),
        TypeError("bytes"),
        zlib.error("-3"),
        IndexError("range"),
        EOFError(),
        MemoryError(),
        RecursionError("depth"),
        OverflowError("int"),
        ZeroDivisionError("by zero"),
        AssertionError(),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal"),
        AttributeError("tag"),
        NotImplementedError(),
        Image.DecompressionBombError("large"),
        SyntaxError("broken PNG"),
        FileNotFoundError("a file within"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_that_images_fault(tmp_path, monkeypatch, error):
    path = save(tmp_path / "odd.png", corner(40, 64))
    file = annotate(path, 40, 64)
    data = CocoDetection(file, tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for read in (lambda: read_image(path), lambda: data[0]):
        with pytest.raises(DataError, match=r"odd.png: (cannot be read as an image: .|the image has vanished)"):
            read()
    assert inspect_image(path, 40, 64, decode=True).fault is not None


def test_settings_are_checked():
    with pytest.raises(ValueError, match="exif must be 'upright' or 'stored', got 'up'"):
        Decoding("up")
    with pytest.raises(ValueError, match="max_pixels must be at least 1, or null for no limit, got 0"):
        Decoding(max_pixels=0)
