"""From the caller's logits and targets (tensors, pyramid levels, dense labels, indices) to a `Ranking`.

    M  logits of all levels together      n  logits of one level      P  positives

A ranking has flat levels, the positives' index and quality, and per level a tensor that shows which logits are
ignored. Nothing of size M is copied unless a level is not contiguous. One call may hold several rankings, its segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .places import level_offsets, rare_places
from .segments import Segments, cut_levels


@dataclass(frozen=True)
class SparseTargets:
    """The positives of a ranking by their index; every other logit is a negative unless it is ignored.

    The natural form for a detector, which assigns few of its candidates. A positive whose quality is exactly 0 stays a
    positive, which dense targets cannot express.
    """

    index: Tensor  # (P,) int64, distinct positions in the concatenation of the raveled levels
    quality: Tensor  # (P,) localisation quality (IoU, Dice) in [0, 1]
    ignore: Tensor | Sequence[Tensor] | None = None  # bool, the shape(s) of the logits; a positive is never ignored
    valid: Tensor | None = None  # (P,) bool; False: padding, no positive, whatever its index and quality

    def padded(self, positives: int) -> "SparseTargets":
        """The same targets with `positives` entries, the last of them padding: one shape for steps with fewer or more.

        A CUDA graph or a compiled graph of fixed shapes needs it. Raises ValueError where they do not fit.
        """
        missing = positives - len(self.index)
        if missing < 0:
            raise ValueError(f"positives: {len(self.index)} do not fit into {positives}")
        valid = torch.ones_like(self.index, dtype=torch.bool) if self.valid is None else self.valid
        index, quality, valid = (pad(each, (0, missing)) for each in (self.index, self.quality, valid))
        return SparseTargets(index, quality, self.ignore, valid)


Targets = Tensor | Sequence[Tensor] | SparseTargets


@dataclass(frozen=True)
class Ranking:
    """The logits and positives of one loss call, in the form that every backend takes."""

    levels: list[Tensor]  # (n,) each, float, contiguous
    index: Tensor  # (P,) int64 into the concatenation of the levels
    quality: Tensor  # (P,) float
    ignores: list[Tensor | None]  # (n,) each: bool (True: ignored), or dense labels (negative: ignored), or nothing
    segments: Segments
    valid: Tensor | None = None  # (P,) bool; False: padding
    masked: Tensor | None = None  # (P,) bool: positives that `ignores` covers stay positives; None: found when needed

    @property
    def size(self) -> int:
        """M."""
        return sum(level.numel() for level in self.levels)

    @property
    def whole(self) -> bool:
        """Whether all logits and positives are one ranking, without padding."""
        return not self.segments.shape and self.valid is None

    def segment_of_positives(self) -> Tensor:
        """(P,) int64, the segment of each positive, and the number of segments for padding."""
        found = torch.zeros_like(self.index)
        if self.segments.shape:
            offsets = level_offsets(self.levels)
            for level, begin, size, parts, first in self.segments.pieces:
                local = self.index - (offsets[level] + begin)
                inside = (local >= 0) & (local < size * parts)
                found = torch.where(inside, first + local.div(size, rounding_mode="floor"), found)
        return found if self.valid is None else found.masked_fill(~self.valid, self.segments.number)

    @property
    def computing_dtype(self) -> torch.dtype:
        """The dtype of all computation: float64 stays, every other dtype is widened to float32."""
        return torch.float64 if self.levels[0].dtype == torch.float64 else torch.float32

    def levels_with_ignores(self) -> list[tuple[Tensor, Tensor | None]]:
        """Each level's logits with its entry of `ignores`."""
        return list(zip(self.levels, self.ignores, strict=True))

    def new_gradient(self) -> tuple[Tensor, list[Tensor]]:
        """An unwritten gradient (M,) of the logits' dtype, and the part (n,) of it that belongs to each level."""
        sizes = [level.numel() for level in self.levels]
        flat = self.levels[0].new_empty(sum(sizes))
        return flat, list(flat.split(sizes))


