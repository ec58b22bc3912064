"""Which objects the anchors of a detector reach, class by class.

    C  classes

A head that matches by IoU is judged by geometry; for any other the detector counts the objects without positives.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from rst.data.check.positives import count_positives, picked_by_predictions
from rst.data.check.remedies import FEW, GOOD, LEAST, Remedy, judge, remedy_by_iou, remedy_by_positives
from rst.data.check.seen import Objects, Seen, resizing, seen_objects

QUICK_SAMPLE = 50  # images on which positives are counted before a training
ENOUGH = 10  # objects of a class in a sample of the images, from which its share is believed


def measure_reach(
    model: Any,
    transforms: Callable[..., Any],
    objects: Objects,
    positives: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """What the anchors of each head reach, at the size of the training.

    Args:
        model: a detector; one without `anchor_heads` and `positives` has nothing to measure.
        transforms: those of the training.
        objects: the data set.
        positives: what `count_positives` found in it; None counts, unless that takes the network.

    Returns:
        JSON values; None where there is nothing to measure. "short_sides" of the images, pixels (None: images are also
        cropped or expanded), "objects" of the set, "looked_at" of them, and "heads", of each:
            title           as in drawings
            by              "iou": by the IoU with the best anchor; "positives": counted by the detector
            scale           of its anchors, None if there are none
            scale_key       of the configuration, which sets it; empty if unknown
            iou_0.5, iou_0.3    with "iou": shares of the objects with an anchor of at least that IoU
            images          with "positives": on which they were counted
            none            share of the objects without an anchor of IoU 0.3, or without positives
            classes         the same of each class with objects, with "label", "name" and "missed", whether more than
                            a quarter of its objects has none; the largest such share first
            remedy          see `rst.data.check.remedies.Remedy`; None: no class is missed, or no single setting helps
    """
    heads = model.anchor_heads() if hasattr(model, "anchor_heads") else {}
    if not heads and not hasattr(model, "positives"):
        return None
    seen = seen_objects(objects, transforms)
    if not len(seen.labels):
        return None

    def count(others: Any) -> dict[str, Any]:
        return count_positives(model, others, objects, lambda done: None, QUICK_SAMPLE)

    def count_larger(head: str) -> Callable[[Any], list[dict[str, Any]]]:
        return lambda larger: count(larger)["heads"][head]["classes"]

    blind = hasattr(model, "positives") and not picked_by_predictions(model)
    if positives is None and blind and not (heads and all(head.assigner.by_iou for head in heads.values())):
        positives = count(transforms)
    titles, found = getattr(model, "heads", {}), {}
    for name, head in heads.items():
        if head.assigner.by_iou:
            found[name] = {"title": titles.get(name, name), **_by_iou(head, seen, objects, transforms)}
    counted_on = positives or {"heads": {}}
    for name, counted in counted_on["heads"].items():
        if name not in found:
            whole = counted_on["images"] == len(np.unique(objects.image))
            believed = [whole or entry["objects"] >= ENOUGH for entry in counted["classes"]]
            classes = [
                entry | {"missed": sure and entry["none"] > FEW}
                for sure, entry in zip(believed, counted["classes"], strict=True)
            ]
            classes.sort(key=lambda entry: (not entry["missed"], -entry["none"], -entry["objects"]))
            missed = {entry["label"] for entry in classes if entry["missed"]}
            remedy = remedy_by_positives(missed, count_larger(name), transforms) if blind else None
            found[name] = {
                "title": counted["title"],
                "by": "positives",
                "images": counted_on["images"],
                **_scale(heads.get(name)),
                "none": counted["share_of_objects_without"],
                "classes": classes,
                "remedy": _as_dict(remedy),
            }
    if not found:
        return None
    resize = resizing(transforms)
    return {
        "short_sides": sorted(set(resize.sides)) if resize else None,
        "objects": len(objects.labels),
        "looked_at": seen.drawn,
        "heads": found,
    }


def _by_iou(head: Any, seen: Seen, objects: Objects, transforms: Any) -> dict[str, Any]:
    judged = judge(head.anchors, seen, len(objects.class_names))
    count = np.bincount(objects.labels, minlength=len(objects.class_names))
    shares = {f"iou_{GOOD}": judged.good, f"iou_{LEAST}": judged.least, "none": 1 - judged.least}
    present = np.flatnonzero(np.isfinite(judged.least))
    most_missed = present[np.lexsort((-count[present], judged.least[present]))]
    return {
        "by": "iou",
        **_scale(head),
        **{key: round(float(np.average(of[present], weights=count[present])), 4) for key, of in shares.items()},
        "classes": [
            {
                "label": int(k),
                "name": objects.class_names[k],
                "objects": int(count[k]),
                **{key: round(float(of[k]), 4) for key, of in shares.items()},
                "missed": bool(judged.missed[k]),
            }
            for k in most_missed
        ],
        "remedy": _as_dict(remedy_by_iou(head, seen, judged.missed, transforms)),
    }


def _scale(head: Any) -> dict[str, Any]:
    if head is None:
        return {"scale": None, "scale_key": ""}
    key = f"model.{head.scale_argument}" if head.scale_argument else ""
    return {"scale": float(head.anchors.scales[0]), "scale_key": key}


def _as_dict(remedy: Remedy | None) -> dict[str, Any] | None:
    return remedy and remedy._asdict()
