"""A process of several that train on shares of a batch by focal loss: python normaliser_processes.py RANK COUNT FOLDER.

Each writes the gradients that data-parallel averaging would make of everybody's; the loss itself is a mean over the
processes' mean number of positives, so that they are those of one process holding everything.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rst.detectors.geometry.boxes import BoxCoder
from rst.detectors.losses.contract import HeadOutputs
from rst.detectors.losses.pointwise import Focal

POSITIVES = [(0, 1), (0, 4), (0, 7), (1, 2)]  # image and anchor: three in the first, one in the second


def outputs(images: list[int]) -> tuple[HeadOutputs, Tensor]:
    """Of some images, and their logits."""
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))[images].requires_grad_()
    places = [(images.index(image), anchor) for image, anchor in POSITIVES if image in images]
    index = torch.tensor([9 * image + anchor for image, anchor in places], dtype=torch.int64)
    heights = torch.tensor([4.0 + anchor for _, anchor in places])
    box = torch.tensor([0.0, 0, 10, 10]).expand(len(places), 4)
    given = HeadOutputs(
        logits=[logits],
        ignore=None,
        index=index,
        rows=logits.detach().flatten()[index][:, None],
        deltas=torch.zeros(len(places), 4, requires_grad=True),
        references=box,
        truths=torch.cat([box[:, :3], heights[:, None]], 1),
        coder=BoxCoder((0.1, 0.1, 0.2, 0.2)),
    )
    return given, logits


def gradients(images: list[int]) -> tuple[Tensor, Tensor]:
    """Of the logits (images, 9) and of the positives' deltas (P, 4)."""
    given, logits = outputs(images)
    torch.stack(list(Focal()(given).terms.values())).sum().backward()
    assert logits.grad is not None
    assert given.deltas.grad is not None
    return logits.grad, given.deltas.grad


def main(rank: int, count: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
    torch.save([gradient / count for gradient in gradients([rank])], folder / f"gradients_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
