"""`check_annotations`: every planted fault is found, and nothing else; what the reader refuses is an error."""

import json
import re
from pathlib import Path

import pytest
from coco_files import FAULTS, Files
from corrupted_sets import MORE, TWENTY, CorruptedSet

from rst.data import DataError, DataWarning
from rst.data.check import KINDS, Report, check_annotations
from rst.data.dataset import CocoDetection
from rst.data.samples import shapes

SIDE = 96


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "shapes"
    shapes.prepare(folder, train=50, val=8, side=SIDE, seed=4)
    shapes.prepare(folder.with_name("lvis"), train=20, val=4, side=64, seed=4, variant="lvis", classes=50)
    return folder


def check(corrupted: CorruptedSet, **options) -> Report:
    corrupted.write()
    return check_annotations(corrupted.annotations, corrupted.images, **{"masks": True, "decode": True} | options)


def found(report: Report) -> list[tuple]:
    """All findings but the count of crowds: the sets have some."""
    return sorted((f.kind, f.subject, f.id) for f in report.findings if f.kind != "crowds")


@pytest.mark.parametrize("options", [{}, {"masks": True, "decode": True}, {"headers": False}])
def test_the_clean_sets_have_no_faults(clean, options):
    lvis = clean.with_name("lvis")
    for annotations, images in (
        (clean / "annotations/train.json", clean / "train"),
        (clean / "annotations/val.json", clean / "val"),
        (lvis / "annotations/train.json", lvis),
        (lvis / "annotations/val.json", lvis),
    ):
        report = check_annotations(annotations, images, **options)
        assert found(report) == report.of_level("error") == []


