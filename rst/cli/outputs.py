"""What a command writes: never over what it reads, never among the images that it reads, never half a file."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from rst.training.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}  # of images


def refuse_inputs(
    option: str,
    output: Path,
    *,
    files: Mapping[str, Path | str | None],
    input_images: Iterable[Path] = (),
    writes: Iterable[Path] = (),
    searched: Iterable[Path] = (),
    images: Iterable[Path | str | None] = (),
) -> None:
    """Refuse an output that would replace an input, or lie among inputs. Call it before anything is written.

    Files are compared as the file system does: links, other spellings and, where it ignores case, other case too.

    Args:
        option: the option that names the output, for the message.
        output: the file or folder that it names; neither need exist.
        files: input files by what the message calls them; None for one that was not given.
        input_images: images that were named, or found.
        writes: for a folder, the files that are written into it.
        searched: folders that are searched for images in depth: nothing may be written anywhere below them.
        images: folders in which annotated images are looked up by name: nothing may be written into a folder of
            images, but into the folder of a data set that holds one.

    Raises:
        ConfigError: names the output and the input.
    """
    written = [output, *writes]
    if len(written) > 1 and output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; {option} must name a folder")
    # files are written into the folder, or the output is one itself
    folders = dict.fromkeys(_full(file).parent for file in written[1:] or [output])
    for folder in map(Path, searched):
        if any(_distance(place, folder) is not None for place in folders):
            raise ConfigError(
                f"{option} {output}: lies in {folder}, which is searched for images; name a place outside of it"
            )
    inputs = [*files.items(), *(("the image", file) for file in input_images)]
    known: dict[tuple[int, int] | str, str] = {}
    for name, file in inputs:
        if file is not None:
            known.setdefault(_identity(Path(file)), f"{name} {file}")
    for file in written:
        if (name := known.get(_identity(file))) is not None:
            which = f"its {_below(file, output)} would replace" if file != output else "would replace"
            raise ConfigError(f"{option} {output}: {'is' if file.is_dir() else which} {name}; name another place")
    for folder in (Path(folder) for folder in images if folder is not None):
        for place in folders:
            steps = _distance(place, folder)
            if steps is not None and any(map(_holds_images, [place, *place.parents][: steps + 1])):
                raise ConfigError(f"{option} {output}: lies among the images of {folder}; name a place outside of it")


def checkpoint_files(checkpoint: Path) -> dict[str, Path]:
    """A checkpoint, or run, as `refuse_inputs` takes it: with the folders of the run that it lies in."""
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such checkpoint")
    files = {"--checkpoint": checkpoint}
    run = checkpoint if checkpoint.is_dir() else _full(checkpoint).parent.parent
    if (run / "config.yaml").is_file():
        files |= {"the run": run, "the checkpoints": run / "checkpoints"}
    return files


def png_bytes(image: "Image.Image", texts: Mapping[str, str] | None = None) -> bytes:
    """The image as a PNG file, with entries of text in its header."""
    from PIL.PngImagePlugin import PngInfo

    header, buffer = PngInfo(), BytesIO()
    for key, text in (texts or {}).items():
        header.add_text(key, text)
    image.save(buffer, "PNG", pnginfo=header)
    return buffer.getvalue()


def _identity(file: Path) -> tuple[int, int] | str:
    """What two names of the same file have in common; of a file that does not exist yet its full path."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return str(_full(file))
    return status.st_dev, status.st_ino


def _full(file: Path) -> Path:
    return Path(os.path.realpath(file))  # as Path.resolve, but links in a circle are no error


def _below(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _distance(place: Path, folder: Path) -> int | None:
    """Steps down from `folder` to `place`, a resolved path whose end need not exist; None if it is not below."""
    wanted = _identity(folder)
    return next((steps for steps, path in enumerate([place, *place.parents]) if _identity(path) == wanted), None)


def _holds_images(folder: Path) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file() for entry in entries)
    return False
