"""Faults of what LVIS adds to COCO: frequencies of categories, and lists of categories that contradict the objects."""

from collections import Counter

from rst.coco.columns import Columns
from rst.coco.faults import Fault, Sink, as_text, entry_name
from rst.coco.lvis import FREQUENCIES, NEGATIVE, NOT_EXHAUSTIVE, category_lists, frequency_column


def check_lvis(columns: Columns, sink: Sink) -> None:
    """Report what LVIS's evaluation refuses, and what contradicts itself; call it for LVIS files only."""
    frequency_column(columns.categories, sink)
    label = {category_id: k for k, category_id in enumerate(columns.category_ids)}
    annotated = Counter(zip(columns.image.tolist(), columns.label.tolist(), strict=True))
    for key in (NEGATIVE, NOT_EXHAUSTIVE):
        for position, listed in enumerate(category_lists(columns.images, key, sink)):
            entry = columns.images[position]
            name = entry_name(entry, position, "image")
            for category_id in listed:
                count = annotated[position, label[category_id]] if category_id in label else 0
                if category_id not in label:
                    text = f"{name}: '{key}' names category {category_id}, which the file does not have"
                elif key == NEGATIVE and count:
                    text = f"{name}: '{key}' names category {category_id} as absent, of which {count} are annotated"
                else:
                    continue
                sink(Fault("contradictory LVIS entry", "image", entry.get("id"), text, category_id))


def frequency_counts(columns: Columns) -> dict[str, int]:
    """How many categories the file calls rare, common and frequent."""
    said = Counter(as_text(entry.get("frequency")) for entry in columns.categories)
    return {key: said[key] for key in FREQUENCIES}
