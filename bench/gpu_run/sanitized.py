"""Every Triton kernel at small sizes, and nothing else: what NVIDIA's compute-sanitizer runs.

python -m gpu_run.sanitized

Results are not looked at: the tests do that. A launch under the sanitizer takes many times as long, and the equations
in torch operators that the tests compare with would take most of it. Fails if a kernel of the losses was not launched.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from inspect import signature
from itertools import product
from typing import Any

import torch
from torch import Tensor

from rst.kernels import SparseTargets, alrp, average_precision, rank_sort, ranking_loss
from rst.kernels.triton_pairs_tree import sorting_demotion_sorted, sorting_sums_sorted, weigh_sorted

from .source import kernels

# Sizes of levels: a single logit, and ends that fill neither a vector of loads nor a tile
LEVELS = ((1,), (4099,), (20011, 5003, 1, 1259, 317))
POSITIVES = (0, 1, 40, 700)
DELTAS = (0.5, 0.0)
ALGORITHMS = ("breakpoints", "tiled")


def _lost_ranks(counts: Any) -> Tensor:
    return counts.false_positives / (1 + counts.false_positives)


# (levels, targets, localisation errors (P,), **more) -> values
LOSSES: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "rank_sort": lambda levels, targets, errors, **more: rank_sort(levels, targets, **more),
    "average_precision": lambda levels, targets, errors, **more: average_precision(levels, targets, **more),
    "alrp": lambda levels, targets, errors, **more: alrp(levels, targets, errors, **more),
    "ranking_loss": lambda levels, targets, errors, **more: ranking_loss(_lost_ranks, levels, targets, **more),
}


def calls(device: torch.device) -> Iterator[Callable[[], object]]:
    """Forward and backward of every loss, algorithm, size and option; then the passes over very many positives."""
    for algorithm, name, sizes, positives, delta in product(ALGORITHMS, LOSSES, LEVELS, POSITIVES, DELTAS):
        size = sum(sizes)
        for segments in (None,) if size < 4 else (None, (1, size // 3, size - 1 - size // 3)):
            if positives <= size:
                more = {"backend": "triton", "algorithm": algorithm, "delta": delta, "segments": segments}
                yield partial(_differentiate, LOSSES[name], sizes, positives, device, more)
    for size, delta in product((1, 700), DELTAS):
        for passes in (sorting_sums_sorted, sorting_demotion_sorted, weigh_sorted):
            yield partial(_ask_tree, passes, size, delta, device)


def _differentiate(
    loss: Callable[..., Tensor | tuple[Tensor, ...]],
    sizes: tuple[int, ...],
    positives: int,
    device: torch.device,
    more: dict[str, Any],
) -> None:
    """With a mask of ignored logits where there are several levels, and with padding after many positives."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(size, generator=generator).to(device).requires_grad_() for size in sizes]
    index = torch.randperm(sum(sizes), generator=generator)[:positives].sort().values.to(device)
    quality = (torch.rand(positives, generator=generator) / 2 + 0.5).to(device)
    ignore = [torch.rand(size, generator=generator).to(device) < 0.1 for size in sizes] if len(sizes) > 1 else None
    valid = torch.arange(positives, device=device) < positives * 3 // 4 if positives > 4 else None
    found = loss(levels, SparseTargets(index, quality, ignore, valid), 1 - quality, **more)
    torch.stack([part.sum() for part in ([found] if isinstance(found, Tensor) else found)]).sum().backward()


def _ask_tree(passes: Callable[..., Tensor], size: int, delta: float, device: torch.device) -> None:
    logits, quality, spread = torch.rand(3, size, generator=torch.Generator().manual_seed(0)).to(device)
    begin = torch.zeros(size, dtype=torch.int32, device=device)
    given = {
        "positives": logits.sort().values,
        "quality": quality,
        "spread": spread,
        "values": spread,
        "begin": begin,
        "end": torch.full_like(begin, size),
        "delta": delta,
    }
    passes(**{name: given[name] for name in signature(passes).parameters})


def not_launched() -> list[str]:
    """Kernels that no call of this process has compiled, and so none has launched."""
    functions = {
        f"{file}.{name}": getattr(import_module(f"rst.kernels.{file}"), name)
        for file, names in kernels().items()
        for name in names
    }
    return [
        name for name, function in functions.items() if not any(cache[0] for cache in function.device_caches.values())
    ]


def main() -> int:
    """Runs the calls; the exit code is 1 if a kernel was left out."""
    done = 0
    for call in calls(torch.device("cuda")):
        call()
        torch.cuda.synchronize()
        done += 1
        if done % 25 == 0:
            print(f"{done} calls", flush=True)
    missing = not_launched()
    print(f"{done} calls; " + (f"never launched: {', '.join(missing)}" if missing else "every kernel was launched"))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
