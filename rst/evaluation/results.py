"""A detector's output as COCO results: plain numbers, in pixels of the image files.

n  detections of an image    C  classes    h, w  sides of the image that the detector got    H, W  sides of its file
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rst.coco.masks import encode_mask

PIXELS_AT_ONCE = 2**24  # of masks resized together, before or after: 64 MiB of float32 each


def to_coco_results(
    detections: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections of a batch as COCO results, in pixels of the image files.

    Args:
        detections: per image "boxes" (n, 4) XYXY pixels of the resized image, "labels" (n,) in [0, C), "scores" (n,)
            and, from a detector with masks, "masks" (n, h, w) bool and perhaps "mask_scores" (n,).
        targets: per image "image_id", "original_size" (height, width) of the file and "size" (height, width) of the
            resized image, as `CocoDetection` gives them.
        category_ids: (C,) COCO category of each label.

    Returns:
        COCO results as plain Python values: boxes scaled back and clipped to the image, masks as run lengths. Where a
        mask has a score of its own, it is "mask_score": `rst.evaluation` takes it for masks, other tools take "score".

    Raises:
        ValueError: a missing key, lengths that differ, a label that is no class, a box or score that is not finite.
    """
    if len(detections) != len(targets):
        raise ValueError(f"detections of {len(detections)} images, but targets of {len(targets)}")
    results: list[dict[str, Any]] = []
    for detection, target in zip(detections, targets, strict=True):
        for key in ("image_id", "original_size", "size"):
            if key not in target:
                raise ValueError(f"target of image {target.get('image_id', '?')} has no key '{key}'")
        image_id = int(target["image_id"])
        _check(detection, image_id, target["size"], len(category_ids))
        found = to_file_pixels(detection, target["size"], target["original_size"])
        results += image_results(found, image_id, category_ids)
    return results


def image_results(found: dict[str, Any], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one image, as `to_file_pixels` gives them, as COCO results."""
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    for result, runs in zip(results, found.get("segmentations", ()), strict=False):
        result["segmentation"] = runs
    if "mask_scores" in found:
        for result, score in zip(results, found["mask_scores"].tolist(), strict=True):
            result["mask_score"] = score
    return results


def to_file_pixels(detection: dict[str, Any], size: Sequence[int], original_size: Sequence[int]) -> dict[str, Any]:
    """A detector's output for one image, in pixels of the image file.

    Args:
        detection: "boxes" (n, 4) XYXY, "labels" (n,), "scores" (n,) and perhaps "masks" (n, h, w) bool and
            "mask_scores" (n,).
        size: (h, w) of the image that the detector got.
        original_size: (H, W) of the file.

    Returns:
        on the CPU: "boxes" (n, 4) float64, scaled and clipped to the image, "labels", "scores" float64, and for masks
        "segmentations", n compressed run lengths of H x W pixels, and "mask_scores" where there are any. Masks are
        resized and encoded a few at a time.
    """
    (h, w), (height, width) = size, original_size
    boxes = torch.as_tensor(detection["boxes"]).detach().cpu().double()
    limit = boxes.new_tensor([width, height] * 2)
    boxes = boxes * boxes.new_tensor([width / w, height / h] * 2)
    found: dict[str, Any] = {
        "boxes": torch.minimum(boxes.clamp(min=0.0), limit),
        "labels": torch.as_tensor(detection["labels"]).detach().cpu(),
        "scores": torch.as_tensor(detection["scores"]).detach().cpu().double(),
    }
    if "mask_scores" in detection:
        found["mask_scores"] = torch.as_tensor(detection["mask_scores"]).detach().cpu().double()
    if "masks" in detection:
        found["segmentations"] = [encode_mask(mask.numpy()) for mask in _resized(detection["masks"], height, width)]
    return found


def given_up(items: Iterable[Any]) -> Iterator[Any]:
    """The items, one after the other; none is held here once the next is asked for: masks of an image may be 100 MB."""
    waiting = list(items)[::-1]
    del items
    while waiting:
        yield waiting.pop()


def _resized(
    masks: Tensor,  # (n, h, w) bool
    height: int,
    width: int,
) -> Iterator[Tensor]:
    """(H, W) bool masks on the CPU, one after the other; a pixel belongs to a mask that covers half of it."""
    at_once = max(1, PIXELS_AT_ONCE // max(height * width, masks.shape[1] * masks.shape[2], 1))
    for some in masks.detach().split(at_once):
        if some.shape[1:] != (height, width):
            shares = interpolate(some[:, None].float(), (height, width), mode="bilinear", align_corners=False)
            some = shares[:, 0] >= 0.5
        yield from some.bool().cpu()


def _check(detection: dict[str, Any], image_id: int, size: Sequence[int], classes: int) -> None:
    where = f"detections of image {image_id}"
    for key in ("boxes", "labels", "scores"):
        if key not in detection:
            raise ValueError(f"{where} have no key '{key}'")
    boxes, labels, scores = (torch.as_tensor(detection[key]).detach() for key in ("boxes", "labels", "scores"))
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
        shapes = f"boxes {tuple(boxes.shape)}, labels {tuple(labels.shape)} and scores {tuple(scores.shape)}"
        raise ValueError(f"{where}: {shapes} must have shapes (n, 4), (n,) and (n,)")
    of_masks = torch.as_tensor(detection.get("mask_scores", scores)).detach()
    if of_masks.shape != scores.shape:
        raise ValueError(f"{where}: mask_scores have shape {tuple(of_masks.shape)}, scores {tuple(scores.shape)}")
    for name, values in (("boxes", boxes), ("scores", scores), ("mask_scores", of_masks)):
        if not values.isfinite().all():
            raise ValueError(f"{where}: {name} are not finite")
    for label in labels[(labels < 0) | (labels >= classes)].tolist():
        raise ValueError(f"{where}: label {label} is not in [0, {classes})")
    if "masks" in detection and tuple(detection["masks"].shape) != (len(scores), *map(int, size)):
        shape, wanted = tuple(detection["masks"].shape), (len(scores), *map(int, size))
        raise ValueError(f"{where}: masks have shape {shape}, not {wanted}: one for each box, of the image's size")