def test_twenty_planted_faults_are_found_and_nothing_else(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    planted = [plant(corrupted) for plant in TWENTY]
    assert len(planted) == len({kind for kind, *_ in planted}) == 20, "no two alike"
    report = check(corrupted)
    assert found(report) == sorted(planted)
    for finding in report.findings:
        assert str(finding.id) in finding.message or finding.kind == "crowds"
        expected = corrupted.images if finding.subject == "image" else corrupted.annotations
        assert finding.file.startswith(str(expected))
    warnings = {finding.kind for finding in report.of_level("warning")}
    assert warnings == {
        "crowds",
        "box beyond the border",
        "mask and box disagree",
        "mask without pixels",
        "malformed mask of a crowd",
        "area larger than the box",
        "object annotated twice",
    }


def test_thirty_at_once(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    planted = [plant(corrupted) for plant in TWENTY + MORE]
    assert found(check(corrupted)) == sorted(planted)


@pytest.mark.parametrize("plant", TWENTY + MORE)
def test_each_fault_alone_and_an_error_is_what_stops_the_reader(clean, tmp_path, plant):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    planted = plant(corrupted)
    report = check(corrupted)
    assert found(report) == [planted]
    kind = planted[0]
    if kind == "malformed area":  # read by the evaluation only
        assert report.of_level("error")
        return

    def read_all() -> None:
        data = CocoDetection(corrupted.annotations, corrupted.images, masks=True)
        for index in range(len(data)):
            data[index]

    if report.of_level("error"):
        with pytest.raises(DataError):
            read_all()
    else:
        read_all()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_reader_refuses_is_an_error_in_the_readers_words(tmp_path, fault):
    files = Files(tmp_path)
    corrupt, message = FAULTS[fault]
    corrupt(files.content)
    with pytest.raises(DataError):
        files.read()
    errors = check_annotations(files.annotations, files.images).of_level("error")
    if fault == "missing image file":  # names the image first
        message = r"image 5: no such image file: .*sub/d.png"
    assert any(re.search(message, finding.message) for finding in errors)


def test_categories_must_be_those_of_the_other_file(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    other = clean / "annotations/val.json"
    assert found(check(corrupted, classes_of=other)) == []
    corrupted.content["categories"][2]["name"] = "pyramid"
    corrupted.content["categories"].append({"id": 99, "name": "unicorn"})
    report = check(corrupted, classes_of=other)
    assert found(report) == [("other classes", "category", 4), ("other classes", "category", 99)]
    first, second = (finding.message for finding in report.findings if finding.kind == "other classes")
    assert first == f"category 4 is 'pyramid' in this file but is 'ring' in {other}"
    assert second == f"category 99 is 'unicorn' in this file but is not in {other}"
    assert len(report.of_level("error")) == 2
    with pytest.raises(DataError, match=r"nowhere.json: no such file"):
        check(corrupted, classes_of=tmp_path / "nowhere.json")


def test_settings_decide_what_is_an_error(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    for plant in TWENTY + MORE:
        plant(corrupted)

    def errors(**options) -> set[str]:
        return {finding.kind for finding in check(corrupted, **options).of_level("error")}

    everything = errors()
    assert everything - errors(masks=False) == {"missing mask", "malformed mask", "mask without area"}
    boxes = {"box without area", "box outside the image", "mask without area"}
    assert everything - errors(leave_out=True) == boxes
    assert errors(masks=False, leave_out=True) >= {"malformed box", "malformed area"}
    by_header = found(check(corrupted, decode=False))
    assert len(found(check(corrupted))) - len(by_header) == 1, "the truncated file"
    assert {kind for kind, *_ in by_header} == {kind for kind, *_ in found(check(corrupted))}
    unseen = found(check(corrupted, decode=False, headers=False))
    assert not {kind for kind, *_ in unseen} & {"unreadable image file", "image file of another size"}


def test_leaving_out_is_what_the_reader_does_then(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    faulty = [plant for plant in TWENTY if plant.__name__ == "<lambda>"]
    planted = [plant(corrupted) for plant in faulty]
    kept = [entry for entry in planted if KINDS[entry[0]] in ("boxes", "shapes", "never")]
    assert {kind for kind, *_ in kept} >= {"box without area", "box outside the image", "mask without area"}
    ids = {entry_id for kind, _, entry_id in planted if (kind, _, entry_id) not in kept}
    corrupted.content["annotations"] = [a for a in corrupted.content["annotations"] if a["id"] not in ids]
    report = check(corrupted, leave_out=True)
    assert report.of_level("error") == []
    with pytest.warns(DataWarning, match=r"3 boxes left out"):
        CocoDetection(corrupted.annotations, corrupted.images, masks=True, faulty_boxes="leave_out")


def test_a_report_as_json(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    planted = [plant(corrupted) for plant in TWENTY]
    report = json.loads(json.dumps(check(corrupted).as_dict()))
    assert (report["errors"], report["warnings"]) == (14, 7)
    assert sum(report["counts"].values()) == len(report["findings"]) == len(planted) + 1, "the count of crowds"
    assert set(report["findings"][0]) == {"level", "kind", "file", "subject", "id", "message", "value"}
    assert report["settings"] == {"masks": True, "faulty_boxes": "refuse"}
    values = {finding["kind"]: finding["value"] for finding in report["findings"]}
    assert values["malformed box"] == [1, 2, 3]
    assert values["unknown image"] == 9999
    assert values["malformed area"] == -1


def test_what_makes_a_file_unreadable_is_one_error_and_the_check_goes_as_far_as_it_can(tmp_path):
    files = Files(tmp_path)
    files.read()
    for content, message in (
        (b'{"images": [', r"malformed JSON at line 1, column 13"),
        (b"[]", r"must hold an object"),
        (b"\x89PNG\xff", r"is not text"),
        (b'{"images": [], "annotations": [], "categories": []}', r"'images' is empty"),
    ):
        files.annotations.write_bytes(content)
        report = check_annotations(files.annotations, files.images)
        assert report.of_level("error")
        assert {finding.kind for finding in report.findings} == {"malformed file"}
        assert message.replace("\\", "") in report.findings[0].message
        assert report.statistics == {}


def test_a_folder_or_file_that_is_not_there_is_a_mistake_of_the_caller(tmp_path):
    files = Files(tmp_path)
    files.read()
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        check_annotations(files.annotations, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        check_annotations(tmp_path / "absent.json", files.images)
    with pytest.raises(DataError, match=r"is a folder, not a file"):
        check_annotations(files.images, files.images)


def test_a_file_without_annotations_or_with_crowds_only(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    corrupted.content["annotations"] = []
    assert found(check(corrupted)) == [("no objects", "file", None)]
    crowds = CorruptedSet(clean, "val", tmp_path / "crowds")
    for entry in crowds.content["annotations"]:
        entry["iscrowd"] = 1
    report = check(crowds)
    assert [(finding.kind, finding.level) for finding in report.findings] == [("no objects", "error")]
    total = len(crowds.content["annotations"])
    assert f"of {total}, {total} are crowds" in report.findings[0].message
    assert check(crowds).statistics["objects"]["crowds_and_ignored"] == len(crowds.content["annotations"])


def test_hints_for_boxes_in_shares_and_in_corners(clean, tmp_path):
    shares = CorruptedSet(clean, "train", tmp_path)
    corners = CorruptedSet(clean, "train", tmp_path / "corners")
    for entry in shares.content["annotations"]:
        entry["bbox"] = [value / 2 / SIDE for value in entry["bbox"]]
    for entry in corners.content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    assert "'bbox' is in pixels, not in shares" in " ".join(check(shares).notes)
    assert "are the boxes [x0, y0, x1, y1]?" in " ".join(check(corners).notes)


def test_notes_on_gaps_unused_files_and_classes_without_objects(clean, tmp_path):
    corrupted = CorruptedSet(clean, "train", tmp_path)
    (corrupted.images / "stray.png").touch()
    corrupted.content["categories"].append({"id": 18, "name": "unicorn"})
    report = check(corrupted)
    assert found(report) == []
    assert report.notes[0] == "1 file has no entry in the annotations, in the folders of the images"
    assert report.notes[1].startswith("category ids have gaps (3, 5-6, 8-10, 12-15, 17)")
    assert report.notes[2].endswith("of 7 classes have no object to learn from: unicorn")


@pytest.mark.parametrize(
    ("corrupt", "kind", "message"),
    [
        (lambda c: c["categories"][3].update(frequency="x"), "malformed LVIS entry", r"category 4: 'frequency' must"),
        (lambda c: c["images"][2].pop("neg_category_ids"), "malformed LVIS entry", r"image 3: 'neg_category_ids' must"),
        (
            lambda c: c["images"][2].update(not_exhaustive_category_ids=[777]),
            "contradictory LVIS entry",
            r"image 3: 'not_exhaustive_category_ids' names category 777, which the file does not have",
        ),
        (
            lambda c: next(
                i for i in c["images"] if i["id"] == c["annotations"][0]["image_id"]
            )["neg_category_ids"].append(c["annotations"][0]["category_id"]),
            "contradictory LVIS entry",
            r"image 1: 'neg_category_ids' names category \d+ as absent, of which \d+ are annotated",
        ),
    ],
)  # fmt: skip
def test_faults_of_lviss_own_entries(clean, tmp_path, corrupt, kind, message):
    lvis = clean.with_name("lvis")
    content = json.loads((lvis / "annotations/train.json").read_text())
    corrupt(content)
    (tmp_path / "corrupted.json").write_text(json.dumps(content))
    report = check_annotations(tmp_path / "corrupted.json", lvis)
    assert [finding.kind for finding in report.findings] == [kind]
    assert re.match(message, report.findings[0].message)
