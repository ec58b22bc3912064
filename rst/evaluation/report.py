"""An evaluation as tables for a terminal and as JSON."""

from typing import Any

from rst.coco.columns import SHOWN
from rst.coco.lvis import FREQUENCIES
from rst.evaluation.evaluator import LRP_PARTS, Evaluation
from rst.evaluation.protocol import SIZES

SHAPES = {"bbox": "boxes", "segm": "masks"}
CLASS_COLUMNS = ("AP", "AP50", "AP75", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
LONGEST_NAME = 24  # characters


def format_table(metrics: dict[str, float]) -> str:
    """The metrics in per cent, as a table for a terminal; "-" where a number is undefined.

    A line of average precisions and one of recalls; below them oLRP (lower is better) and its parts, in all and by size
    and frequency, if they are among the metrics.
    """
    lines = []
    for kind in ("AP", "AR"):
        names = [name for name in metrics if name.startswith(kind)]
        if names:
            lines.append("".join(f"{name:>7}" for name in names))
            lines.append("".join(f"{_percent(metrics[name]):>7}" for name in names))
    groups = {suffix: name for suffix, name in (SIZES | FREQUENCIES).items() if f"oLRP{suffix}" in metrics}
    if groups:
        lines += ["", " " * 10 + "".join(f"{part.strip('_') or 'oLRP':>7}" for part in LRP_PARTS)]
        for suffix, name in groups.items():
            values = [_percent(metrics[f"oLRP{suffix}{part}"]) for part in LRP_PARTS]
            lines.append(f"{name:>10}" + "".join(f"{value:>7}" for value in values))
    return "\n".join(lines)


def format_classes(evaluation: Evaluation) -> str:
    """A line per class: objects, precisions and oLRP in per cent, and the score threshold that oLRP recommends."""
    names = [_shorten(entry["name"]) for entry in evaluation.classes]
    width = max(len("class"), *map(len, names))
    head = "".join(f"{name.removeprefix('oLRP_'):>7}" for name in CLASS_COLUMNS)
    lines = [f"{'class':<{width}}{'objects':>9}{head}{'threshold':>11}"]
    for name, entry in zip(names, evaluation.classes, strict=True):
        values = "".join(f"{_percent(entry[column]):>7}" for column in CLASS_COLUMNS)
        lines.append(f"{name:<{width}}{entry['objects']:>9}{values}{format_threshold(entry['threshold']):>11}")
    return "\n".join(lines)


def format_threshold(threshold: float | None) -> str:
    """Rounded down, so that the detection with this score is kept."""
    return "-" if threshold is None else f"{int(threshold * 1000 + 1e-9) / 1000:.3f}"


def headline(evaluation: Evaluation) -> str:
    """What was scored, in one line."""
    truth, detections = evaluation.truth, evaluation.detections
    objects = sum(entry["objects"] for entry in evaluation.classes)
    classes = "1 class" if len(truth.category_ids) == 1 else f"{len(truth.category_ids)} classes"
    return (
        f"{truth.protocol.name.upper()} metrics of {SHAPES[truth.iou_type]}: {objects} objects of {classes} in "
        f"{len(truth.image_ids)} images; {detections.given} detections in {detections.images} of them"
    )


def notes(evaluation: Evaluation) -> list[str]:
    """Warnings for a reader of the numbers."""
    truth, detections = evaluation.truth, evaluation.detections
    found = [text for text in (detections.remark, detections.warning) if text]
    if not any(entry["objects"] for entry in evaluation.classes):
        crowds = int(truth.ignored.sum())
        found.append(
            f"{truth.file}: there is no object to find, so AP and oLRP are not defined"
            + f"; {crowds:,} annotations are crowds or ignored" * bool(crowds)
        )
    if detections.given and evaluation.metrics["AP50"] == 0:
        found.append("not one object is found: are these detections of this data set?")
    elif detections.given and 2 * detections.images < len(truth.image_ids):
        found.append("most images have no detection at all: are these the detections of all of them?")
    if detections.apparent_limit:
        limit = truth.protocol.limits[-1]
        found.append(
            f"most images have {detections.apparent_limit} detections, none has more: is that the limit of the "
            f"detector (--model.detections.limit)? {truth.protocol.name.upper()} counts up to {limit} of each image"
        )
    if count := len(truth.blank):
        some = ", ".join(map(str, truth.blank[:SHOWN].tolist())) + ", ..." * (count > SHOWN)
        which = "1 object has a mask without a pixel" if count == 1 else f"{count:,} objects have masks without a pixel"
        found.append(
            f"{truth.file}: {which} (annotation {some}): {'it counts' if count == 1 else 'they count'} as missed, "
            "whatever is detected; rst data check --masks names the cause"
        )
    if truth.unnumbered.any():
        found.append(
            f"{truth.file}: annotation id 0 always counts as missed, here as in pycocotools, which takes 0 for "
            f'"no match"; number the annotations from 1'
        )
    return found


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every number: what was scored, the metrics, the threshold for all classes, and "classes" with the same of each.

    Metrics lie in [0, 1] and are -1 where they are undefined, as in COCO's tools; a threshold is null there.
    """
    truth, detections = evaluation.truth, evaluation.detections
    return {
        "protocol": truth.protocol.name,
        "iou_type": truth.iou_type,
        "annotations": str(truth.file),
        "images": len(truth.image_ids),
        "objects": sum(entry["objects"] for entry in evaluation.classes),
        "detections": detections.given,
        "images_with_detections": detections.images,
        **evaluation.metrics,
        "threshold": evaluation.threshold,
        "classes": evaluation.classes,
    }


def _percent(value: float) -> str:
    return "-" if value < 0 else format(100 * value, ".1f")


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
