"""Reading COCO files: every fault one by one, by name, id and value."""

from pathlib import Path

import numpy as np
import pytest
from coco_files import FAULTS, Files
from PIL import Image

from rst.data import CocoDetection, DataError, DataWarning


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_at_load_name_file_id_and_value(files, fault):
    corrupt, message = FAULTS[fault]
    corrupt(files.content)
    with pytest.raises(DataError, match=message) as raised:
        files.read()
    assert str(files.annotations) in str(raised.value)


def test_malformed_json_is_located(files):
    files.annotations.write_text('{"images": [],\n "annotations": [1, 2,, 3]}')
    with pytest.raises(DataError, match=r"instances.json: malformed JSON at line 2, column 23"):
        CocoDetection(files.annotations, files.images)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"1" * 6000, b'{"images": [-' + b"1" * 6000])
def test_json_that_no_parser_takes_is_malformed(files, content):
    files.annotations.write_bytes(content)
    with pytest.raises(DataError, match=r"instances.json: malformed JSON"):
        CocoDetection(files.annotations, files.images)


@pytest.mark.parametrize("far", [1e9, -1e9, 1e300, 2**70, 10**400])
def test_polygons_that_reach_far_beyond_any_image_are_refused(files, far):
    files.content["annotations"][1]["segmentation"] = [[5, 6, far, 6, 15, far]]
    assert len(files.read()) == 3
    with pytest.raises(DataError, match=r"annotation 2: a polygon of 'segmentation' (reaches more than|is not finite)"):
        files.read(masks=True)


@pytest.mark.parametrize("content", [b"[1, 2]", b"3", b"null"])
def test_a_file_that_is_not_coco_is_refused(files, content):
    files.annotations.write_bytes(content)
    with pytest.raises(DataError, match=r"instances.json: must hold an object with images, annotations and categories"):
        CocoDetection(files.annotations, files.images)


def test_a_file_that_cannot_be_read_is_named(files, tmp_path):
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        CocoDetection(tmp_path / "absent.json", files.images)
    with pytest.raises(DataError, match=r"images: cannot be read: Is a directory"):
        CocoDetection(files.images, files.images)
    files.annotations.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match=r"instances.json: is not text"):
        CocoDetection(files.annotations, files.images)


def test_a_missing_folder_and_many_missing_files_are_named(files, tmp_path):
    files.read()
    with pytest.raises(DataError, match=r"nowhere: no such folder \(should hold the images of .*instances.json\)"):
        CocoDetection(files.annotations, tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"sub/a.png: no such image file; it is image 7 of .*\(3 of 3 images are missing\)"
    ):
        CocoDetection(files.annotations, files.images / "sub")


def test_missing_files_that_lie_nearby_are_pointed_at(files):
    for image in files.content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name').split('/')[-1]}"
    (files.images / "sub" / "c.png").rename(files.images / "c.png")
    with pytest.raises(DataError, match=rf"; it is below {files.images.parent}, name that folder$"):
        files.read()
    assert len(CocoDetection(files.annotations, files.images.parent)) == 3
    files.content |= {"images": [{"id": 7, "file_name": "c.png", "height": 20, "width": 20}], "annotations": []}
    (files.images / "c.png").rename(files.images / "sub" / "c.png")
    with pytest.raises(DataError, match=rf"c.png: no such image file.*; it is below {files.images / 'sub'}, name that"):
        files.read()


def test_an_image_without_any_name(files):
    del files.content["images"][1]["file_name"]
    files.content["images"][1]["coco_url"] = "http://images.cocodataset.org/"
    with pytest.raises(DataError, match=r"image 3 has no key 'file_name', and no 'coco_url' to stand for it"):
        files.read()


