"""The images that `rst predict` is given: each once, with a name for its drawing and an id."""

import json
from pathlib import Path

import pytest

from rst.cli.predict_inputs import find_images, with_annotated_ids
from rst.data import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_drawing_has_the_name_and_the_folder_of_its_image(tmp_path: Path) -> None:
    def drawings(*inputs: str) -> list[str]:
        return [str(image.drawing) for image in find_images([tmp_path / path for path in inputs])]

    for name in (
        "p/a.jpg",
        "p/b.JPG",
        "p/b.png",
        "p/sub/a.jpg",
        "q/a.jpg",
        "q/c.tar.png",
        "q/sub/A.png",
        "q/sub/a.bmp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert drawings("p") == ["a.png", "b.JPG.png", "b.png.png", "sub/a.png"]
    assert drawings("q") == ["a.png", "c.tar.png", "sub/A.png.png", "sub/a.bmp.png"], "one name where case is ignored"
    both = drawings("p", "q")
    assert [both[0], both[4]] == ["p/a.png", "q/a.png"]
    assert len({name.casefold() for name in both}) == len(both) == 8
    assert drawings("p/a.jpg", "q/a.jpg") == ["p/a.png", "q/a.png"]


def test_each_file_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.jpg", "p/sub/b.jpg")
    (tmp_path / "link").symlink_to("p")
    p = tmp_path / "p"
    for inputs in (
        [p, p / "sub"],
        [p / "sub", p],
        [p, p],
        [p, p / "a.jpg", p / "a.jpg"],
        [p / "a.jpg", p],
        [p / "." / "sub" / ".." / "a.jpg", p],
        [tmp_path / "link", p],
    ):
        found = find_images(inputs)
        assert sorted(str(image.drawing) for image in found) == ["a.png", "sub/b.png"], inputs
        assert [image.image_id for image in found] == [1, 2]


def test_images_are_found_in_annotations_by_the_end_of_their_paths(tmp_path: Path) -> None:
    def ids(names: list[str]) -> list[int]:
        entries = [{"id": 10 * (i + 1), "file_name": name, "width": 7} for i, name in enumerate(names)]
        file = tmp_path / "a.json"
        file.write_text(json.dumps({"images": entries, "categories": [{"id": 3, "name": "x"}, {"id": 2, "name": "y"}]}))
        images, categories = with_annotated_ids(find_images([tmp_path / "val"]), file)
        assert (categories.ids, categories.names) == ([2, 3], ["y", "x"])
        return [image.image_id for image in images]

    touch(tmp_path, "val/x/1.png", "val/y/1.png")
    assert ids(["x/1.png", "y/1.png"]) == [10, 20]
    assert ids(["val/y/1.png", "val/x/1.png", "other.png"]) == [20, 10]
    assert ids(["./x/1.png", "1.png"]) == [10, 20]
    with pytest.raises(DataError, match="image 10 is both"):
        ids(["1.png"])
    with pytest.raises(DataError, match=r"y/1\.png: is no image of .*a\.json, by its name \(1 of 2 images are not\)"):
        ids(["x/1.png"])
