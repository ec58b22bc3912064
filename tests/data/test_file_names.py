"""Image files whose names nearly match those of the annotations: offered with a count, and found where asked for."""

import json
import unicodedata
import warnings
from urllib.parse import quote, quote_plus

import pytest
from PIL import Image

from rst.coco.file_names import RULES, match_names
from rst.data import CocoDetection, DataError, DataWarning
from rst.data.check import check_annotations

REAL = ["train/IMG 1.png", "train/café no. 2.png", "train/b-3.jpg", "val/4.PNG"]

# How the names are written in the annotations -> what a message says of the way.
FORMS = {
    "backslashes": (lambda name: name.replace("/", "\\"), "with / for \\"),
    "a / in front": (lambda name: f"/{name}", "without a / in front"),
    "double separators": (lambda name: name.replace("/", "//"), None),  # the operating system takes them as they are
    "./ in front": (lambda name: f"./{name}", None),
    "lower case": (str.lower, "in another case"),
    "upper case": (str.upper, "in another case"),
    "URL-encoding": (quote, "with URL-encoding undone"),
    "URL-encoding, all": (lambda name: quote(name, safe=""), "with URL-encoding undone"),
    "URL-encoding, twice": (lambda name: quote(quote(name)), "with URL-encoding undone"),
    "URL-encoding of forms": (lambda name: quote_plus(name, safe="/"), "with URL-encoding undone"),
    "decomposed Unicode": (lambda name: unicodedata.normalize("NFD", name), "in another Unicode form"),
    "a fixed blank": (lambda name: name.replace(" ", "\u00a0"), "in another Unicode form"),
    "a blank at the end": (lambda name: f"{name} ", "without blanks at the ends"),
    "a line's end": (lambda name: f"{name}\r\n", "without blanks at the ends"),
    "a byte order mark": (lambda name: f"\ufeff{name}", "without blanks at the ends"),
    "blanks everywhere": (lambda name: f" {name} ".replace("/", " / "), "without blanks at the ends"),
    "the base name alone": (lambda name: name.split("/")[-1], "by the base name, in another folder"),
    "another folder": (lambda name: f"C:\\my data\\{name.split('/')[-1]}", "by the base name, in another folder"),
    "a longer path": (lambda name: f"data/images/{name}", "by the base name, in another folder"),
    "the long suffix": (lambda name: name.replace(".jpg", ".jpeg"), "with .jpg for .jpeg"),
    "no suffix": (lambda name: name.rsplit(".", 1)[0], "with a suffix"),
    "the stem alone": (lambda name: name.split("/")[-1].rsplit(".", 1)[0], "with a suffix"),
    "much at once": (lambda name: quote(f" DATA\\{name.upper()} "), "in another case"),
}