def as_levels(logits: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The levels of a ranking as a list, checked to share one float dtype and one device."""
    levels: list[Tensor] = [logits] if isinstance(logits, Tensor) else list(logits)
    if not levels:
        raise ValueError("logits: the sequence of levels is empty")
    for position, level in enumerate(levels):
        name = "logits" if isinstance(logits, Tensor) else f"logits[{position}]"
        if not isinstance(level, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(level).__name__}")
        if not level.is_floating_point():
            raise TypeError(f"{name}: expected a float tensor, got {level.dtype}")
        if level.dtype != levels[0].dtype or level.device != levels[0].device:
            raise ValueError(
                f"{name}: {level.dtype} on {level.device}, but logits[0] is {levels[0].dtype} on {levels[0].device}"
            )
    return levels


def build_ranking(levels: list[Tensor], targets: Targets, segments: int | Sequence[int] | None = None) -> Ranking:
    """The ranking of `levels` (checked) and their `targets`; dense targets cost one host sync, to learn P."""
    flat = [_flat(level.detach()) for level in levels]
    cut = cut_levels([level.numel() for level in flat], segments)
    if isinstance(targets, SparseTargets):
        return _from_sparse(flat, levels, targets, cut)
    labels = _matching(levels, [targets] if isinstance(targets, Tensor) else list(targets), "targets")
    labels = [_flat(label.detach()) for label in labels]
    # a NaN is kept: dropped here, a wrong quality would pass unnoticed
    places = [rare_places(label, lambda block: block <= 0) for label in labels]
    quality = torch.cat([label[place] for label, place in zip(labels, places, strict=True)])
    offsets = level_offsets(flat)
    index = torch.cat([place + offset for place, offset in zip(places, offsets, strict=True)])
    if not quality.is_floating_point():
        quality = quality.float()
    _check_quality(quality, "targets")
    return Ranking(flat, index, quality, [label if _may_ignore(label) else None for label in labels], cut)


def _flat(tensor: Tensor) -> Tensor:
    """The values (n,), one after the other in memory: `reshape` keeps the stride of, say, `logits[..., 1]`."""
    return tensor.reshape(-1).contiguous()


def targets_to(targets: Targets, device: torch.device | str) -> Targets:
    """The same targets with all their tensors on `device`."""
    if isinstance(targets, Tensor):
        return targets.to(device)
    if not isinstance(targets, SparseTargets):
        return [label.to(device) for label in targets]
    ignore = targets.ignore
    if ignore is not None:
        ignore = ignore.to(device) if isinstance(ignore, Tensor) else [mask.to(device) for mask in ignore]
    valid = None if targets.valid is None else targets.valid.to(device)
    return SparseTargets(targets.index.to(device), targets.quality.to(device), ignore, valid)


def _may_ignore(labels: Tensor) -> bool:
    """Whether dense labels (n,) may have an ignored one: known on a CPU; a GPU would have to be waited for."""
    if labels.dtype == torch.bool:
        return False
    if torch.compiler.is_compiling():
        return True
    return labels.device.type != "cpu" or not len(labels) or not bool(labels.amin() >= 0)


def _from_sparse(flat: list[Tensor], levels: list[Tensor], targets: SparseTargets, segments: Segments) -> Ranking:
    _check_sparse(targets, flat)
    ignore = targets.ignore
    ignores: list[Tensor | None] = [None] * len(flat)
    if ignore is not None:
        masks = _matching(levels, [ignore] if isinstance(ignore, Tensor) else list(ignore), "targets.ignore")
        for mask in masks:
            if mask.dtype != torch.bool:
                raise ValueError(f"targets.ignore: expected bool, got {mask.dtype}")
        ignores = [_flat(mask) for mask in masks]
    valid = None if targets.valid is None else targets.valid.contiguous()
    return Ranking(flat, targets.index.contiguous(), targets.quality.detach().contiguous(), ignores, segments, valid)


def _check_sparse(targets: SparseTargets, flat: list[Tensor]) -> None:
    index, quality, valid = targets.index, targets.quality, targets.valid
    for name, tensor in (("index", index), ("quality", quality), ("valid", valid)):
        if not isinstance(tensor, Tensor) and (name != "valid" or tensor is not None):
            raise TypeError(f"targets.{name}: expected a tensor, got {type(tensor).__name__}")
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(f"targets.index: expected (P,) int64, got {tuple(index.shape)} {index.dtype}")
    if quality.shape != index.shape or not quality.is_floating_point():
        raise ValueError(
            f"targets.quality: expected {tuple(index.shape)} float, got {tuple(quality.shape)} {quality.dtype}"
        )
    if valid is not None and (valid.shape != index.shape or valid.dtype != torch.bool):
        raise ValueError(f"targets.valid: expected {tuple(index.shape)} bool, got {tuple(valid.shape)} {valid.dtype}")
    for name, tensor in (("index", index), ("quality", quality), ("valid", valid)):
        if tensor is not None and tensor.device != flat[0].device:
            raise ValueError(f"targets.{name}: on {tensor.device}, but the logits are on {flat[0].device}")
    if not _may_read(index):
        return
    if valid is not None:
        index, quality = index[valid], quality[valid]
    if len(index):
        size = sum(level.numel() for level in flat)
        ordered = index.sort().values
        if ordered[0] < 0 or ordered[-1] >= size:
            wrong = int(ordered[0] if ordered[0] < 0 else ordered[-1])
            raise ValueError(f"targets.index: {wrong} is outside the {size} logits")
        repeated = (ordered[1:] == ordered[:-1]).nonzero()
        if len(repeated):
            raise ValueError(f"targets.index: {int(ordered[repeated[0]])} occurs more than once")
    _check_quality(quality.detach(), "targets.quality")


def _matching(levels: list[Tensor], tensors: list[Tensor], name: str) -> list[Tensor]:
    if len(tensors) != len(levels):
        raise ValueError(f"{name}: {len(tensors)} tensors for {len(levels)} levels of logits")
    for position, (level, tensor) in enumerate(zip(levels, tensors, strict=True)):
        place = f"{name}[{position}]" if len(levels) > 1 else name
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{place}: expected a tensor, got {type(tensor).__name__}")
        if tensor.shape != level.shape:
            raise ValueError(f"{place}: shape {tuple(tensor.shape)}, but the logits have {tuple(level.shape)}")
        if tensor.device != level.device:
            raise ValueError(f"{place}: on {tensor.device}, but the logits are on {level.device}")
    return tensors


def _may_read(tensor: Tensor) -> bool:
    """Whether values are checked: on an accelerator that costs a host sync, in a compiled graph a graph break."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_quality(quality: Tensor, name: str) -> None:
    # The loss is defined for any finite quality. The margin allows for the rounding of an IoU.
    if _may_read(quality) and len(quality):
        low, high = (float(bound) for bound in quality.aminmax())
        if low < 0 or high > 1 + 1e-3:
            raise ValueError(f"{name}: a quality of {low if low < 0 else high:g} is outside [0, 1]")
