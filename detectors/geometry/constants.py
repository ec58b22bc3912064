"""Small tensors of numbers that the host knows, put on a device without a wait for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float] | Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.tensor(values, dtype=dtype, device=device)`, which on a GPU would wait until the device has come there.

    That copy is from memory which the host may use again, so the host has to wait for its end. Pinned memory is kept
    by torch until the copy has ended.
    """
    host = torch.tensor(values, dtype=dtype, device="cpu")
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
