"""For all kernel tests: unwritten memory is NaN."""

from collections.abc import Iterator

import pytest
import torch

# On a GPU some operators of the torch backend and of the dense equations have no deterministic implementation.
NOT_DETERMINISTIC = (
    "ignore:.*does not have a deterministic implementation:UserWarning",
    "ignore:Deterministic behavior was enabled:UserWarning",
)


def pytest_itemcollected(item: pytest.Item) -> None:
    for warning in NOT_DETERMINISTIC:
        item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def _unwritten_memory_is_nan() -> Iterator[None]:
    """In torch's deterministic mode torch.empty and its variants return NaN: an unwritten output cannot hide."""
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    yield
    torch.use_deterministic_algorithms(False)
