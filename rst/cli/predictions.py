"""What `rst predict` writes: a drawing of each image, and files that are complete and valid at any moment.

n  detections of an image    C  classes
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rst.cli.outputs import png_bytes
from rst.cli.predict_inputs import InputImage
from rst.files import write_whole
from rst.training.errors import ConfigError

if TYPE_CHECKING:  # --help should not wait for torch
    from PIL import Image

PREDICTIONS, IMAGES = "predictions.json", "images.json"  # names below the output folder
MARK = ("Software", "rst predict")  # in the header of each drawing
HEADER = 1024  # bytes of a PNG file in which the mark stands
SHARE = 0.05  # of the time may go into writing the files again


class GrowingFile:
    """A JSON file of entries, one a line, that is complete and valid at any moment, also after a kill or a power cut.

    It is written anew, and replaced as a whole, as often as that takes a twentieth of the time at most: for each image
    while they are thousands, less often when they are many more. Bytes added at its end would not be valid JSON for a
    moment, and a file of lines would be another format.
    """

    def __init__(self, file: Path, head: str = "[\n", tail: str = "\n]\n") -> None:
        self.file, self.head, self.tail = file, head, tail
        self.entries: list[str] = []
        self._pending = True
        self._ready = 0.0  # when it may be written again, seconds

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        self.entries += map(json.dumps, entries)
        self._pending = True

    def write(self, *, now: bool = False) -> None:
        """Write the entries, unless that was done a short while ago."""
        start = time.monotonic()
        if self._pending and (now or start >= self._ready):
            write_whole(self.file, (self.head + ",\n".join(self.entries) + self.tail).encode())
            end = time.monotonic()
            self._pending, self._ready = False, end + (end - start) / SHARE


class Output:
    """The output folder, as a context: on leaving it, whatever the reason, all entries are in the files.

    Args:
        folder: is made if need be.
        class_names: (C,) names of the labels.
        category_ids: (C,) ids of the labels.
        coco: write COCO results, with images.json beside; else an entry for each image.
        with_ids: name the ids in such entries too.
    """

    def __init__(
        self, folder: Path, class_names: Sequence[str], category_ids: Sequence[int], *, coco: bool, with_ids: bool
    ) -> None:
        self.folder, self.class_names, self.category_ids = folder, class_names, category_ids
        self.coco, self.with_ids = coco, with_ids
        self.images = self.detections = 0
        self._predictions = GrowingFile(folder / PREDICTIONS)
        self._files = [self._predictions]
        if coco:
            names = zip(category_ids, class_names, strict=True)
            categories = json.dumps([{"id": category_id, "name": name} for category_id, name in names])
            head = f'{{"categories": {categories},\n"images": [\n'
            self._images = GrowingFile(folder / IMAGES, head, "\n]}\n")
            self._files.insert(0, self._images)  # before the results, which name its images

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(now=True)  # a folder that cannot be written to is known at once
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write(now=True)

    def add(self, image: InputImage, drawing: "Image.Image", found: dict[str, Any], height: int, width: int) -> None:
        """Save the drawing of an image and its detections, in pixels of the file: see `to_file_pixels`."""
        place = self.folder / image.drawing
        place.parent.mkdir(parents=True, exist_ok=True)
        source = str(image.file).encode(errors="replace").decode()  # a name need not be valid Unicode
        write_whole(place, png_bytes(drawing, dict([MARK]) | {"Source": source}))
        entry = {"file_name": str(image.file), "width": width, "height": height, "drawing": str(image.drawing)}
        if self.coco:
            from rst.evaluation.results import image_results

            self._images.add([{"id": image.image_id} | entry])
            self._predictions.add(image_results(found, image.image_id, self.category_ids))
        else:
            entry |= {"image_id": image.image_id} if self.with_ids else {}
            predictions = describe(found, self.class_names, self.category_ids if self.with_ids else None)
            self._predictions.add([entry | {"predictions": predictions}])
        self.images += 1
        self.detections += len(found["scores"])
        self._write()

    def _write(self, *, now: bool = False) -> None:
        for file in self._files:
            file.write(now=now)


def describe(
    found: dict[str, Any], class_names: Sequence[str], category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The n predictions of an image, for people: names of classes, rounded numbers."""
    predictions: list[dict[str, Any]] = []
    for (left, top, right, bottom), label, score in zip(
        *(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
    ):
        bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
        predictions.append({"category": class_names[label], "label": label, "score": round(score, 5), "bbox": bbox})
    for prediction, runs in zip(predictions, found.get("segmentations", ()), strict=False):
        prediction["segmentation"] = runs
    if "mask_scores" in found:
        for prediction, score in zip(predictions, found["mask_scores"].tolist(), strict=True):
            prediction["mask_score"] = round(score, 5)
    if category_ids is not None:
        for prediction in predictions:
            prediction["category_id"] = category_ids[prediction["label"]]
    return predictions


def refuse_strangers(images: Sequence[InputImage], folder: Path, coco: bool) -> None:
    """Refuse to replace anything in the output folder but what an earlier `rst predict` left there.

    Raises:
        ConfigError: names the file.
    """
    key, value = MARK
    starts: dict[str, tuple[bytes, ...]] = {PREDICTIONS: (b'[\n{"file_name": ', b'[\n{"image_id": ', b"[\n\n]")}
    if coco:
        starts[IMAGES] = (b'{"categories": [',)
    written = [(folder / name, _header(folder / name).startswith(start)) for name, start in starts.items()]
    mark = f"tEXt{key}\0{value}".encode()
    places = (folder / image.drawing for image in images)
    for place, ours in (*written, *((place, mark in _header(place)) for place in places)):
        if place.exists() and not ours:
            raise ConfigError(
                f"--output {folder}: would replace {place}, which is not of rst predict; name another place"
            )


def _header(file: Path) -> bytes:
    if not file.is_file():
        return b""
    with file.open("rb") as content:
        return content.read(HEADER)
