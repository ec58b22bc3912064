"""The outputs of a head, built by hand for the tests of losses.

R  candidates    K  outputs per candidate    P  positives    T  positives that have masks
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rst.detectors import BoxCoder, Boxes, Classification, HeadOutputs, Masks, Task
from rst.kernels import gather_levels

SQUARE = [0.0, 0, 10, 10]
CODER = BoxCoder((0.1, 0.1, 0.2, 0.2))
CELLS = 20  # of a mask, 4 x 5


def head_outputs(
    logits: Tensor | Sequence[Tensor],
    positives: Tensor | Sequence[tuple[int, int]],
    truths: Tensor | Sequence[Sequence[float]] | None = None,
    *,
    ignore: Sequence[Tensor] | None = None,
    deltas: Tensor | None = None,
    references: Tensor | None = None,
    counted: Tensor | None = None,
    labelled_by: str = "bbox",
    **others: Task,
) -> HeadOutputs:
    """The outputs of a head with boxes, other tasks, or both.

    Args:
        logits: one level (R, K), or levels of any shape.
        positives: their index, (P,) int64, or for one level their (candidate, class).
        truths: boxes (P, 4); None: there is no box task.
        ignore: as in `Classification`.
        deltas: (P, 4); None: all zero, so that the predictions are the references.
        references: boxes (P, 4); None: all are `SQUARE`.
        counted: as in `Boxes`.
        labelled_by: as in `HeadOutputs`.
        **others: further tasks by name.
    """
    levels = [logits] if isinstance(logits, Tensor) else list(logits)
    detached = [level.detach() for level in levels]
    if isinstance(positives, Tensor):
        index, candidates = positives, gather_levels(detached, positives)[:, None]
    else:
        candidate, label = torch.tensor(positives, dtype=torch.int64).reshape(-1, 2).T
        index, candidates = candidate * levels[0].shape[1] + label, detached[0][candidate]
    tasks: dict[str, Task] = {}
    if truths is not None:
        boxes = torch.as_tensor(truths).reshape(-1, 4)
        deltas = torch.zeros(len(boxes), 4, requires_grad=True) if deltas is None else deltas
        references = torch.tensor(SQUARE).expand_as(boxes) if references is None else references
        tasks["bbox"] = Boxes(deltas, references, boxes, CODER, counted=counted)
    return HeadOutputs(Classification(levels, ignore, index, candidates), tasks | others, labelled_by)


def boxes_of_height(*heights: float) -> list[list[float]]:
    """Truths whose IoU and GIoU with `SQUARE` are height / 10."""
    return [[0.0, 0, 10, height] for height in heights]


def overlapping_masks(*cells: tuple[int, int], kept: Sequence[int] | None = None) -> Masks:
    """Predictions that set the first a cells, and truths that set the first b: the Dice is 2 min(a, b) / (a + b)."""
    predicted, true = torch.tensor(cells, dtype=torch.int64).reshape(-1, 2).T[..., None]  # (T, 1) each
    logits = torch.where(torch.arange(CELLS) < predicted, 50.0, -50.0).view(-1, 4, 5).requires_grad_()
    truths = (torch.arange(CELLS) < true).float().view(-1, 4, 5)
    return Masks(logits, truths, None if kept is None else torch.tensor(kept, dtype=torch.int64))
