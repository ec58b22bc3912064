"""A prepared data set is a folder that is either complete or not there.

DIR/train/*.png  DIR/val/*.png            images
DIR/annotations/{train,val}.json          COCO
DIR/recipe.json                           what it was made from: the same request finds it and does nothing
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rst.coco.errors import DataError

RECIPE = "recipe.json"


def prepare_folder(output: Path, recipe: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Fill `output` by `build`, atomically, unless it already holds the result of the same recipe.

    Args:
        output: the folder to make; its parents are made too.
        recipe: everything the content depends on, JSON values.
        build: fills an empty folder and returns a summary of counts, JSON values.

    Returns:
        the summary.

    Raises:
        DataError: `output` holds something else.
    """
    output = Path(output)
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they will be when read back
    if output.is_dir() and any(output.iterdir()):
        return _existing_summary(output, recipe)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        summary = build(scratch)
        write_json(scratch / RECIPE, {"recipe": recipe, "summary": summary}, indent=2)
        scratch.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        if output.is_dir():
            output.rmdir()  # empty, as checked above
        scratch.rename(output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return summary


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def _existing_summary(output: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    try:
        stored = json.loads((output / RECIPE).read_text(encoding="utf-8"))
        known, summary = stored["recipe"], stored["summary"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{output} is not empty and was not made by this command; choose another folder") from None
    if known != recipe:
        differing = {key for key in recipe.keys() | known.keys() if recipe.get(key) != known.get(key)}
        changes = ", ".join(f"{key} {known.get(key)} -> {recipe.get(key)}" for key in sorted(differing))
        raise DataError(f"{output} was prepared with other settings ({changes}); remove it or choose another folder")
    return summary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
