"""AP loss.

P  positives      M  all logits
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .arguments import prepare
from .backends import AlgorithmName, BackendName
from .reference import dense_average_precision
from .scores import Loss, average_precision_updates
from .targets import Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LOSS = Loss("average_precision", average_precision_updates, 1)


def average_precision(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    *,
    delta: float = 1.0,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
    segments: int | Sequence[int] | None = None,
) -> Tensor:
    """AP loss: 1 minus the mean interpolated precision at the positives.

    Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019, section 3.2, with the
    interpolation of its published code: a precision is raised to the largest at equal or higher recall. The self pair
    counts 1. Qualities do not matter. Time O(M + P log P) by breakpoints.

    Args:
        logits, targets, backend, algorithm, group, segments: as in `rank_sort`.
        delta: half-width of the smoothed step, in logits; 1 in the publication.

    Returns:
        The loss, () or (S,), in [0, 1), float32 (float64 for float64 logits); 0 without positives.

    Raises:
        ValueError, TypeError: as `rank_sort`.
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group, segments)
    if prepared.dense:
        return prepared.evaluate_densely(dense_average_precision)[0]
    return prepared.evaluate(LOSS)[0]
