"""The public functions of the Rank & Sort loss, and of a ranking loss of one's own.

P  positives      M  all logits of one ranking
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .arguments import prepare
from .backends import AlgorithmName, BackendName
from .reference import dense_rank_sort
from .scores import Counts, Update, rank_sort_updates, spread_error
from .targets import Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class RankSortLoss(NamedTuple):
    """The two parts of the Rank & Sort loss, 0-d tensors in [0, 1); the paper's loss is their sum."""

    ranking: Tensor  # mean over the positives of N_FP / rank
    sorting: Tensor  # mean over the positives of the current minus the target sorting error


def rank_sort(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    *,
    delta: float = 0.5,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
) -> RankSortLoss:
    """Rank & Sort loss: every positive above all negatives, positives by their localisation quality.

    Oksuz, Cam, Akbas and Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
    section 4, equations 6 to 12. Exact: every logit takes part, nothing is sampled, bucketed or approximated. Time
    O(M + P log P + P^2) by breakpoints and O(P M) in tiles; memory O(P + M) with both.

    The gradient is the Identity Update of section 3.2, not the derivative of the value, and both parts have one of
    their own: `(loss.ranking + loss.sorting).backward()` is the published loss, and either part may be scaled alone
    (the published code ignores the weight of the sorting part). There is no second derivative.

    Args:
        logits: float tensor of any shape, or a sequence of them (pyramid levels): one ranking over all of it. Computed
            in float32 whatever the dtype, in float64 for float64. Infinities are legal.
        targets: what the logits should be, in one of two forms.
            Dense: shape(s) of the logits, any real dtype; > 0: the quality (IoU, Dice; at most 1) of a positive,
            0: a negative, < 0: ignored. A positive of quality exactly 0 cannot be said in this form; clamp it to a
            tiny number, or use
            sparse: `SparseTargets(index, quality, ignore)`, which also spares a tensor as large as the logits.
        delta: half-width, in logits, of the interval over which the step between two logits is smoothed
            (delta_RS = 0.5 in the paper); 0 is the hard step, with [x >= 0].
        backend: "auto" takes Triton on a GPU and torch operators elsewhere; "triton", "torch"; "reference" are the
            dense equations, with O(P M) memory, for tests.
        algorithm: of the Triton backend. "breakpoints" passes over the logits once to count and once to scatter;
            "tiled" walks all pairs; "auto" takes tiles for few positives or few pairs. The torch backend has
            breakpoints only.
        group: rank the logits of all processes of this group together; each hands over its own, and all get the same
            values. The gradients are multiplied by the group's size, for data-parallel training averages them over the
            processes. Without it, as in the paper, each process ranks its own.

    Returns:
        `RankSortLoss(ranking, sorting)`, float32 (float64 for float64 logits). Without positives both are 0, attached
        to the graph, with zero gradients. A NaN among the logits that are not ignored, or among the qualities, makes
        both values and every gradient NaN, except those of ignored logits, which are always 0.

    Raises:
        ValueError: shapes, devices or values that do not fit, by the argument's name. Values are looked at on a CPU
            only, and not inside `torch.compile`.
        TypeError: logits that are not float tensors.

    Example:
        >>> logits = torch.tensor([2.0, 1.0, 0.2, 1.5, 0.8, -1.0, 3.0], requires_grad=True)
        >>> loss = rank_sort(logits, torch.tensor([0.9, 0.5, 0.7, 0, 0, 0, -1]))
        >>> sum(loss).backward()
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group)
    if prepared.backend == "reference":
        return RankSortLoss(*prepared.evaluate_densely(dense_rank_sort))
    (ranking, sorting), _ = prepared.evaluate(rank_sort_updates, parts=2)
    return RankSortLoss(ranking, sorting)


def ranking_loss(
    score: Callable[[Counts], Tensor | Update],
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    *,
    delta: float = 0.5,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """A ranking loss of one's own, from its `score` alone: the errors of the positives, given what outranks them.

    The value is the mean of the errors, and the gradient their Identity Update (section 3.2, Eq. 5): the error of a
    positive pushes it up, and the negatives that outrank it down, each by its share of the false positives. Counting
    and scattering are exact and linear in the logits, as in `rank_sort`.

    Args:
        score: called with `Counts` where there are positives; returns their errors (P,), or an `Update` where what is
            reported, or how it is spread, is something else. Nothing in it is differentiated.
        logits, targets, delta, backend, algorithm, group: as in `rank_sort`. With a group, the score sees the positives
            of all its processes. Backend "reference" counts and scatters densely.

    Returns:
        The mean error, (), float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: as `rank_sort`; and where the score returns anything but (P,) errors or an `Update`.

    Example: the mean of the false positives' share of the rank, which is the ranking part of `rank_sort`:
        >>> def score(counts):
        ...     return counts.false_positives / (counts.false_positives + counts.true_positives)
        >>> ranking_loss(score, torch.tensor([2.0, 1.0, 1.5]), torch.tensor([0.9, 0.5, 0]))
    """

    def updates(counts: Counts) -> tuple[Update]:
        result = score(counts)
        if isinstance(result, Update):
            return (result,)
        expected = counts.false_positives.shape
        if not isinstance(result, Tensor) or result.shape != expected:
            got = f"a tensor {tuple(result.shape)}" if isinstance(result, Tensor) else f"{result!r}"
            raise ValueError(f"score: expected errors {tuple(expected)} or an Update, got {got}")
        return (spread_error(result.detach().double(), counts),)

    prepared = prepare(logits, targets, delta, backend, algorithm, group)
    (value,), _ = prepared.evaluate(updates, parts=1)
    return value
