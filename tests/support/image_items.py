"""An image with boxes and masks as the reader hands it to the transforms."""

import torch
from torchvision import tv_tensors


def image_item(height, width, boxes, masks):
    """(image, target): noise of that size, with boxes (x0, y0, x1, y1) in whole pixels and, if wanted, their masks."""
    image = tv_tensors.Image(torch.randint(256, (3, height, width), dtype=torch.uint8))
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(len(boxes)),
        "image_id": 9,
        "original_size": (height, width),
    }
    if masks:
        planes = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for plane, (x0, y0, x1, y1) in zip(planes, boxes, strict=True):
            plane[y0:y1, x0:x1] = 1
        target["masks"] = tv_tensors.Mask(planes)
    return image, target
