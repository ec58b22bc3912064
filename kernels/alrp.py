"""The public functions of the losses that rank by precision: AP loss and aLRP loss, the paper's predecessors.

P  positives      R  positives of all processes that share a ranking (P without a group)      M  all logits
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .arguments import Prepared, prepare
from .backends import AlgorithmName, BackendName
from .reference import dense_alrp, dense_average_precision
from .scores import alrp_updates, average_precision_updates
from .targets import Masses, Targets, gather_levels
from .torch_step import self_pair

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Sums of reciprocal ranks are taken in whole units: the same in any order, also on a GPU.
UNITS = float(1 << 40)


class AlrpLoss(NamedTuple):
    """The two parts of aLRP loss, 0-d tensors; its published form is `classification + balanced localisation`."""

    classification: Tensor  # 1 - mean precision, with aLRP's update
    localisation: Tensor  # mean over the positives of the localisation errors at or above each, over its rank


def average_precision(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    *,
    delta: float = 1.0,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
) -> Tensor:
    """AP loss: 1 minus the mean interpolated precision at the positives.

    Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", CVPR 2019, section 3.2, with the
    interpolation of its published code: a precision is raised to the largest at equal or higher recall. Each positive
    counts itself as 1. Qualities do not matter. Time O(M + P log P) by breakpoints.

    Args:
        logits, targets, backend, algorithm, group: as in `rank_sort`.
        delta: half-width of the smoothed step, in logits; 1 in the publication.

    Returns:
        The loss, (), in [0, 1), float32 (float64 for float64 logits); 0 without positives.

    Raises:
        ValueError, TypeError: as `rank_sort`.
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group)
    if prepared.backend == "reference":
        return prepared.evaluate_densely(dense_average_precision)[0]
    (value,), _ = prepared.evaluate(average_precision_updates, parts=1)
    return value


def alrp(
    logits: Tensor | Sequence[Tensor],
    targets: Targets,
    localisation_error: Tensor,
    *,
    delta: float = 1.0,
    backend: BackendName = "auto",
    algorithm: AlgorithmName = "auto",
    group: "ProcessGroup | None" = None,
) -> AlrpLoss:
    """Average Localisation-Recall-Precision loss: precision and localisation in one ranking.

    Oksuz, Cam, Akbas and Kalkan, "A Ranking-based, Balanced Loss Function Unifying Classification and Localisation in
    Object Detection", NeurIPS 2020. The classification part has the gradient of the logits, in which a positive is
    charged with the localisation errors above it too; the localisation part that of `localisation_error`, with the
    ranks held fixed. `SelfBalance` gives the localisation part its weight.

    Args:
        logits, targets, backend, algorithm, group: as in `rank_sort`.
        localisation_error: (P,) float in [0, 1], one for each positive (1 - IoU or GIoU loss, over what makes it 1 at
            the least localised), in the order of `SparseTargets.index`, or of the raveled levels for dense targets.
        delta: half-width of the smoothed step, in logits; 1 in the publication.

    Returns:
        `AlrpLoss(classification, localisation)`; both 0 without positives.

    Raises:
        ValueError, TypeError: as `rank_sort`; `localisation_error` of another shape, dtype or device.
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group)
    expected = prepared.examples.index.shape
    if not isinstance(localisation_error, Tensor):
        raise TypeError(f"localisation_error: expected a tensor, got {type(localisation_error).__name__}")
    if torch.compiler.is_compiling() and localisation_error.dim() == 1:
        torch._check(localisation_error.shape[0] == expected[0])  # the P of dense targets: for the run to compare
    if localisation_error.shape != expected or not localisation_error.is_floating_point():
        raise ValueError(
            f"localisation_error: expected {tuple(expected)} float, one for each positive, got "
            f"{tuple(localisation_error.shape)} {localisation_error.dtype}"
        )
    if localisation_error.device != prepared.home:
        raise ValueError(f"localisation_error: on {localisation_error.device}, but the logits are on {prepared.home}")
    own = localisation_error.to(prepared.examples.index.device)
    everybodys = prepared.shared.gather(own.detach().double())
    score = partial(alrp_updates, localisation_error=everybodys)
    if prepared.backend == "reference":
        (classification,) = prepared.evaluate_densely(partial(dense_alrp, localisation_error=own.detach()))
        _, masses = prepared.evaluate(score, parts=1)
    else:
        (classification,), masses = prepared.evaluate(score, parts=1)
    localisation = _localisation(prepared, masses, own, everybodys).to(classification)
    return AlrpLoss(classification, localisation)


def _localisation(prepared: Prepared, masses: Masses, own: Tensor, everybodys: Tensor) -> Tensor:
    """() the mean over the positives k of the sum of the errors ranked at or above k, over rank_k.

    The sum is turned around: error j is charged by every positive at or below it, c_j = sum of 1 / rank_k, and half by
    those that tie with it: the mean of the orders that a sort could put them in.
    """
    shared = prepared.shared
    if not torch.compiler.is_compiling() and not shared.total:
        return own.sum()  # of nothing
    logits = shared.gather(gather_levels(prepared.examples.levels, prepared.examples.index))
    rank = 1 - self_pair(prepared.delta) + masses.true_positives + masses.false_positives
    ascending, order = logits.sort()
    shares = (UNITS / rank[order]).round().long()
    below = torch.cat([shares.new_zeros(1), shares.cumsum(0)])  # (R + 1,)
    ties = below[torch.searchsorted(ascending, ascending)] + below[torch.searchsorted(ascending, ascending, right=True)]
    charge = torch.empty_like(rank).scatter_(0, order, (ties + shares).double() / (2 * UNITS * shared.divisor))
    charge = charge + 0 * rank.sum()  # whole units would lose a NaN
    value = (everybodys * charge).sum()
    # the others' errors are numbers here; data-parallel averaging takes back what the group's size multiplies
    attached = (own * charge[shared.own]).sum() * shared.world
    return value + (attached - attached.detach())  # so bracketed, to the last bit the same in every process


class SelfBalance(nn.Module):
    """aLRP's weight of the localisation part: what the whole loss was over what that part was, in the last window.

    Section 4.3 of the aLRP paper. The weight begins at `start` and is renewed after every `window` training steps
    (published: 50, and 7330 steps, an epoch of COCO at 16 images). It lives in buffers, so checkpoints keep it, and
    reading it costs no host sync.
    """

    weight: Tensor
    classification: Tensor
    localisation: Tensor
    steps: Tensor

    def __init__(self, start: float = 50.0, window: int = 7330) -> None:
        super().__init__()
        if start <= 0:
            raise ValueError(f"start: expected a number > 0, got {start!r}")
        if window < 1:
            raise ValueError(f"window: expected a number of steps >= 1, got {window!r}")
        self.window = window
        self.register_buffer("weight", torch.tensor(float(start)))
        for name in ("classification", "localisation", "steps"):  # sums over the window so far
            self.register_buffer(name, torch.zeros(()))

    def forward(self, loss: AlrpLoss) -> Tensor:
        """() the balanced sum of both parts; a training step is counted."""
        balanced = loss.classification + self.weight * loss.localisation
        if self.training:
            with torch.no_grad():
                self.classification += loss.classification
                self.localisation += loss.localisation
                self.steps += 1
                full = self.steps >= self.window
                renewed = (self.classification + self.localisation) / self.localisation
                usable = full & (self.localisation > 0)
                self.weight.copy_(torch.where(usable, renewed, self.weight))
                for total in (self.classification, self.localisation, self.steps):
                    total.masked_fill_(full, 0)
        return balanced
