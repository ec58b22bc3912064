"""One image, learnt until every box and mask of the best detections is its object's: AP 1 by any protocol."""

from typing import Any

import pytest
import torch
from detector_cases import Case, bright_rectangles, random_images, with_masks
from torch import Tensor
from torchvision.ops import box_iou

from rst.detectors import Detector

# name: when the rate is lowered, the step from which to look, the last step, further arguments
DETECTORS: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "mask_rcnn": (100, 140, 300, {}),
    "atss": (60, 20, 260, {}),
    "paa": (60, 80, 260, {}),
    "yolact": (150, 60, 400, {"train_batch_norm": False}),
    "solov2": (200, 20, 260, {}),
}


def one_image(aligned: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Two bright rectangles; `aligned`: on multiples of four pixels, as masks of the whole image have their cells."""
    if not aligned:
        images, targets = bright_rectangles()
        return images[0], targets[0]
    boxes = [[4.0, 8, 28, 32], [32.0, 36, 60, 60]]
    image = 0.2 * random_images((64, 64))[0]
    for channel, (left, top, right, bottom) in enumerate(boxes):
        image[channel, int(top) : int(bottom), int(left) : int(right)] = 1
    (truth,) = with_masks([image], [{"boxes": torch.tensor(boxes), "labels": torch.arange(2)}], round=False)
    return image, truth


@pytest.mark.parametrize("name", DETECTORS)
def test_overfits_one_image_to_an_ap_of_1(name: str):
    lowered, first, last, options = DETECTORS[name]
    image, truth = one_image(aligned=name in ("yolact", "solov2"))
    model = Case(name, {"loss": "rank_sort"} | options).build_to_overfit(num_classes=2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [lowered], gamma=0.25)
    for made in range(1, last + 1):
        optimizer.zero_grad()
        torch.stack(list(model([image], [truth]).values())).sum().backward()
        optimizer.step()
        schedule.step()
        if made >= first and made % 20 == 0 and worst_iou(model, image, truth) >= 0.95:
            return
    raise AssertionError(f"{last} steps do not learn one image: worst IoU {worst_iou(model, image, truth)}")


@torch.no_grad()
def worst_iou(model: Detector, image: Tensor, truth: dict[str, Tensor]) -> float:
    """Of the objects' boxes and masks with the best detections, as many as objects; 0 where a class is wrong."""
    (found,) = model.eval()([image])
    model.train()
    objects = len(truth["labels"])
    order = found["labels"][:objects].argsort()
    if not torch.equal(found["labels"][:objects][order], truth["labels"]):
        return 0.0
    overlaps = []
    if "bbox" in model.iou_types:
        overlaps.append(box_iou(truth["boxes"], found["boxes"][order]).diagonal())
    if "segm" in model.iou_types:
        masks = found["masks"][order]
        both, either = masks & truth["masks"], masks | truth["masks"]
        overlaps.append(both.sum((1, 2)) / either.sum((1, 2)))
    return float(torch.stack(overlaps).min())
