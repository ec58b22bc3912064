"""A ranking loss from a score of your own.

P  positives
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .arguments import prepare
from .backends import AlgorithmName, BackendName
from .scores import Counts, Loss, Update
from .targets import Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def ranking_loss(
    score: Callable[[Counts], Tensor | Update],
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    *,
    delta: float = 0.5,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
    segments: int | Sequence[int] | None = None,
) -> Tensor:
    """A ranking loss of your own, from its `score`: the errors of the positives as a function of the counts.

    The value is the mean of the errors. The gradient is their Identity Update (section 3.2, Eq. 5): the error of a
    positive pushes it up and pushes the negatives above it down, each by its share of the false positives. Counting
    and scattering are exact and linear in the logits, as in `rank_sort`.

    Args:
        score: called with `Counts` if there are positives. It returns their errors (P,); or an `Update`, which sets the
            reported error and the weights separately. Nothing in it is differentiated.
        logits, targets, delta, backend, algorithm, group, segments: as in `rank_sort`. With a group, the score sees the
            positives of all its processes; with segments, it is called once for the positives of all of them, whose
            counts and sums are those of their own segment. Backend "reference" counts and scatters densely.

    Returns:
        The mean error, () or (S,), float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: as `rank_sort`; also where the score returns neither errors (P,) nor an `Update`.

    Example: the mean of the false positives' share of the rank, which is the ranking part of `rank_sort`:
        >>> def score(counts):
        ...     return counts.false_positives / (counts.false_positives + counts.true_positives)
        >>> ranking_loss(score, torch.tensor([2.0, 1.0, 1.5]), torch.tensor([0.9, 0.5, 0]))
    """

    def checked(counts: Counts) -> Tensor | Update:
        result = score(counts)
        expected = counts.false_positives.shape
        if not isinstance(result, Update) and (not isinstance(result, Tensor) or result.shape != expected):
            got = f"a tensor {tuple(result.shape)}" if isinstance(result, Tensor) else f"{result!r}"
            raise ValueError(f"score: expected errors {tuple(expected)} or an Update, got {got}")
        return result

    prepared = prepare(logits, targets, delta, backend, algorithm, group, segments)
    return prepared.evaluate(Loss(None, checked, 1))[0]
