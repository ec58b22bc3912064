"""A process of several that detect in shares of the images: python evaluation_processes.py RANK COUNT FOLDER.

The images' detections, boxes and masks, are read from FOLDER/results.json. A sampler that fills up the last batch
repeats an image, so each process but the first has one of the first process too. The first process writes what it
gathered.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import nn

from rst.coco.masks import decode_segmentation
from rst.training import DetectionTraining


class Remembered(nn.Module):
    """Finds in an image, which is nothing but its place in the list, what the file says."""

    num_classes = 4

    def __init__(self, detections: list[dict[str, torch.Tensor]]):
        super().__init__()
        self.detections = detections

    def forward(self, images: list[int]) -> list[dict[str, torch.Tensor]]:
        return [self.detections[image] for image in images]


def main(rank: int, count: int, folder: Path) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    category_ids = sorted(category["id"] for category in truth["categories"])
    targets, detections = [], []
    for image in sorted(truth["images"], key=lambda image: image["id"]):
        size = image["height"], image["width"]
        targets.append({"image_id": image["id"], "original_size": size, "size": size})
        own = [result for result in results if result["image_id"] == image["id"]]
        boxes = torch.tensor([result["bbox"] for result in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([category_ids.index(result["category_id"]) for result in own])
        scores = torch.tensor([result["score"] for result in own], dtype=torch.float64)
        masks = [decode_segmentation(result["segmentation"], *size, "results") for result in own]
        planes = torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(0, *size, dtype=torch.bool)
        detections.append({"boxes": boxes, "labels": labels, "scores": scores, "masks": planes})

    if count > 1:
        store = torch.distributed.FileStore(str(folder / f"store{count}"), count)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    module = DetectionTraining(Remembered(detections), category_ids=category_ids)
    module.on_validation_epoch_start()
    share = [*range(rank, len(targets), count), *([0] if rank else [])]
    for batch, place in enumerate(share):
        module.validation_step(([place], [targets[place]]), batch)  # type: ignore[list-item]
    module.on_validation_epoch_end()
    if rank == 0:
        (folder / f"gathered{count}.json").write_text(json.dumps(module.results))
    if count > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
