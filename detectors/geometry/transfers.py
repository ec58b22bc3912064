"""What goes from the host to a device, and back, without a wait for that device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float] | Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.tensor(values, dtype=dtype, device=device)`, which on a GPU would wait until the device has come there.

    That copy is from memory which the host may use again, so the host has to wait for its end. Pinned memory is kept
    by torch until the copy has ended. A CUDA graph would copy from there whenever it is replayed; so under capture this
    is the waiting copy, which torch refuses.
    """
    host = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type != "cuda" or _without_values(host) or torch.cuda.is_current_stream_capturing():
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def _without_values(tensor: Tensor) -> bool:
    """Whether it stands for a tensor: in a graph that is traced, or a fake one."""
    return torch.compiler.is_compiling() or type(tensor) is not Tensor


class Asked:
    """A condition, as far as the host knows it without a wait: for loops that may end early and need not.

    On a GPU the answer to one call arrives in a later one, or never. So nothing may depend on it but time.
    """

    def __init__(self) -> None:
        self._answer: Tensor | None = None  # pinned; None: nothing is asked at present
        self._arrival: torch.cuda.Event | None = None

    def is_true(self, condition: Tensor) -> bool:
        """Whether `condition` is known to be true now, or was when it was asked for.

        Args:
            condition: (), bool. Once it is true it must stay so.
        """
        if _without_values(condition):
            return False
        if condition.device.type == "cpu":
            return bool(condition)
        if condition.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return False
        if self._answer is not None and self._arrival is not None:
            if not self._arrival.query():
                return False
            if self._answer.item():
                return True
        self._answer = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
        self._answer.copy_(condition, non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record(torch.cuda.current_stream(condition.device))
        return False
