"""Where the images of an annotation file lie: as named, or under a name that differs only in how it is written."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from rst.coco.errors import DataError
from rst.coco.file_names import Matches, match_names

FileNames = Literal["exact", "forgiving"]
MOST_FILES = 1_000_000  # looked at below the folder, where names are not found as they are


@dataclass(frozen=True)
class Located:
    """Image files below a folder.

    Attributes:
        names: as they lie below the folder, as given where there is no such file.
        absent: indices of the names without a file.
        others: files without a name, in the folders that are named.
        matches: what `forgiving` finds for the names that have no file.
    forgiving: whether this was applied.
    """

    names: list[str]
    absent: list[int]
    others: int
    matches: Matches = field(default_factory=Matches)
    forgiving: bool = False

    def offer(self) -> str:
        """What `forgiving` would find, or why it does not; the end of a message on missing images, or empty."""
        text = ""
        if self.matches.found and not self.forgiving:
            found = sum(self.names[i] in self.matches.found for i in self.absent)
            text = f"; {found:,} of {len(self.absent):,} would match {self._ways()}: --data.file_names forgiving"
        if self.matches.ambiguous:
            text += f"; ambiguous, so not matched: {self.matches.describe_ambiguous()}"
        return text

    def applied(self) -> str:
        """What `forgiving` did, as a remark; empty if nothing."""
        found = len(self.matches.found) if self.forgiving else 0
        text = f"{found:,} of {len(self.names):,} image files were found {self._ways()} (file_names: forgiving)"
        return text if found else ""

    def _ways(self) -> str:
        rules = self.matches.rules
        return next(iter(rules)) if len(rules) == 1 else f"({self.matches.describe()})"


def locate_images(names: Sequence[str], folder: Path, file_names: FileNames = "exact") -> Located:
    """Find the image files of `names` below `folder`; no file is opened.

    Args:
        names: relative to the folder, with / between folders.
        folder: is listed in depth only if a name is not found.
        file_names: "exact", or "forgiving": other separators, case, URL-encoding, Unicode form, blanks at the ends,
            another folder and a missing suffix are forgiven where one file alone is meant.
    """
    check_file_names(file_names)
    absent, others = absent_images(names, folder)
    if not absent:
        return Located(list(names), absent, others)
    missing = {names[i] for i in absent}
    matches = match_names(sorted(missing), _files_below(folder), [name for name in names if name not in missing])
    if file_names == "exact":
        return Located(list(names), absent, others, matches)
    located = [matches.found.get(name, name) for name in names]
    return Located(located, *absent_images(located, folder), matches, forgiving=True)


def check_file_names(file_names: FileNames) -> None:
    """Raise ValueError for a setting that there is not."""
    if file_names not in get_args(FileNames):
        raise ValueError(f"file_names must be 'exact' or 'forgiving', got {file_names!r}")


def absent_images(names: Sequence[str], folder: Path) -> tuple[list[int], int]:
    """Indices of the files that are not below `folder`, by one listing of each folder that they name.

    Also how many other files lie in these folders.
    """
    listed: dict[str, set[str]] = {}
    absent, used = [], set()
    for index, name in enumerate(names):
        parent, base = os.path.split(name)
        if parent not in listed:
            listed[parent] = _files_in(folder / parent)
        if base in listed[parent]:
            used.add(name)
        else:
            absent.append(index)
    return absent, sum(map(len, listed.values())) - len(used)


def hint_where(name: str, folder: Path) -> str:
    """The end of a message on a missing image: the neighbouring folder that has it, if one does."""
    nearby = [folder.parent, *sorted(path for path in folder.iterdir() if path.is_dir())]
    for place in nearby:
        with suppress(OSError, ValueError):  # a name that no file can have
            if (place / name).is_file():
                return f"; it is below {place}, name that folder"
    return ""


def _files_in(place: Path) -> set[str]:
    try:
        is_folder = place.is_dir()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a null character
        return set()
    if not is_folder:
        return set()
    try:
        with os.scandir(place) as entries:
            return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except OSError as error:
        raise DataError(f"{place}: cannot be listed: {error.strerror}") from error


def _files_below(folder: Path) -> list[str]:
    """Paths relative to the folder, with / between folders; the first `MOST_FILES` of them."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        relative = os.path.relpath(place, folder).replace(os.sep, "/")
        found += files if relative == "." else [f"{relative}/{name}" for name in files]
        if len(found) > MOST_FILES:
            break
    return found[:MOST_FILES]
