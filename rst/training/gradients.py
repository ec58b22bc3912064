"""The norms of a step's gradients: of all together, and of each part of the model."""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

GRADIENT_NORM = "gradient_norm"  # of all; a part's name follows after an underscore


def norm_names(model: nn.Module) -> list[str]:
    """The names of what `gradient_norms` returns."""
    return [GRADIENT_NORM, *(f"{GRADIENT_NORM}_{part}" for part in _trained(model))]


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """The Euclidean norm of the gradients that the parameters hold now.

    Args:
        model: after a backward pass. Its parts are its direct children that have trained parameters, and trained
            parameters of its own.

    Returns:
        () float each, on the device of the gradients: "gradient_norm" of all parameters, "gradient_norm_NAME" of each
        part. NaN, no value, where it is not finite: a gradient scaler then leaves the step out, and without one the
        next step's loss stops the run. 0 for a part without a gradient in this step.
    """
    parts = _trained(model)
    if not parts:
        return {}
    device = next(iter(parts.values()))[0].device
    of_part = [
        get_total_norm([p.grad for p in parameters if p.grad is not None]).to(device, torch.float32)
        for parameters in parts.values()
    ]
    norms = torch.stack([get_total_norm(of_part), *of_part])
    return dict(zip(norm_names(model), norms.where(norms.isfinite(), torch.nan).unbind(), strict=True))


def _trained(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Part -> its parameters; one that two parts share belongs to the first."""
    parts: defaultdict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name.partition(".")[0]].append(parameter)
    return dict(parts)
