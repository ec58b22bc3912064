"""The public functions: what goes in, what comes out, and which backend runs.

P  positives      M  all logits of one ranking
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .autograd import DenseRankSort, RankSort
from .backends import BackendName, choose_backend
from .targets import Targets, as_levels, flatten_examples, targets_to

# Devices that cannot hold the tables of a ranking, which are float64: their logits are ranked on the CPU.
NO_FLOAT64 = {"mps"}


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
) -> RankSortLoss:
    """Rank & Sort loss: every positive above all negatives, positives by their localisation quality.

    Oksuz, Cam, Akbas and Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
    section 4, equations 6 to 12. Exact: every logit takes part, nothing is sampled, bucketed or approximated. Time
    O(M + P log P + P^2) on the torch backend and O(P M) on Triton; memory O(P + M) on both.

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

    Returns:
        `RankSortLoss(ranking, sorting)`, float32 (float64 for float64 logits). Without positives both are 0, attached
        to the graph, with zero gradients. A NaN among the logits that are not ignored, or among the qualities, makes
        both values and every gradient NaN, except those of ignored logits, which are always 0.

    Raises:
        ValueError: shapes, devices or values that do not fit, by the argument's name.
        TypeError: logits that are not float tensors.

    Example:
        >>> logits = torch.tensor([2.0, 1.0, 0.2, 1.5, 0.8, -1.0, 3.0], requires_grad=True)
        >>> loss = rank_sort(logits, torch.tensor([0.9, 0.5, 0.7, 0, 0, 0, -1]))
        >>> sum(loss).backward()
    """
    if not (isinstance(delta, (int, float)) and math.isfinite(delta) and delta >= 0):
        raise ValueError(f"delta: expected a finite number >= 0, got {delta!r}")
    levels = as_levels(logits)
    chosen = choose_backend(backend, levels[0])
    home = levels[0].device
    if home.type in NO_FLOAT64:
        levels, targets = [level.cpu() for level in levels], targets_to(targets, "cpu")
    examples = flatten_examples(levels, targets)
    if chosen is None:
        ranking, sorting = DenseRankSort.apply(examples, float(delta), *levels)
    else:
        ranking, sorting = RankSort.apply(chosen, examples, float(delta), *levels)
    return RankSortLoss(ranking.to(home), sorting.to(home))
