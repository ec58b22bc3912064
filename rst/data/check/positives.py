"""How many positives a detector finds per pyramid level, counted by the detector itself on a sample of the images.

C  classes    P  positives of a head
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rst.data.check.seen import Objects, blank, draw_images


def picked_by_predictions(model: Any) -> bool:
    """Whether a head of the model assigns anchors by the predictions of the step: then blank images tell nothing."""
    heads = model.anchor_heads().values() if hasattr(model, "anchor_heads") else ()
    return any(head.assigner.uses_predictions for head in heads)


def count_positives(
    model: Any,
    transforms: Callable[..., Any],
    objects: Objects,
    advance: Callable[[int], object],
    sample: int,
) -> dict[str, Any]:
    """Positives of each head that assigns anchors, on blank images: assignment looks at their size only.

    Args:
        model: a detector with `positives(images, targets)`; see `rst.detectors`.
        transforms: those of the training, which resize images and boxes as it does.
        objects: the data set.
        advance: called with the number of images done since.
        sample: images looked at, of those with objects.

    Returns:
        JSON values: "images" and "objects" looked at, and "heads", for each the mean positives per image on each level
        ("P2" has stride 4), the share of objects without any, and "classes", of each class with objects its label and
        name, how many were looked at ("objects"), and the share without positives ("none").
    """
    images = draw_images(objects.image, sample)
    count = len(objects.class_names)
    looked_at, levels, missed = np.zeros(count, np.int64), {}, {}
    masks = "segm" in getattr(model, "iou_types", ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the transforms draw sizes and crops
        for index in images.tolist():
            image, target = blank(objects, index, transforms, masks)
            labels = target["labels"].numpy()
            looked_at += np.bincount(labels, minlength=count)
            for head, found in model.positives([image], [target]).items():
                levels.setdefault(head, Counter()).update(found.level.tolist())
                without = np.delete(labels, found.truth.unique().numpy())
                missed[head] = missed.get(head, 0) + np.bincount(without, minlength=count)
            advance(1)
    return {
        "images": len(images),
        "objects": int(looked_at.sum()),
        "heads": {
            head: {
                "title": getattr(model, "heads", {}).get(head, head),
                "per_image": {f"P{level}": round(counts[level] / len(images), 2) for level in sorted(counts)},
                "share_of_objects_without": round(int(missed[head].sum()) / max(int(looked_at.sum()), 1), 4),
                "classes": [
                    {
                        "label": int(k),
                        "name": objects.class_names[k],
                        "objects": int(looked_at[k]),
                        "none": round(int(missed[head][k]) / int(looked_at[k]), 4),
                    }
                    for k in np.flatnonzero(looked_at)
                ],
            }
            for head, counts in levels.items()
        },
    }
