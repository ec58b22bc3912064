"""Pretrained weights of a backbone: from torchvision by name, or from a file, matched by name or else by order."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

# Parts of a classifier that no detector keeps; counters, absent from old files, that a norm in evaluation never reads.
UNUSED_PREFIXES = ("fc.", "classifier.")
UNUSED_LEAF = "num_batches_tracked"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file, on the CPU; ValueError, naming the file, for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or not state:
        raise ValueError(f"weights file {path} holds no state dict but a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"weights file {path}: key {key!r} is a {type(value).__name__}, not a tensor")
    return state


def _wanted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(UNUSED_PREFIXES)}


def fit_state_dict(state: dict[str, Tensor], model: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Renames the tensors of a file to a model's names.

    By name where the file has every name of the model. Otherwise by order, as the same architecture saved under other
    names has it: as many tensors, each of the same shape and the same last part of the name (weight, running_mean ...).

    Raises:
        ValueError: names the file and the first key that is missing or does not fit.
    """
    state, model = _wanted(state), _wanted(model)
    missing = [key for key in model if key not in state and not key.endswith(UNUSED_LEAF)]
    if not missing:
        fitted = {key: state[key] for key in model if key in state}
        origin = {key: key for key in fitted}
    elif len(state) == len(model):
        fitted = dict(zip(model, state.values(), strict=True))
        origin = dict(zip(model, state, strict=True))
    else:
        raise ValueError(
            f"weights file {path} has no key {missing[0]!r}, and its {len(state)} tensors cannot be matched by order "
            f"with the backbone's {len(model)}"
        )
    for key, value in fitted.items():
        source = origin[key]
        if source.rpartition(".")[2] != key.rpartition(".")[2]:
            raise ValueError(f"weights file {path} has no key {key!r}, and in its place {source!r}")
        if value.shape != model[key].shape:
            raise ValueError(
                f"weights file {path}: {source!r} has shape {tuple(value.shape)}, "
                f"the backbone's {key!r} has {tuple(model[key].shape)}"
            )
    return fitted


def load_weights(classifier: nn.Module, weights: str, name: str) -> None:
    """Loads weights into a torchvision classifier, but for its last layer.

    Args:
        classifier: the model, of architecture `name`.
        weights: a file with a state dict, or the name of one of torchvision's weights ("IMAGENET1K_V1"), which are
            downloaded at first use.

    Raises:
        ValueError: where `weights` is neither, or the file does not fit.
        RuntimeError: where a download fails.
    """
    path, published = Path(weights).expanduser(), models.get_model_weights(name)
    if path.is_file():
        state, model = read_state_dict(path), classifier.state_dict()
        classifier.load_state_dict(fit_state_dict(state, model, path), strict=False)
    elif weights in published.__members__:
        try:
            state = published[weights].get_state_dict(progress=False, check_hash=True)
        except OSError as error:  # URLError is one
            raise RuntimeError(
                f"weights={weights!r} of {name} could not be downloaded ({error}); give a state-dict file instead"
            ) from error
        classifier.load_state_dict(state)
    else:
        raise ValueError(
            f"weights={weights!r} is neither a file nor one of {name}'s published weights: "
            f"{', '.join(published.__members__)}"
        )
