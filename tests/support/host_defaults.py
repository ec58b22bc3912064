"""Defaults that a host program may have set, each as hostile as it can be: no result may depend on one of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from rank_sort_cases import INTERPRETED


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms. Torch then fills new memory with NaN, so reading it unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


HOSTILE: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "another device": lambda: torch.device("meta"),  # what is made there has no values
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "deterministic, NaN in new memory": deterministic,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@contextmanager
def all_of_them() -> Iterator[None]:
    with default_dtype(torch.float16), deterministic(), torch.device("meta"):
        yield


if INTERPRETED:  # kernels are slow there
    HOSTILE = {"all of them": all_of_them}
under_hostile_defaults = pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
