"""Several rankings in one call (`segments=`) beside one call each: a detection transformer ranks 13 times a step.

M  logits of one ranking    S  rankings

16 images of 300 queries and 80 classes; 6 decoder layers, 6 denoising groups and the encoder.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from session import Session, milliseconds, significant
from shapes import SWEEP_STAGE, Shape, sample
from torch import Tensor

from rst.kernels import SparseTargets, rank_sort

TABLE = "segments"
RANKINGS = 13
EACH = Shape(120, 16 * 300 * 80 - 120)
SHAPE = f"DETR, {RANKINGS} rankings of 16 x 300 x 80"
TOGETHER, ALONE, ONE = f"{RANKINGS} rankings, one call", f"{RANKINGS} rankings, {RANKINGS} calls", "one ranking"

Result = tuple[Tensor, Tensor]  # the values (S, 2), the gradient (S, M)


def obstacle() -> str | None:
    """Why one call cannot be measured, or None."""
    return None if "segments" in inspect.signature(rank_sort).parameters else "rank_sort has no segments="


@dataclass(frozen=True)
class Rankings:
    """The logits of S rankings, with each one's targets, and the same for one call."""

    logits: Tensor  # (S, M)
    each: list[SparseTargets]
    together: SparseTargets  # indices into the S M logits


def rankings(shape: Shape = EACH, count: int = RANKINGS, device: torch.device | str = "cpu") -> Rankings:
    """Different rankings of one shape."""
    samples = [sample(shape, SWEEP_STAGE, device, seed) for seed in range(count)]
    size = len(samples[0].logits)
    index = torch.cat([size * place + data.sparse.index for place, data in enumerate(samples)])
    quality = torch.cat([data.sparse.quality for data in samples])
    return Rankings(
        torch.stack([data.logits for data in samples]),
        [data.sparse for data in samples],
        SparseTargets(index, quality),
    )


def in_one_call(data: Rankings) -> Result:
    """All rankings by `segments=`."""
    logits = data.logits.detach().requires_grad_()
    segments: dict[str, Any] = {"segments": len(logits)}
    loss = rank_sort(logits, data.together, **segments)
    return _result(torch.stack([loss.ranking, loss.sorting], 1), logits)


def one_by_one(data: Rankings) -> Result:
    """A call for each ranking."""
    logits = data.logits.detach().requires_grad_()
    losses = [rank_sort(row, targets) for row, targets in zip(logits.unbind(), data.each, strict=True)]
    return _result(torch.stack([torch.stack(loss) for loss in losses]), logits)


def first_alone(data: Rankings) -> Result:
    """The first ranking."""
    logits = data.logits[:1].detach().requires_grad_()
    return _result(torch.stack(rank_sort(logits, data.each[0]))[None], logits)


RUNS: dict[str, Callable[[Rankings], Result]] = {ONE: first_alone, ALONE: one_by_one, TOGETHER: in_one_call}


def _result(values: Tensor, logits: Tensor) -> Result:
    values.sum().backward()
    assert logits.grad is not None
    return values.detach(), logits.grad


def segments_table(session: Session) -> list[str]:
    """Medians, ratios to one ranking and to one call each."""
    found = {name: session.find(table=TABLE, shape=SHAPE, contender=name) for name in RUNS}
    if not any(found.values()):
        return ["", "Not measured in this session."]
    lines = ["", f"{SHAPE}, {EACH.positives} positives each.", ""]
    lines += [f"| contender | ms | / {ONE} | / {RANKINGS} calls |", "|---|---|---|---|"]
    for name, record in found.items():
        ratios = [
            significant(record.median / other.median) if record and other else "–"
            for other in (found[ONE], found[ALONE])
        ]
        lines.append(f"| {name} | {milliseconds(record.median) if record else '–'} | {' | '.join(ratios)} |")
    reasons = [case["reason"] for case in session.left_out(table=TABLE)]
    return lines + [line for reason in reasons for line in ("", f"Left out: {TOGETHER}: {reason}.")]


def segment_ratios(session: Session, under: str) -> list[float]:
    """The time of one call for all rankings divided by the time of `under`."""
    together, other = (session.find(table=TABLE, shape=SHAPE, contender=name) for name in (TOGETHER, under))
    return [together.median / other.median] if together and other else []
