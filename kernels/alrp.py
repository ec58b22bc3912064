"""aLRP loss, and the weight that balances its parts.

P  positives of this process      R  those of all processes of the group (P without one)      M  all logits
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .arguments import Prepared, prepare
from .backends import AlgorithmName, BackendName
from .places import gather_levels
from .reference import dense_alrp
from .scores import alrp_updates
from .targets import Targets
from .torch_step import self_pair

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Reciprocal ranks are added in whole units: the sum is the same in any order, also on a GPU.
RANK_UNITS = float(1 << 40)


class AlrpLoss(NamedTuple):
    """The two parts of aLRP loss, 0-d tensors; its published form is `classification + balanced localisation`."""

    classification: Tensor  # 1 - mean precision, with aLRP's update
    localisation: Tensor  # mean over the positives k of the localisation errors ranked at or above k, over rank_k


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
    Object Detection", NeurIPS 2020. The classification part has the gradient of the logits, where a positive's error
    includes the localisation errors above it. The localisation part has the gradient of `localisation_error`, with
    the ranks held fixed. `SelfBalance` gives the localisation part its weight.

    Args:
        logits, targets, backend, algorithm, group: as in `rank_sort`.
        localisation_error: (P,) float in [0, 1], one for each positive (1 - IoU or GIoU loss, scaled to at most 1), in
            the order of `SparseTargets.index`, or of the raveled levels for dense targets.
        delta: half-width of the smoothed step, in logits; 1 in the publication.

    Returns:
        `AlrpLoss(classification, localisation)`; both 0 without positives.

    Raises:
        ValueError, TypeError: as `rank_sort`; `localisation_error` of another shape, dtype or device.
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group)
    expected = prepared.ranking.index.shape
    if not isinstance(localisation_error, Tensor):
        raise TypeError(f"localisation_error: expected a tensor, got {type(localisation_error).__name__}")
    if torch.compiler.is_compiling() and localisation_error.dim() == 1:
        torch._check(localisation_error.shape[0] == expected[0])  # dense targets: P is known at run time only
    if localisation_error.shape != expected or not localisation_error.is_floating_point():
        raise ValueError(
            f"localisation_error: expected {tuple(expected)} float, one for each positive, got "
            f"{tuple(localisation_error.shape)} {localisation_error.dtype}"
        )
    device = prepared.output_device
    if localisation_error.device != device:
        raise ValueError(f"localisation_error: on {localisation_error.device}, but the logits are on {device}")
    own = localisation_error.to(prepared.ranking.index.device)
    all_errors = prepared.group.gather(own.detach().double())
    score = partial(alrp_updates, localisation_error=all_errors)
    if prepared.dense:
        (classification,) = prepared.evaluate_densely(partial(dense_alrp, localisation_error=own.detach()))
        _, false_positives, true_positives = prepared.evaluate(score, parts=1)
    else:
        (classification,), false_positives, true_positives = prepared.evaluate(score, parts=1)
    rank = 1 - self_pair(prepared.delta) + true_positives + false_positives
    localisation = _localisation(prepared, rank, own, all_errors).to(classification)
    return AlrpLoss(classification, localisation)


def _localisation(
    prepared: Prepared,
    rank: Tensor,  # (R,) float64
    own: Tensor,  # (P,) localisation errors of this process, attached to the graph
    all_errors: Tensor,  # (R,) float64, those of all processes
) -> Tensor:
    """() the mean over the positives k of the sum of the errors ranked at or above k, over rank_k.

    Computed as the sum over j of error j times c_j. c_j is the sum of 1 / rank_k over j itself and the positives k
    below it; each tie counts half: the mean over all orders in which a sort could put tied logits.
    """
    group = prepared.group
    if not torch.compiler.is_compiling() and not group.total:
        return own.sum()  # 0, attached to the graph
    logits = group.gather(gather_levels(prepared.ranking.levels, prepared.ranking.index))
    ascending, order = logits.sort()
    shares = (RANK_UNITS / rank[order]).round().long()
    below = torch.cat([shares.new_zeros(1), shares.cumsum(0)])  # (R + 1,)
    ties = below[torch.searchsorted(ascending, ascending)] + below[torch.searchsorted(ascending, ascending, right=True)]
    charge = torch.empty_like(rank).scatter_(0, order, (ties + shares).double() / (2 * RANK_UNITS * group.divisor))
    charge = charge + 0 * rank.sum()  # whole units would lose a NaN
    value = (all_errors * charge).sum()
    # only this process's errors have a gradient here; data-parallel averaging divides it by the group's size
    attached = (own * charge[group.own]).sum() * group.size
    return value + (attached - attached.detach())  # with these brackets, the same bits in every process


class SelfBalance(nn.Module):
    """aLRP's weight of the localisation part: the ratio of the whole loss to that part, over the last window.

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
        """() the balanced sum of both parts; in training mode each call counts as one step."""
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
