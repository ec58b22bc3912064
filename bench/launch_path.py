"""What a loss costs the host: Triton's launch path in Python, kernel by kernel, and our own code between the launches.

    python bench/launch_path.py [--repeats N]

Needs Triton, but no GPU: a driver that knows a target and no device takes the place of Triton's own. So a launch ends
before its last step, the call of the CUDA driver, which takes some microseconds more.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from rst.kernels import SparseTargets, on_triton, rank_sort
from rst.kernels.rank_sort import LOSS
from rst.kernels.targets import Ranking, build_ranking

POSITIVES, SIZE = 40, 1 << 20


class TargetAlone:
    """A Triton driver for compilation: nothing can be launched."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


class Launches:
    """Stands in for `triton_step.launch`: times what comes before the call of the driver."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.found: list[tuple[str, float]] = []  # kernel, microseconds

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        kernel.warmup(*arguments, grid=grid, **constants)  # compiles
        self.found.append(
            (kernel.fn.__name__, best(lambda: kernel.warmup(*arguments, grid=grid, **constants), self.repeats))
        )


def best(function: Any, repeats: int) -> float:
    """The least microseconds of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


def inputs(levels: int) -> tuple[list[Tensor], SparseTargets]:
    logits = [torch.zeros(SIZE // levels) for _ in range(levels)]
    return logits, SparseTargets(torch.arange(POSITIVES), torch.full((POSITIVES,), 0.5))


def forward_and_backward(ranking: Ranking) -> None:
    backend = on_triton.OnTriton("breakpoints")
    _, saved, kept = backend.forward(LOSS, ranking, 0.5, None, None)
    backend.backward(ranking, saved, kept, [torch.ones(()), torch.ones(())], 0.5)


def whole_step(logits: list[Tensor], targets: SparseTargets) -> None:
    """Through the public function and autograd, as on a GPU: values are not checked."""
    loss = rank_sort(logits, targets, backend="triton", algorithm="breakpoints")
    torch.autograd.grad(list(loss), logits, [torch.ones(())] * 2)


def replace_launch(launch: Any) -> list[Any]:
    """Patches of `launch` in every module that uses it."""
    modules = [module for name, module in sys.modules.items() if name.startswith("rst.kernels.triton")]
    return [mock.patch.object(module, "launch", launch) for module in modules if hasattr(module, "launch")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    from triton.runtime import driver

    driver.set_active(TargetAlone())
    for levels in (1, 5):
        logits, targets = inputs(levels)
        launches = Launches(repeats)
        for patch in (patches := replace_launch(launches)):
            patch.start()
        forward_and_backward(build_ranking(logits, targets))
        for patch in patches:
            patch.stop()
        print(f"rank_sort, {levels} level{'s' * (levels > 1)}, {POSITIVES} positives: microseconds of host time")
        for kernel, microseconds in launches.found:
            print(f"  {kernel:<22} {microseconds:6.1f}")
        print(f"  {'all launches':<22} {sum(each for _, each in launches.found):6.1f}")

        logits = [level.requires_grad_() for level in logits]
        silent = [
            *replace_launch(lambda *arguments, **constants: None),
            mock.patch("rst.kernels.targets._may_read", return_value=False),
            mock.patch("rst.kernels.arguments.INTERPRETED", True),  # logits on a CPU are let in
        ]
        for patch in silent:
            patch.start()
        print(f"  {'all else':<22} {best(partial(whole_step, logits, targets), repeats):6.1f}")
        for patch in silent:
            patch.stop()


if __name__ == "__main__":
    main()
