"""One way to read an image: orientation, depth, limits, pages and errors; the same in training, predict and check."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from rst.data import CocoDetection, DataError
from rst.data.check import check_annotations
from rst.data.images import MAX_PIXELS, Decoding, inspect_image, read_image

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


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("side", [40, 64])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_one_rule_for_the_orientation(tmp_path, suffix, side, orientation):
    stored = corner(40, side)
    path = save(tmp_path / f"photo.{suffix}", stored, orientation, **LOSSLESS[suffix])
    upright = turned(stored, orientation)
    forms = {"upright": upright, "stored": stored}
    for name, pixels in forms.items():
        decoding = Decoding(name)
        assert (read_image(path, decoding=decoding) == pixels).all(), "without an annotation the setting decides"
        decided = stored.shape != upright.shape
        for said, expected in forms.items():
            size = expected.shape[:2]
            wanted = expected if decided else pixels
            assert (trained_on(path, size, decoding) == wanted).all(), "the size decides where it can"
            assert (read_image(path, size, decoding=decoding) == wanted).all()
            for decode in (False, True):
                kinds, _ = findings(path, size, decoding, decode)
                if orientation == 1:
                    assert kinds == []
                elif not decided:
                    assert kinds == [f"EXIF orientation {'undecided' if name == 'upright' else 'not applied'}"]
                elif said == name:
                    assert kinds == []
                else:
                    what = "not applied" if said == "stored" else "against data.exif"
                    assert kinds == [f"EXIF orientation {what}"]
        kinds, _ = findings(path, (41, side), decoding)
        assert kinds == ["image file of another size"]
        with pytest.raises(DataError, match=rf"photo.{suffix}: the image has {side}x40 pixels"):
            trained_on(path, (41, side), decoding)


def test_the_check_counts_the_images_whose_turn_is_in_doubt(tmp_path):
    images = []
    for number, orientation in enumerate((1, 2, 3, 6, 8), 1):
        path = save(tmp_path / f"{number}.png", corner(40, 40), orientation)
        images.append({"id": number, "file_name": path.name, "height": 40, "width": 40})
    content = json.loads(annotate(path, 40, 40).read_text())
    content["images"], content["annotations"][0]["image_id"] = images, 1
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for decoding, kind in ((UPRIGHT, "EXIF orientation undecided"), (STORED, "EXIF orientation not applied")):
        report = check_annotations(tmp_path / "instances.json", tmp_path, decoding=decoding)
        assert report.counts == {kind: 4}
        assert report.of_level("error") == []


def exif_block(*tags):
    """EXIF by hand: (tag, type, count, four bytes of value)."""
    entries = b"".join(struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


TURN = (ORIENTATION, 3, 1, b"\x06\0\0\0")
BROKEN = {
    "ResolutionUnit as text": (exif_block(TURN, (0x128, 2, 4, b"abc\0")), True),
    "XResolution as a short": (exif_block(TURN, (0x11A, 3, 1, b"\x48\0\0\0")), True),
    "orientation as text": (exif_block((ORIENTATION, 2, 2, b"6\0\0\0")), False),
    "orientation of two": (exif_block((ORIENTATION, 3, 2, b"\x06\0\x06\0")), None),
    "orientation of 9": (exif_block((ORIENTATION, 3, 1, b"\x09\0\0\0")), False),
    "orientation of 0": (exif_block((ORIENTATION, 3, 1, b"\0\0\0\0")), False),
    "orientation as bytes": (exif_block((ORIENTATION, 7, 4, b"\x06\0\0\0")), False),
    "an unknown type": (exif_block((0x128, 99, 1, b"\x06\0\0\0"), TURN), None),
    "beyond the end": (exif_block(TURN, (0x10F, 2, 400, b"\xff\xff\xff\x7f")), None),
    "nothing": (b"Exif\0\0", False),
    "no TIFF": (b"Exif\0\0a text, no TIFF", False),
    "cut off": (exif_block(TURN)[:20], None),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, about metadata
def test_a_broken_exif_block_costs_only_the_orientation(tmp_path, suffix, broken):
    exif, turns = BROKEN[broken]
    plain, path = tmp_path / f"plain.{suffix}", tmp_path / f"photo.{suffix}"
    Image.fromarray(corner(40, 64)).save(plain, **LOSSLESS.get(suffix, {}))
    Image.fromarray(corner(40, 64)).save(path, exif=exif, **LOSSLESS.get(suffix, {}))
    stored, seen = read_image(plain), read_image(path)
    upright = turned(stored, 6)
    assert any(form.shape == seen.shape and (form == seen).all() for form in (stored, upright))
    if turns is not None:
        assert seen.shape == (upright if turns else stored).shape
    assert (trained_on(path, seen.shape[:2], UPRIGHT) == seen).all()
    kinds, _ = findings(path, seen.shape[:2], UPRIGHT)
    assert kinds == []


@pytest.mark.filterwarnings("ignore")  # Pillow's, about metadata
def test_random_exif_blocks_cost_only_the_orientation(tmp_path):
    sound = exif_block(TURN, (0x128, 3, 1, b"\x02\0\0\0"), (0x10F, 2, 4, b"abc\0"))
    stored = corner(40, 64)
    forms = [stored, *(turned(stored, orientation) for orientation in range(2, 9))]
    for seed in range(150):
        generator = np.random.default_rng(seed)
        exif = bytearray(sound)
        for _ in range(generator.integers(1, 6)):
            exif[generator.integers(6, len(exif))] = generator.integers(256)
        stream = io.BytesIO()
        Image.fromarray(stored).save(stream, "PNG", exif=bytes(exif))
        path = tmp_path / "photo.png"
        path.write_bytes(stream.getvalue())
        seen = read_image(path)
        assert any(form.shape == seen.shape and (form == seen).all() for form in forms), seed


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "RGB"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("saved", [{}, {"compression": "tiff_lzw"}])
def test_tiff_of_any_mode_is_turned_rightly(tmp_path, mode, orientation, saved):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)).convert(mode)
    image.save(tmp_path / "photo.tif", tiffinfo={ORIENTATION: orientation}, **saved)
    stored = np.array(image.convert("RGB"))
    assert (read_image(tmp_path / "photo.tif") == turned(stored, orientation)).all()
    assert (read_image(tmp_path / "photo.tif", decoding=STORED) == stored).all()


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
