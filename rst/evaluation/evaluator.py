"""Detections scored: average precision, recall and oLRP, overall, by class, by size and by frequency.

C  classes    A  areas (all, small, medium, large)    T  IoU thresholds    R  recalls
L  limits on the number of detections
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rst.coco.lvis import FREQUENCIES
from rst.evaluation.detections import Detections, read_detections
from rst.evaluation.lrp import GRID, Lrp, LrpCurve, on_grid, optimal_lrp
from rst.evaluation.matching import by_class, match
from rst.evaluation.precision import precision_at_recalls, recall_at_limits
from rst.evaluation.protocol import IOU_THRESHOLDS, PROTOCOLS, SIZES, IouType, ProtocolName
from rst.evaluation.truth import GroundTruth, read_ground_truth

LRP_PARTS = {"": "error", "_Loc": "localisation", "_FP": "false_positive", "_FN": "false_negative"}


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one evaluation.

    Attributes:
        truth: the ground truth.
        detections: the detections that count.
        metrics: name -> number in [0, 1], -1 where it is undefined. COCO's twelve (AP, AP50, AP75, APs, APm, APl, AR1,
            AR10, AR100, ARs, ARm, ARl) or LVIS's thirteen (with APr, APc, APf and AR300), then oLRP and its parts
            (oLRP_Loc, oLRP_FP, oLRP_FN), the same by size (oLRPs, oLRPs_Loc, ...) and frequency (oLRPr, ...).
        classes: for each class its id, name, objects, detections, the same metrics and the recommended score
            "threshold" (None where there is none).
        precision: (T, R, C, A) float64 at the recalls 0, .01, ..., 1; -1 for a class without objects.
        curves: C LRP errors against the score.
        threshold: the score that, used for all classes, has the least mean LRP error; None if no detection is right.
        mean_error: (1001,) float64 that error at the scores 0, .001, ..., 1; 1 without ground truth.
    """

    truth: GroundTruth
    detections: Detections
    metrics: dict[str, float]
    classes: list[dict[str, Any]]
    precision: np.ndarray
    curves: list[LrpCurve]
    threshold: float | None
    mean_error: np.ndarray


