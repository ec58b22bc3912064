"""A process of several that train on shares of a batch by focal loss: python normaliser_processes.py RANK COUNT FOLDER.

Each writes its share of the gradients that data-parallel training averages, once with all boxes in the box loss and
once with those that count. The loss divides by the mean of the numbers of positives of all processes, and the box loss
by that of those that count, so the averages are the gradients of one process that holds everything.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from head_outputs import boxes_of_height, head_outputs
from torch import Tensor

from rst.detectors import HeadOutputs
from rst.detectors.losses.pointwise import Focal

POSITIVES = [(0, 1), (0, 4), (0, 7), (1, 2)]  # image and anchor: three in the first, one in the second
COUNTED = [True, False, True, True]  # two of three, and one of one: their shares differ from those of the positives


def outputs(images: list[int], all_count: bool) -> tuple[HeadOutputs, Tensor]:
    """Of some images, and their logits."""
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))[images].requires_grad_()
    places = [(images.index(image), anchor) for image, anchor in POSITIVES if image in images]
    index = torch.tensor([9 * image + anchor for image, anchor in places], dtype=torch.int64)
    counted = torch.tensor([c for (image, _), c in zip(POSITIVES, COUNTED, strict=True) if image in images])
    truths = boxes_of_height(*(4.0 + anchor for _, anchor in places))
    return head_outputs([logits], index, truths, counted=None if all_count else counted), logits


def gradients(images: list[int], all_count: bool) -> tuple[Tensor, Tensor]:
    """Of the logits (images, 9) and of the positives' deltas (P, 4)."""
    given, logits = outputs(images, all_count)
    torch.stack(list(Focal()(given).terms.values())).sum().backward()
    assert logits.grad is not None
    deltas = given.tasks["bbox"].output
    assert deltas.grad is not None
    return logits.grad, deltas.grad


def main(rank: int, count: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    shares = {flag: [gradient / count for gradient in gradients([rank], flag)] for flag in (True, False)}
    torch.save(shares, folder / f"gradients_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
