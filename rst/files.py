"""Files that are whole or not there: written beside their place, then moved into it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteError(OSError):
    """A file or folder that cannot be written; the message names it and says why."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; on success that file takes the place of `path`, else it goes.

    The folder is made. A link stays one; a device, such as /dev/stdout, is written to directly.

    Raises:
        WriteError: where `path` cannot be written.
    """
    place = Path(os.path.realpath(path))
    try:
        # a device may lead to a pipe, whose full name is no file, or to a file that others have open
        if path.exists() and not path.is_dir() and (not path.is_file() or path.absolute().parts[1:2] == ("dev",)):
            yield path
            return
        start = place.stem.encode(errors="ignore")[:200].decode(errors="ignore")  # a name may have 255 bytes
        temporary = place.with_name(f".{start}.tmp{place.suffix}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(place)
        finally:
            with suppress(OSError):  # there is none after a success; after a failure the first error counts
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file; at any moment it holds either what it held before or all of the new content."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def require_writable(folder: Path) -> None:
    """Make a folder's parents and a file in it, and take all of it away again; WriteError where that does not work."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            place.mkdir()
            made.append(place)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written to: {error.strerror or error}") from error
    finally:
        for place in reversed(made):
            with suppress(OSError):  # another process may have put something there meanwhile
                place.rmdir()
