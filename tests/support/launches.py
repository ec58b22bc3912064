"""Counts what a call launches on a device: Triton kernels, and torch operators that are no views and no allocations.

It needs no GPU: a dispatch mode sees every operator that the host code calls, and kernels are counted instead of run.
That no result is needed for it shows, by the way, that the host never reads one.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that move nothing: allocations, and what torch calls views but does not mark as such.
FREE = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty_strided")
FREE_VIEWS = ("aten::detach", "aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh", "aten::alias")


class Launches(TorchDispatchMode):
    """While it is active, every launch is a line of `names`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if not func.is_view and not name.startswith((*FREE, *FREE_VIEWS)):
            self.names.append(name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" if number > 1 else name for name, number in Counter(self.names).items())

    def __len__(self) -> int:
        return len(self.names)


@contextmanager
def counted_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """The launches of the block. Checks of values, which only a CPU makes, are left out."""
    from triton.runtime.interpreter import InterpretedFunction

    launches = Launches()
    with monkeypatch.context() as patch:
        patch.setattr(
            InterpretedFunction, "run", lambda kernel, *args, **kwargs: launches.names.append(kernel.__name__)
        )
        patch.setattr("rst.kernels.targets._may_read", lambda tensor: False)
        torch.use_deterministic_algorithms(False)  # else torch.empty is filled with NaN, which would be counted
        try:
            with launches:
                yield launches
        finally:
            torch.use_deterministic_algorithms(True)
