"""What LVIS adds to COCO: a frequency for each category, and two lists of categories for each image.

N  images    C  categories
"""

from typing import Any

from rst.coco.faults import Fault, Sink, as_text, entry_name, short

# In up to 10 training images, in up to 100, in more
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
NEGATIVE = "neg_category_ids"  # verified: no object of these categories is in the image
NOT_EXHAUSTIVE = "not_exhaustive_category_ids"  # of these, some objects may not be annotated


def is_lvis(images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> bool:
    """Whether a file is in LVIS's form: some category has a frequency, and some image a list of absent categories.

    One of each is enough. A file with only some of these keys is a faulty LVIS file: `frequency_column` and
    `category_lists` report what is missing. Taken for a COCO file, it would be scored by the wrong rules.
    """
    return any("frequency" in entry for entry in categories) and any(NEGATIVE in entry for entry in images)


def frequency_column(categories: list[dict[str, Any]], sink: Sink) -> list[str]:
    """(C,) "r", "c" or "f"; whatever the file has where that is faulty."""
    values = [entry.get("frequency") for entry in categories]
    for position, (entry, value) in enumerate(zip(categories, values, strict=True)):
        if not (isinstance(value, str) and value in FREQUENCIES):
            name, allowed = entry_name(entry, position, "category"), ", ".join(FREQUENCIES)
            text = f"{name}: 'frequency' must be one of {allowed} in an LVIS file, is {short(value)}"
            sink(Fault("malformed LVIS entry", "category", entry.get("id"), text, value))
    return [as_text(value) for value in values]


def category_lists(images: list[dict[str, Any]], key: str, sink: Sink) -> list[list[int]]:
    """(N,) lists of category ids under `key`, NEGATIVE or NOT_EXHAUSTIVE; an empty list where that is faulty."""
    lists = []
    for position, entry in enumerate(images):
        listed = entry.get(key)
        if not (isinstance(listed, list) and set(map(type, listed)) <= {int}):
            name, said = entry_name(entry, position, "image"), f"is {short(listed)}" if key in entry else "is missing"
            text = f"{name}: '{key}' must be a list of category ids in an LVIS file, {said}"
            sink(Fault("malformed LVIS entry", "image", entry.get("id"), text, listed))
            listed = []
        lists.append(listed)
    return lists
