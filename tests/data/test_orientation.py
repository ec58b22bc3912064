"""The orientation that EXIF notes: one rule for training, prediction and check, in every format, broken or not."""

import io
import json
import struct

import numpy as np
import pytest
from image_files import LOSSLESS, ORIENTATION, STORED, UPRIGHT, annotate, corner, findings, save, trained_on, turned
from PIL import Image

from rst.data import DataError
from rst.data.check import check_annotations
from rst.data.images import Decoding, read_image


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "RGB"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
@pytest.mark.parametrize("saved", [{}, {"compression": "tiff_lzw"}])
def test_tiff_of_any_mode_is_turned_rightly(tmp_path, mode, orientation, saved):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)).convert(mode)
    image.save(tmp_path / "photo.tif", tiffinfo={ORIENTATION: orientation}, **saved)
    stored = np.array(image.convert("RGB"))
    assert (read_image(tmp_path / "photo.tif") == turned(stored, orientation)).all()
    assert (read_image(tmp_path / "photo.tif", decoding=STORED) == stored).all()