def test_an_image_of_another_size_than_annotated(files):
    files.content["images"][0]["height"] = 41
    data = files.read()
    with pytest.raises(DataError, match=r"a.png: the image has 60x40 pixels \(width x height\), .*json says 60x41"):
        data[0]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "corrupt",
    [lambda data: b"", lambda data: b"no image", lambda data: data[:60], lambda data: data[: len(data) // 2]],
    ids=["empty", "text", "header only", "truncated"],
)
def test_an_unreadable_file(files, suffix, corrupt):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    path = files.images / f"noise.{suffix}"
    Image.fromarray(noise).save(path)
    files.content["images"][0]["file_name"] = path.name
    data = files.read()
    assert tuple(data[0][0].shape) == (3, 40, 60)
    path.write_bytes(corrupt(path.read_bytes()))
    with pytest.raises(DataError, match=rf"noise.{suffix}: cannot be read as an image"):
        data[0]


def test_an_image_that_vanished(files):
    data = files.read()
    (files.images / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.png: the image has vanished since .*instances.json was read"):
        data[0]


def test_boxes_without_area_or_outside_are_left_out_and_reported_once(files):
    box = {"image_id": 7, "category_id": 4}
    files.content["annotations"] += [
        {"id": 10, "bbox": [5, 5, 0, 9], **box},
        {"id": 11, "bbox": [5, 5, 9, -2], **box},
        {"id": 12, "bbox": [70, 5, 9, 9], **box},
        {"id": 13, "bbox": [-20, 5, 9, 9], **box},
        {"id": 14, "bbox": [-5, -5, 9, 9], **box},
        {"id": 15, "bbox": [5, 5, 0.5, 9], **box},
        {"id": 16, "bbox": [5, 5, 0, 0], **box, "iscrowd": 1},
    ]
    with pytest.warns(DataWarning) as caught:
        data = files.read(faulty_boxes="leave_out")
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.endswith(
        "instances.json: 5 boxes left out: 3 less than one pixel wide or high (annotation 10, 11, 15); "
        "2 less than one pixel inside the image (annotation 12, 13)"
    )
    assert data.left_out == {
        "less than one pixel wide or high": [10, 11, 15],
        "less than one pixel inside the image": [12, 13],
    }
    boxes = data[0][1]["boxes"]
    assert boxes.tolist()[-1] == [0, 0, 4, 4]
    assert len(boxes) == 3


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([5, 5, 0, 9], "less than one pixel wide or high"),
        ([5, 5, 9, -2], "less than one pixel wide or high"),
        ([70, 5, 9, 9], "less than one pixel inside the image"),
        ([5, 400, 9, 9], "less than one pixel inside the image"),
    ],
)
def test_boxes_without_area_or_outside_are_refused_by_default(files, box, reason):
    files.content["annotations"][0]["bbox"] = box
    number = files.content["annotations"][0]["id"]
    message = rf"instances.json: 1 boxes cannot be trained on: 1 {reason} \(annotation {number}\).*leave_out"
    with pytest.raises(DataError, match=message):
        files.read()


def test_unknown_way_with_faulty_boxes(files):
    with pytest.raises(ValueError, match="faulty_boxes must be 'refuse' or 'leave_out', got 'ignore'"):
        files.read(faulty_boxes="ignore")


def test_an_image_whose_boxes_were_all_left_out_is_empty(files):
    files.content["annotations"][0]["bbox"] = [5, 5, 0, 0]
    with pytest.warns(DataWarning):
        assert files.read(keep_empty=False, faulty_boxes="leave_out").image_ids == [7]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("0 0 9 9", r"must be polygons or run lengths, is '0 0 9 9'"),
        ([[1, 2, 3]], r"must be a flat list \[x0, y0, x1, y1, ...\], has 3 numbers"),
        ([5, 6, 7, 8, 9, 9], r"'segmentation' must be a list of polygons .*, is one polygon alone: \[5, 6"),
        ([[[1, 2], [9, 2], [9, 8]]], r"flat list \[x0, y0, x1, y1, ...\], is a list of points: \[\[1, 2\]"),
        ([[1, 2], [9, 2], [9, 8]], r"flat list .*, is a list of points: \[\[1, 2\]"),
        ([[{"x": 1, "y": 2}, {"x": 9, "y": 2}]], r"flat list .*, is a list of points: \[\{'x'"),
        ([["1", "2", "3", "4", "5", "6"]], r"flat list .*, is \['1'"),
        ([[1, 2, 3, float("inf"), 5, 6]], r"is not finite"),
        ({"size": [40, 61], "counts": [2440]}, r"run lengths have size \[40, 61\], the image \[40, 60\]"),
        ({"size": [40, 60], "counts": [2399]}, r"run lengths do not add up to 40x60 pixels"),
        ({"size": [40, 60], "counts": [2500, -100]}, r"run lengths do not add up"),
        ({"size": [40, 60], "counts": "not a mask"}, r"run lengths do not add up"),
        ({"size": [40, 60], "counts": None}, r"run lengths do not add up"),
        ({"size": 3, "counts": "0"}, r"run lengths have size 3"),
    ],
)
def test_faulty_segmentations_matter_only_where_masks_are_wanted(files, segmentation, message):
    files.content["annotations"][1]["segmentation"] = segmentation
    assert len(files.read()) == 3
    with pytest.raises(DataError, match=rf"instances.json: annotation 2: .*{message}"):
        files.read(masks=True)


@pytest.mark.parametrize("nothing", [None, []])
def test_a_set_without_masks_says_how_many_it_lacks(files, nothing):
    for annotation in files.content["annotations"]:
        annotation["segmentation"] = nothing
    message = r"annotation \d has an empty 'segmentation', which masks need; 3 of 3 annotations have no mask"
    with pytest.raises(DataError, match=message):
        files.read(masks=True)


def test_masks_need_a_segmentation_with_a_usable_polygon(files):
    files.content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]  # pycocotools would take this for a box
    with pytest.warns(DataWarning, match=r"1 no polygon of three points \(annotation 2\)"):
        data = files.read(masks=True, faulty_boxes="leave_out")
    assert data[0][1]["labels"].tolist() == [1]
    assert tuple(data[0][1]["masks"].shape) == (1, 40, 60)
    del files.content["annotations"][1]["segmentation"]
    with pytest.raises(DataError, match=r"annotation 2 has no key 'segmentation', which masks need"):
        files.read(masks=True)
