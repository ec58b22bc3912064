"""A loss whose forward and backward passes are replayed from CUDA graphs, without launching kernel after kernel.

P  positives, with padding      n  logits of one level
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .targets import SparseTargets, as_levels

Logits = Tensor | Sequence[Tensor]


def graphed_loss(
    loss: Callable[[Logits, SparseTargets], Any], logits: Logits, targets: SparseTargets
) -> Callable[[Logits, SparseTargets], Any]:
    """The same `loss`, captured once (`torch.cuda.make_graphed_callables`) and replayed with other values.

    A training step calls it as it would call the loss, and `backward()` replays the backward pass. Static are: the
    number of levels, the shapes and dtypes of `logits`, P (`SparseTargets.padded` makes it so), whether there is a mask
    and padding, and every argument that `loss` holds. Ground truth may be ragged, and every value may change. The
    results live in the graph's memory: the next call overwrites them.

    Args:
        loss: for instance `rank_sort`, or a `functools.partial` of it. No process group: its exchange waits.
        logits, targets: examples of the shapes to come; logits that require a gradient, on a CUDA device.

    Returns:
        A function of logits and targets that returns what `loss` does, attached to the graph of autograd.

    Raises:
        ValueError: no CUDA device, or, when it is called, inputs of other shapes or dtypes than the examples.

    Example:
        >>> targets = SparseTargets(index, quality, masks).padded(512)
        >>> loss = graphed_loss(rank_sort, logits, targets)
        >>> ranking, sorting = loss(other_logits, other_targets.padded(512))
        >>> (ranking + sorting).backward()
    """
    levels = as_levels(logits)
    if levels[0].device.type != "cuda":
        raise ValueError(f"logits: a CUDA graph needs a CUDA device, got {levels[0].device}")
    # copies: a leaf of the caller's may have a node of autograd that another stream made, which breaks the capture
    examples = {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
        for name, tensor in _flatten(logits, targets).items()
    }
    static = [(name, tensor.shape, tensor.dtype) for name, tensor in examples.items()]

    def unflattened(*tensors: Tensor) -> Any:
        named = dict(zip(examples, tensors, strict=True))
        given = [named.pop(f"logits[{level}]") for level in range(len(levels))]
        masks = [mask for name, mask in named.items() if name.startswith("targets.ignore")]
        what = SparseTargets(
            named["targets.index"], named["targets.quality"], masks or None, named.get("targets.valid")
        )
        return loss(given[0] if isinstance(logits, Tensor) else given, what)

    with torch.no_grad():
        result = loss(logits, targets)  # shows how the results are put together
    with warnings.catch_warnings():
        # make_graphed_callables warms up on one stream and captures on another, and warns of that itself
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
        replayed = torch.cuda.make_graphed_callables(unflattened, tuple(examples.values()))

    def replay(logits: Logits, targets: SparseTargets) -> Any:
        given = _flatten(logits, targets)
        if list(given) != list(examples):
            raise ValueError(f"captured with {', '.join(examples)}; got {', '.join(given)}")
        for (name, shape, dtype), tensor in zip(static, given.values(), strict=True):
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"{name}: captured with {tuple(shape)} {dtype}, got {tuple(tensor.shape)} {tensor.dtype}"
                )
        parts: Any = replayed(*given.values())
        return parts if isinstance(result, Tensor) else type(result)(*parts)

    return replay


def _flatten(logits: Logits, targets: SparseTargets) -> dict[str, Tensor]:
    """The tensors of a call by the names that messages give them."""
    found = {f"logits[{number}]": level for number, level in enumerate(as_levels(logits))}
    found |= {"targets.index": targets.index, "targets.quality": targets.quality}
    if targets.valid is not None:
        found["targets.valid"] = targets.valid
    ignore = targets.ignore
    masks = [] if ignore is None else [ignore] if isinstance(ignore, Tensor) else list(ignore)
    return found | {f"targets.ignore[{number}]": mask for number, mask in enumerate(masks)}
