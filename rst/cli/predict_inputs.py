"""The images that `rst predict` is given: each once, with the place of its drawing and its id."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from rst.cli.outputs import SUFFIXES
from rst.coco.columns import image_name
from rst.coco.errors import DataError
from rst.coco.faults import refuse
from rst.coco.fields import integer_column, load_json, report_duplicates, section_entries, string_column
from rst.training.errors import ConfigError


@dataclass(frozen=True)
class InputImage:
    """One image to predict.

    Attributes:
        file: the image file, as the command line spells it.
        folder: the folder that was searched for it; of a file that was named itself, the folder that it is in.
        drawing: its drawing, below the output folder.
        image_id: its place in the order of the images, from 1, or its id in an annotation file.
        size: annotated height and width in pixels; None if they are not known.
    """

    file: Path
    folder: Path
    drawing: PurePosixPath
    image_id: int
    size: tuple[int, int] | None = None


def find_images(inputs: list[Path]) -> list[InputImage]:
    """The images that the inputs mean, folders searched in depth, in a stable order, each file once.

    Files of other suffixes in the folders are counted in a line on the terminal.

    Raises:
        ConfigError: an input that does not exist, a folder without images, no input at all.
    """
    skipped: Counter[str] = Counter()
    found: dict[Path, tuple[Path, Path]] = {}  # file and folder by what the file is called in full
    for path in inputs:
        if path.is_dir():
            there = sorted(file for file in path.rglob("*") if file.is_file())
            files = [file for file in there if file.suffix.lower() in SUFFIXES]
            skipped.update(file.suffix.lower() for file in there if file.suffix.lower() not in SUFFIXES)
            if not files:
                of = f"; it has {describe_suffixes(skipped)}" if skipped else ""
                raise ConfigError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))}){of}")
            folder = path
        elif path.is_file():
            files, folder = [path], path.parent
        else:
            raise ConfigError(f"{path}: no such file or folder")
        for file in files:
            key = file.parent.resolve() / file.name  # two links to one file are two images
            if key not in found or _depth(folder) < _depth(found[key][1]):  # the outermost folder gives the structure
                found[key] = (file, folder)
    if not found:
        raise ConfigError("no images given: name files or folders")
    if skipped:
        print(f"rst: skipped in the folders, by their suffix: {describe_suffixes(skipped)}")
    drawings = _drawings(list(found.values()))
    return [
        InputImage(file, folder, drawing, image_id)
        for image_id, ((file, folder), drawing) in enumerate(zip(found.values(), drawings, strict=True), 1)
    ]


def describe_suffixes(counts: Counter[str]) -> str:
    """As in "12 .txt, 3 .gif, 1 without a suffix"."""
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in counts.most_common())


def _depth(folder: Path) -> int:
    return len(folder.resolve().parts)


def _drawings(images: list[tuple[Path, Path]]) -> list[PurePosixPath]:
    """A name of its own for each drawing: that of the image below its folder, with .png for its suffix.

    Where two images would share one, because they differ in the suffix, the suffix stays (a.jpg.png); because they lie
    in two folders that were searched, the folder's name comes first; else they are numbered.
    """
    below = [PurePosixPath(file.relative_to(folder).as_posix()) for file, folder in images]
    named = [PurePosixPath(folder.resolve().name) / path for (_, folder), path in zip(images, below, strict=True)]
    twice = _repeated(below)
    below = [longer if _key(path) in twice else path for path, longer in zip(below, named, strict=True)]
    drawings = [path.with_suffix(".png") for path in below]
    twice = _repeated(drawings)
    drawings = [
        path.with_name(f"{path.name}.png") if _key(drawing) in twice else drawing
        for path, drawing in zip(below, drawings, strict=True)
    ]
    taken = {_key(parent) for drawing in drawings for parent in drawing.parents}  # no file where a folder has to be
    for i, drawing in enumerate(drawings):
        number, path = 0, drawing
        while _key(path) in taken:
            number += 1
            path = drawing.with_name(f"{drawing.stem}_{number}.png")
        drawings[i] = path
        taken.add(_key(path))
    return drawings


def _repeated(paths: list[PurePosixPath]) -> set[str]:
    return {key for key, count in Counter(map(_key, paths)).items() if count > 1}


def _key(path: PurePath) -> str:
    """The same for two names that some file system takes for one."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


@dataclass(frozen=True)
class Categories:
    """Ids and names of the categories of an annotation file, in the order of the labels: ascending ids."""

    file: Path
    ids: list[int]
    names: list[str]

    def of(self, class_names: list[str], checkpoint: Path) -> list[int]:
        """The id of each label.

        Raises:
            ConfigError: the checkpoint has other classes.
        """
        if class_names != self.names:
            raise ConfigError(
                f"{self.file}: its categories ({', '.join(self.names[:8])}) are not those of {checkpoint} "
                f"({', '.join(class_names[:8])})"
            )
        return self.ids


def with_annotated_ids(images: list[InputImage], file: Path) -> tuple[list[InputImage], Categories]:
    """The images with ids and sizes of an annotation file, found by name, and the file's categories.

    An image is the one whose `file_name` is the end of its path; the longest such name counts.

    Raises:
        DataError: a faulty file; an image that it does not name, or two that it gives the same id.
    """
    content, sink = load_json(file), refuse(file)
    entries, categories = (section_entries(content, key, sink) for key in ("images", "categories"))
    ids, _ = integer_column(entries, "id", "image", sink)
    category_ids, _ = integer_column(categories, "id", "category", sink)
    for values, kind in ((ids, "image"), (category_ids, "category")):
        report_duplicates(values, kind, sink)
    names = string_column(categories, "name", "category", sink)
    named = ((row, image_name(entry)) for row, entry in enumerate(entries))
    rows = {_parts(name): row for row, name in named if isinstance(name, str) and name}

    found, missing, owners = [], [], {}
    for image in images:
        row = next((rows[end] for end in _ends(image.file) if end in rows), None)
        if row is None:
            missing.append(image.file)
            continue
        if row in owners:
            raise DataError(f"{file}: image {ids[row]} is both {owners[row]} and {image.file}, by their names")
        owners[row] = image.file
        sides = [entries[row].get(side) for side in ("height", "width")]
        size = (sides[0], sides[1]) if all(type(side) is int for side in sides) else None
        found.append(replace(image, image_id=int(ids[row]), size=size))
    if missing:
        count = f" ({len(missing)} of {len(images)} images are not)" if len(images) > 1 else ""
        raise DataError(f"{missing[0]}: is no image of {file}, by its name{count}")
    order = sorted(range(len(categories)), key=lambda i: category_ids[i])
    return found, Categories(file, [int(category_ids[i]) for i in order], [names[i] for i in order])


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(name).parts if part != ".")


def _ends(file: Path) -> Iterator[tuple[str, ...]]:
    """Parts of the full path, then fewer and fewer of its last ones."""
    parts = file.absolute().parts
    return (parts[start:] for start in range(len(parts)))
