"""Settings that would let anchors reach the objects that they miss: tried out, not guessed.

C  classes    M  objects looked at, each at one size
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from rst.data.check.seen import Seen, draw, resizing
from rst.data.transforms import ResizeShortSide

GOOD, LEAST = 0.5, 0.3  # IoU of an object with its best anchor; an object below the second has none
FEW = 0.25  # a class is missed if a larger share of its objects has no anchor
GAIN = 0.05  # by which the mean of that share over the classes must fall where no class fewer is missed
TRIED = 20_000  # objects on which another setting is tried
SCALES = (0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
FACTORS = (2, 3, 4)  # of the image's sides


class Remedy(NamedTuple):
    """A setting that serves classes that are missed."""

    settings: dict[str, Any]  # key of the configuration -> value; without a key, the scale of the anchors
    now: dict[str, Any]  # the same keys as they are set
    none: float  # share of the objects of the missed classes that would still have no anchor, or no positives


class Judgement(NamedTuple):
    """How well anchors reach the classes."""

    good: np.ndarray  # (C,) share of the objects with an IoU of GOOD; NaN of a class without objects
    least: np.ndarray  # (C,) likewise of LEAST

    @property
    def missed(self) -> np.ndarray:
        """(C,) bool."""
        return 1 - self.least > FEW

    @property
    def cost(self) -> tuple[int, float, float]:
        """Missed classes, the mean share without an anchor, and minus that with a good one; less is better."""
        none, good = 1 - np.nanmean(self.least), np.nanmean(self.good)
        return int(self.missed.sum()), round(float(none), 2), -round(float(good), 2)

    def helps(self, before: "Judgement") -> bool:
        return self.cost[0] < before.cost[0] or self.cost[1] <= before.cost[1] - GAIN


def judge(anchors: Any, seen: Seen, classes: int) -> Judgement:
    """By the IoU of each object with its best anchor."""
    best = anchors.best_ious(seen.boxes, seen.sizes).numpy()
    count = np.bincount(seen.labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        return Judgement(*(np.bincount(seen.labels[best >= iou], minlength=classes) / count for iou in (GOOD, LEAST)))


def remedy_by_iou(head: Any, seen: Seen, missed: np.ndarray, transforms: Any) -> Remedy | None:
    """What helps first: another scale, a further ratio, or larger images at whatever scale; None: nothing does."""
    if not missed.any():
        return None
    seen = seen.at(draw(seen.labels, TRIED))
    anchors, classes = head.anchors, len(missed)
    before, weights = judge(anchors, seen, classes), np.bincount(seen.labels, minlength=classes)[missed]

    def answer(settings: dict[str, Any], now: dict[str, Any], judged: Judgement) -> Remedy:
        return Remedy(settings, now, round(float(1 - np.average(judged.least[missed], weights=weights)), 4))

    scale, scale_key = anchors.scales[0], _model_key(head.scale_argument)

    def best_scale(seen: Seen) -> tuple[float, Judgement]:
        tried = {other: judge(anchors.changed(scale=other), seen, classes) for other in {*SCALES, scale}}
        best = min(tried, key=lambda other: (*tried[other].cost, abs(np.log(other / scale))))
        return best, tried[best]

    best, judged = best_scale(seen)
    if judged.helps(before):
        return answer({scale_key: best}, {scale_key: scale}, judged)
    without = missed[seen.labels] & (anchors.best_ious(seen.boxes, seen.sizes).numpy() < LEAST)
    if head.ratios_argument and without.any():
        width, height = (seen.boxes[without][:, 2:] - seen.boxes[without][:, :2]).unbind(1)
        ratio, key = float(f"{float((height / width).median()):.1g}"), _model_key(head.ratios_argument)
        judged = judge(anchors.changed(ratio=ratio), seen, classes)
        if judged.helps(before):
            return answer({key: [*anchors.ratios, ratio]}, {key: list(anchors.ratios)}, judged)
    for factor in FACTORS if resizing(transforms) else ():
        best, judged = best_scale(seen.enlarged(factor))
        if judged.helps(before):
            scales = ({scale_key: best}, {scale_key: scale}) if best != scale else ({}, {})
            larger, now = ({**_image_size(transforms, of), **own} for of, own in zip((factor, 1), scales, strict=True))
            return answer(larger, now, judged)
    return None


def remedy_by_positives(
    missed: set[int], count: Callable[[Any], Sequence[dict[str, Any]]], transforms: Any
) -> Remedy | None:
    """The least enlargement of the images that helps; `count` counts anew, per class, with other transforms."""
    for factor in FACTORS if missed and resizing(transforms) else ():
        larger = deepcopy(transforms)
        resize = resizing(larger)
        assert resize is not None
        for name, value in _image_size(transforms, factor).items():
            setattr(resize, {"data.short_sides": "sides"}.get(name, "max_side"), value)
        own = [entry for entry in count(larger) if entry["label"] in missed]
        if sum(entry["none"] > FEW for entry in own) < len(missed):
            share = np.average([entry["none"] for entry in own], weights=[entry["objects"] for entry in own])
            return Remedy(_image_size(transforms, factor), _image_size(transforms, 1), round(float(share), 4))
    return None


def _model_key(argument: str) -> str:
    return f"model.{argument}" if argument else ""


def _image_size(transforms: Any, factor: int) -> dict[str, Any]:
    """The settings of the images' size, enlarged."""
    resize = resizing(transforms)
    assert resize is not None
    limit = {"data.max_side": factor * resize.max_side} if isinstance(resize, ResizeShortSide) else {}
    return {"data.short_sides": [factor * side for side in resize.sides], **limit}
