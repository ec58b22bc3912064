"""Detections that name their image by its file instead of by its id.

Many tools write the stem of the file as `image_id`, some of them as a number where it consists of digits.
"""

from collections.abc import Sequence
from typing import Any

from rst.coco.errors import DataError
from rst.coco.faults import short
from rst.coco.file_names import match_names, stem_of
from rst.evaluation.truth import GroundTruth


def ids_of_names(values: Sequence[Any], truth: GroundTruth, source: str) -> tuple[Sequence[Any], str]:
    """Image ids in place of file names, and a remark on what was done; the values as they are if none is a name.

    Args:
        values: the `image_id` of each result.
        truth: its images have ids and file names.
        source: of the results, for messages.

    Numbers are names only beside names that are text, or where some of them is no id and all of them are stems.

    Raises:
        DataError: a text that is no file name, stem or path of an image, or of more than one.
    """
    kinds = set(map(type, values))
    if str in kinds:
        distinct = list(dict.fromkeys(value for value in values if isinstance(value, str)))
        known, how = _by_name(distinct, values, truth, source)
        known |= {k: v for k, v in _by_number(truth).items() if int in kinds}
        return [known.get(value, value) if type(value) in (str, int) else value for value in values], (
            f"image_id is a file name in {source}, matched to the file names of {truth.file}{how}"
        )
    if kinds != {int}:
        return values, ""
    distinct = set(values)
    if distinct <= set(truth.image_ids.tolist()) or not distinct <= (numbers := _by_number(truth)).keys():
        return values, ""
    return [numbers[value] for value in values], (
        f"image_id is a number that the file is named by in {source}, matched to the file names of {truth.file}"
    )


def _by_name(
    distinct: Sequence[str], values: Sequence[Any], truth: GroundTruth, source: str
) -> tuple[dict[Any, int], str]:
    """Text -> image id, and how the texts differ from the names."""
    ids: dict[str, list[int]] = {}
    for name, image_id in zip(truth.file_names, truth.image_ids.tolist(), strict=True):
        ids.setdefault(name, []).append(image_id)
    ids.pop("", None)  # images without a name
    exact = [name for name in distinct if name in ids]
    matches = match_names([name for name in distinct if name not in ids], list(ids), exact)
    found = {name: name for name in exact} | matches.found
    for name in distinct:
        place = f"{source}[{values.index(name)}]"
        if name in matches.ambiguous:
            could = matches.describe_ambiguous([name])
            raise DataError(f"{place}: image_id is no integer, and as the name of a file it is ambiguous: {could}")
        if name not in found:
            raise DataError(
                f"{place}: image_id must be an integer, is {short(name)}; no image file of {truth.file} has that name"
            )
        if len(ids[found[name]]) > 1:
            raise DataError(f"{place}: image_id {short(name)} is the file of images {ids[found[name]][:5]}: ambiguous")
    how = f" ({matches.describe()})" if matches.found else ""
    return {name: ids[match][0] for name, match in found.items()}, how


def _by_number(truth: GroundTruth) -> dict[Any, int]:
    """Number -> id of the one image whose file's stem it is."""
    numbers: dict[int, list[int]] = {}
    for name, image_id in zip(truth.file_names, truth.image_ids.tolist(), strict=True):
        stem = stem_of(name)
        if stem.isascii() and stem.isdecimal():
            numbers.setdefault(int(stem), []).append(image_id)
    return {number: ids[0] for number, ids in numbers.items() if len(ids) == 1}
