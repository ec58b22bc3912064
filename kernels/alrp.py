"""aLRP loss, and the weight that balances its parts.

P  positives of this process      M  all logits
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .arguments import prepare
from .backends import AlgorithmName, BackendName
from .reference import dense_alrp
from .scores import Loss, alrp_updates
from .targets import Targets

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LOSS = Loss("alrp", alrp_updates, 1)


class AlrpLoss(NamedTuple):
    """The two parts of aLRP loss, () or (S,) each; its published form is `classification + balanced localisation`."""

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
    segments: int | Sequence[int] | None = None,
) -> AlrpLoss:
    """Average Localisation-Recall-Precision loss: precision and localisation in one ranking.

    Oksuz, Cam, Akbas and Kalkan, "A Ranking-based, Balanced Loss Function Unifying Classification and Localisation in
    Object Detection", NeurIPS 2020. The classification part has the gradient of the logits, where a positive's error
    includes the localisation errors above it. The localisation part has the gradient of `localisation_error`, with
    the ranks held fixed. `SelfBalance` gives the localisation part its weight.

    Args:
        logits, targets, backend, algorithm, group, segments: as in `rank_sort`.
        localisation_error: (P,) float in [0, 1], one for each positive (1 - IoU or GIoU loss, scaled to at most 1), in
            the order of `SparseTargets.index`, or of the raveled levels for dense targets.
        delta: half-width of the smoothed step, in logits; 1 in the publication.

    Returns:
        `AlrpLoss(classification, localisation)`; both 0 without positives.

    Raises:
        ValueError, TypeError: as `rank_sort`; `localisation_error` of another shape, dtype or device.
    """
    prepared = prepare(logits, targets, delta, backend, algorithm, group, segments)
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
    *classification, localisation = prepared.evaluate(LOSS, own)
    if prepared.dense:
        classification = prepared.evaluate_densely(dense_alrp, own.detach())
    return AlrpLoss(classification[0], localisation)


class SelfBalance(nn.Module):
    """aLRP's weight of the localisation part: the ratio of the whole loss to that part, over the last window.

    Section 4.3 of the aLRP paper. The weight begins at `start` and is renewed after every `window` training steps
    (published: 50, and 7330 steps, an epoch of COCO at 16 images). It lives in buffers, so checkpoints keep it, and
    reading it costs no host sync. The buffers stay float32 in a module of another dtype: a float16 sum of steps would
    end at 2048.
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
        self.register_buffer("weight", torch.tensor(start, dtype=torch.float32))
        for name in ("classification", "localisation", "steps"):  # sums over the window so far
            self.register_buffer(name, torch.zeros((), dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SelfBalance":
        """What `to`, `half` and the like do: to the device alone."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

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