def evaluate(
    annotations: str | Path,
    results: Sequence[dict[str, Any]] | str | Path,
    iou_type: IouType = "bbox",
    protocol: ProtocolName | Literal["auto"] = "auto",
) -> Evaluation:
    """Score detections against ground truth.

    Args:
        annotations: COCO or LVIS file with the ground truth.
        results: COCO results, or a JSON file of them; may be empty.
        iou_type: "bbox" compares boxes, "segm" masks.
        protocol: "coco", "lvis", or "auto": LVIS where the annotations name frequencies and absent categories.

    Raises:
        DataError: a file or a result with a fault; names file, place, key and value.
        ValueError: an unknown `iou_type` or `protocol`.
    """
    if iou_type not in get_args(IouType):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    if protocol not in (*get_args(ProtocolName), "auto"):
        raise ValueError(f"protocol must be 'coco', 'lvis' or 'auto', got {protocol!r}")
    truth = read_ground_truth(Path(annotations), iou_type, protocol)
    detections = read_detections(results, truth)
    limits = truth.protocol.limits
    precisions, recalls, lrps, curves, counts = [], [], [], [], []
    for ranked in by_class(truth, detections, match(truth, detections)):
        precisions.append(precision_at_recalls(ranked))
        recalls.append(recall_at_limits(ranked, limits))
        lrp, curve = optimal_lrp(ranked)
        lrps.append(lrp)
        curves.append(curve)
        counts.append((int(ranked.objects[0]), len(ranked.scores)))
    precision, recall = np.stack(precisions, 2), np.stack(recalls, 1)  # (T, R, C, A), (T, C, A, L)
    lrp = Lrp(*(np.stack(field) for field in zip(*lrps, strict=True)))  # each (C, A)

    frequencies = np.array(truth.frequencies)
    metrics = _metrics(precision, recall, lrp, limits, {f: frequencies == f for f in FREQUENCIES if truth.frequencies})
    with_objects = [curve for curve, (objects, _) in zip(curves, counts, strict=True) if objects]
    mean_error = np.mean([on_grid(curve) for curve in with_objects], axis=0) if with_objects else np.ones(len(GRID))
    classes = []
    for k, (category_id, name) in enumerate(zip(truth.category_ids.tolist(), truth.class_names, strict=True)):
        own = [slice(k, k + 1)]
        useful = 0 <= lrp.error[k, 0] < 1  # no detection at all has an error of 1
        classes.append(
            {"id": category_id, "name": name}
            | ({"frequency": truth.frequencies[k]} if truth.frequencies else {})
            | dict(zip(("objects", "detections"), counts[k], strict=True))
            | _metrics(precision[:, :, *own], recall[:, *own], Lrp(*(field[*own] for field in lrp)), limits, {})
            | {"threshold": float(lrp.threshold[k, 0]) if useful else None}
        )
    own_thresholds = [entry["threshold"] for entry in classes if entry["threshold"] is not None]
    threshold = own_thresholds[0] if own_thresholds else None
    if len(with_objects) > 1 and threshold is not None:
        best = np.flatnonzero(mean_error == mean_error.min())
        threshold = float(GRID[best[len(best) // 2]])  # the middle of a range: at its end a rounding error would matter
    return Evaluation(
        truth=truth,
        detections=detections,
        metrics=metrics,
        classes=classes,
        precision=precision,
        curves=curves,
        threshold=threshold,
        mean_error=mean_error,
    )


def evaluate_detections(
    annotations: str | Path,
    results: Sequence[dict[str, Any]] | str | Path,
    iou_type: IouType = "bbox",
    protocol: ProtocolName | Literal["auto"] = "auto",
) -> dict[str, float]:
    """The metrics of `evaluate` alone: AP, AP50, ..., oLRP, oLRP_Loc, ...; in [0, 1], -1 where one is undefined."""
    return evaluate(annotations, results, iou_type, protocol).metrics


def metric_names(protocol: ProtocolName) -> list[str]:
    """The names of `Evaluation.metrics` by a protocol."""
    limits = PROTOCOLS[protocol].limits
    groups = {group: np.array([True]) for group in FREQUENCIES if PROTOCOLS[protocol].federated}
    precision = np.zeros((len(IOU_THRESHOLDS), 1, 1, len(SIZES)))
    recall = np.zeros((len(IOU_THRESHOLDS), 1, len(SIZES), len(limits)))
    lrp = Lrp(*(np.zeros((1, len(SIZES))) for _ in Lrp._fields))
    return list(_metrics(precision, recall, lrp, limits, groups))


def _metrics(
    precision: np.ndarray, recall: np.ndarray, lrp: Lrp, limits: tuple[int, ...], groups: dict[str, np.ndarray]
) -> dict[str, float]:
    """Means over the classes that have objects, in the order of the published tables."""
    at = {name: int(np.argmin(abs(IOU_THRESHOLDS - value))) for name, value in (("50", 0.5), ("75", 0.75))}
    metrics = {"AP": _mean(precision[..., 0])}
    metrics |= {f"AP{name}": _mean(precision[t, ..., 0]) for name, t in at.items()}
    metrics |= {f"AP{size}": _mean(precision[..., a]) for a, size in enumerate(SIZES) if size}
    metrics |= {f"AP{group}": _mean(precision[:, :, members, 0]) for group, members in groups.items()}
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, place]) for place, limit in enumerate(limits)}
    metrics |= {f"AR{size}": _mean(recall[:, :, a, -1]) for a, size in enumerate(SIZES) if size}
    for a, size in enumerate(SIZES):
        metrics |= {f"oLRP{size}{part}": _mean(getattr(lrp, field)[:, a]) for part, field in LRP_PARTS.items()}
    for group, members in groups.items():
        metrics |= {f"oLRP{group}{part}": _mean(getattr(lrp, field)[members, 0]) for part, field in LRP_PARTS.items()}
    return metrics


def _mean(values: np.ndarray) -> float:
    """Mean of the defined values: neither -1 nor NaN; -1 if there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