def make(folder, names, real=REAL):
    for number, name in enumerate(real):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (10 * number, 0, 0)).save(path)
    images = [{"id": 7 * k + 5, "file_name": name, "height": 20, "width": 30} for k, name in enumerate(names)]
    content = {
        "images": images,
        "annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file, folder / "images"


def changed_names(form):
    names = [form(name) for name in REAL]
    return names, sum(name != real for name, real in zip(names, REAL, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_names_that_nearly_match_are_offered_and_found(tmp_path, form):
    write, phrase = FORMS[form]
    names, changed = changed_names(write)
    file, images = make(tmp_path, names)
    if phrase is None:
        assert len(CocoDetection(file, images)) == len(REAL)
        return
    with pytest.raises(
        DataError, match=rf"{changed} of {changed} would match .*: --data.file_names forgiving"
    ) as raised:
        CocoDetection(file, images)
    assert phrase in str(raised.value)
    report = check_annotations(file, images)
    assert report.counts == {"missing image file": changed}
    (note,) = (note for note in report.notes if "would match" in note)
    assert f"{changed} of {changed} would match" in note
    assert phrase in note

    with pytest.warns(DataWarning, match=rf"{changed} of 4 image files were found") as caught:
        data = CocoDetection(file, images, file_names="forgiving")
    assert len(caught) == 1
    assert [int(10 * k) for k in range(4)] == [int(data[k][0][0, 0, 0]) for k in range(3)] + [30], "each its own"
    report = check_annotations(file, images, file_names="forgiving", decode=True)
    assert report.findings == []
    assert any(f"{changed} of 4 image files were found" in note and phrase in note for note in report.notes)


def test_names_on_disk_may_be_the_odd_ones(tmp_path):
    odd = ["train\\a 1.png", "train%2Fb.png", "TRAIN/c.png ".strip(), unicodedata.normalize("NFD", "train/é.png")]
    names = ["train/a 1.png", "train/b.png", "train/c.png", "train/é.png"]
    file, images = make(tmp_path, names, odd)
    with pytest.warns(DataWarning, match="4 of 4 image files were found"):
        assert len(CocoDetection(file, images, file_names="forgiving")) == 4


def test_exact_names_stay_silent(tmp_path):
    file, images = make(tmp_path, REAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for setting in ("exact", "forgiving"):
            assert len(CocoDetection(file, images, file_names=setting)) == 4
            assert check_annotations(file, images, file_names=setting).notes == []


@pytest.mark.parametrize(
    ("names", "real", "ambiguous"),
    [
        (["a.png"], ["x/a.png", "y/a.png"], r"'a.png' could be 'x/a.png' or 'y/a.png'"),
        (["A.png"], ["a.png", "a.PNG"], r"'A.png' could be 'a.png' or 'a.PNG'|'A.png' could be 'a.PNG' or 'a.png'"),
        (["a"], ["a.png", "masks/a.jpg"], r"'a' could be 'a.png' or 'masks/a.jpg'"),
        (["x/a.png", "y/a.png"], ["a.png"], r"'x/a.png' could be 'a.png', as could another name"),
        (["a.png", "old/a.png"], ["a.png"], r"'old/a.png' could be 'a.png', as could another name"),
    ],
)
def test_ambiguous_matches_are_refused(tmp_path, names, real, ambiguous):
    file, images = make(tmp_path, names, real)
    for setting in ("exact", "forgiving"):
        with pytest.raises(DataError, match=rf"no such image file.*ambiguous, so not matched: ({ambiguous})"):
            CocoDetection(file, images, file_names=setting)
        report = check_annotations(file, images, file_names=setting)
        assert report.counts["missing image file"] >= 1
        assert "ambiguous, so not matched" in " ".join(report.notes)


def test_the_rest_still_stops_a_training_and_is_counted(tmp_path):
    file, images = make(tmp_path, ["TRAIN/IMG 1.PNG", "train/nothing.png", "val/4.PNG"])
    with pytest.raises(DataError, match=r"\(2 of 3 images are missing\); 1 of 2 would match in another case: --data"):
        CocoDetection(file, images)
    with pytest.raises(DataError, match=r"nothing.png: no such image file; it is image 12 of .*json$"):
        CocoDetection(file, images, file_names="forgiving")


def test_nothing_alike_offers_nothing(tmp_path):
    file, images = make(tmp_path, ["c.png", "d.png", "a.jpg"], ["a.png"])
    with pytest.raises(DataError, match=r"\(3 of 3 images are missing\)$"):  # a suffix is not exchanged: masks
        CocoDetection(file, images)


def test_the_nearest_folder_wins():
    known = ["x/train/a.png", "x/val/a.png", "b.png", "B.png"]
    matches = match_names(["C:\\train\\a.png", "val/a", ".\\B.png"], known)
    assert matches.found == {"C:\\train\\a.png": "x/train/a.png", "val/a": "x/val/a.png", ".\\B.png": "B.png"}
    assert matches.ambiguous == {}


def test_names_that_no_file_can_have(tmp_path):
    file, images = make(
        tmp_path, ["a" * 5000, "b\0.png", f"{'c' * 300}/d.png", "\ud800.png", "..", "train", " " * 9_000_000]
    )
    with pytest.raises(DataError, match=r"\(7 of 7 images are missing\)"):
        CocoDetection(file, images)
    with pytest.raises(DataError, match=r"\(7 of 7 images are missing\)"):
        CocoDetection(file, images, file_names="forgiving")
    assert check_annotations(file, images).counts == {"missing image file": 7}


def test_many_names():
    known = [f"train/IMG {number:06d}.jpg" for number in range(10_000)]
    matches = match_names([name.replace("/", "\\").upper() for name in known[::-1]], known)
    assert len(matches.found) == len(known)
    assert dict(matches.rules) == {"with / for \\ and in another case": len(known)}
    assert "in another case" in RULES


def test_the_setting_is_checked(tmp_path):
    file, images = make(tmp_path, REAL)
    with pytest.raises(ValueError, match="file_names must be 'exact' or 'forgiving', got 'any'"):
        CocoDetection(file, images, file_names="any")
