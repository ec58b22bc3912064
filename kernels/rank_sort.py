"""The Rank & Sort loss.

P  positives      M  all logits of one ranking
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .arguments import prepare
from .backends import AlgorithmName, BackendName
from .reference import dense_rank_sort
from .scores import Loss, rank_sort_updates
from .targets import Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LOSS = Loss("rank_sort", rank_sort_updates, 2)


class RankSortLoss(NamedTuple):
    """The two parts of the Rank & Sort loss in [0, 1), 0-d tensors or (S,); the paper's loss is their sum."""

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
    segments: int | Sequence[int] | None = None,
) -> RankSortLoss:
    """Rank & Sort loss: every positive above all negatives, positives by their localisation quality.

    Oksuz, Cam, Akbas and Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
    section 4, equations 6 to 12. Exact: every logit takes part, nothing is sampled, bucketed or approximated. Time
    O(M + P log P + P^2) by breakpoints and O(P M) in tiles; memory O(P + M) with both.

    The gradient is the Identity Update of section 3.2, not the derivative of the value. Each part has its own:
    `(loss.ranking + loss.sorting).backward()` is the published loss. Either part may be scaled alone; the
    published code ignores the weight of the sorting part. There is no second derivative.

    Args:
        logits: float tensor of any shape, or a sequence of them (pyramid levels): one ranking over all of it. Computed
            in float32 whatever the dtype, in float64 for float64. Infinities are legal.
        targets: the quality of every positive, and which logits are ignored, in one of two forms.
            Dense: shape(s) of the logits, any real dtype; > 0: the quality (IoU, Dice; at most 1) of a positive,
            0: a negative, < 0: ignored. This form cannot express a positive of quality exactly 0: clamp it to a tiny
            number, or use the other form.
            Sparse: `SparseTargets(index, quality, ignore)`, which also saves a tensor as large as the logits. With
            its mask `valid`, a fixed number of positives may hold fewer.
        delta: half-width, in logits, of the interval over which the step between two logits is smoothed
            (delta_RS = 0.5 in the paper), from 1e-20 to 1e20; 0 is the hard step, with [x >= 0].
        backend: "auto" takes Triton on a GPU and torch operators on other devices; or "triton", "torch";
            "reference" evaluates the dense equations in O(P M) memory, for tests.
        algorithm: of the Triton backend. "breakpoints", which is "auto" too, passes over the logits once to count and
            once to scatter; "tiled" visits all pairs. The torch backend has breakpoints only.
        group: rank the logits of all processes of this group together. Each process passes its own logits, and all get
            the same values. The gradients are multiplied by the group's size, because data-parallel training averages
            them over the processes. Without a group each process ranks its own logits, as in the paper.
        segments: several rankings in one call, each with a value and gradients of its own, as if it were called alone.
            A number n: every level is cut into n equal parts, along its first dimension, and part b of all levels makes
            ranking b: one ranking an image. Or a sequence of lengths: consecutive ranges of the concatenation of the
            levels, such as `[level.numel() for level in logits]`: one ranking a tensor.

    Returns:
        `RankSortLoss(ranking, sorting)`, float32 (float64 for float64 logits), () each, or (S,) with S segments.
        Without positives both are 0, attached to the graph, with zero gradients. A NaN among the logits that are not
        ignored, or among the qualities, makes both values and every gradient NaN, except those of ignored logits, which
        are always 0.

    Raises:
        ValueError: a wrong shape, device or value; the message names the argument. Values are checked on a CPU only,
            and not inside `torch.compile`. Triton makes both values NaN for an index that lies in no level.
        TypeError: logits that are not float tensors.

    Example:
        >>> logits = torch.tensor([2.0, 1.0, 0.2, 1.5, 0.8, -1.0, 3.0], requires_grad=True)
        >>> loss = rank_sort(logits, torch.tensor([0.9, 0.5, 0.7, 0, 0, 0, -1]))
        >>> sum(loss).backward()
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group, segments)
    if prepared.dense:
        return RankSortLoss(*prepared.evaluate_densely(dense_rank_sort))
    return RankSortLoss(*prepared.evaluate(LOSS))
