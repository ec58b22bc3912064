"""Faults of what LVIS adds to COCO: frequencies of categories, and the categories that a picture is silent about."""

from collections import Counter

from rst.coco.columns import Columns
from rst.coco.faults import Fault, Sink, entry_name, short

FREQUENCIES = ("r", "c", "f")
LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def is_federated(columns: Columns) -> bool:
    """Whether a file is to be evaluated as LVIS is: categories have a frequency, pictures a list of absent ones."""
    return any("frequency" in entry for entry in columns.categories) and any(
        LISTS[0] in entry for entry in columns.images
    )


def check_federated(columns: Columns, sink: Sink) -> None:
    """Report what LVIS's evaluation refuses, and what contradicts itself; call it for LVIS files only."""
    for position, entry in enumerate(columns.categories):
        if entry.get("frequency") not in FREQUENCIES:
            name, value = entry_name(entry, position, "category"), entry.get("frequency")
            text = f"{name}: 'frequency' must be one of {', '.join(FREQUENCIES)}, is {short(value)}"
            sink(Fault("malformed LVIS entry", "category", entry.get("id"), text, value))
    known = set(columns.category_ids)
    annotated: Counter[tuple[int, int]] = Counter(zip(columns.picture.tolist(), columns.label.tolist(), strict=True))
    label = {category_id: k for k, category_id in enumerate(columns.category_ids)}
    for position, entry in enumerate(columns.images):
        name = entry_name(entry, position, "image")
        for key in LISTS:
            listed = entry.get(key)
            if not (isinstance(listed, list) and set(map(type, listed)) <= {int}):
                text = f"{name}: '{key}' must be a list of category ids, is {short(listed)}"
                sink(Fault("malformed LVIS entry", "image", entry.get("id"), text, listed))
                continue
            for category_id in listed:
                if category_id not in known:
                    text = f"{name}: '{key}' names category {category_id}, which the file does not have"
                elif key == LISTS[0] and annotated[position, label[category_id]]:
                    count = annotated[position, label[category_id]]
                    text = f"{name}: '{key}' names category {category_id} as absent, of which {count} are annotated"
                else:
                    continue
                sink(Fault("contradictory LVIS entry", "image", entry.get("id"), text, category_id))


def frequency_counts(columns: Columns) -> dict[str, int]:
    """How many categories are rare, common and frequent by what the file says."""
    said = Counter(str(entry.get("frequency")) for entry in columns.categories)
    return {key: said[key] for key in FREQUENCIES}
