"""Pretrained weights of a backbone: from torchvision by name, or from a file, matched by name or else by order."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from .deformable import is_of_offsets

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
    A file without any offsets is one of plain convolutions: it fits a deformable model but for its offsets.

    Raises:
        ValueError: names the file and the first key that is missing, does not fit, or is of a layer that the model
            lacks, as in a file of a deeper model of the same kind.
    """
    state, model = _wanted(state), _wanted(model)
    if not any(is_of_offsets(key) for key in state):
        model = {key: value for key, value in model.items() if not is_of_offsets(key)}
    missing = [key for key in model if key not in state and not key.endswith(UNUSED_LEAF)]
    if not missing:
        layers = {key.partition(".")[0] for key in model}
        foreign = [key for key in state if key not in model and key.partition(".")[0] in layers]
        if foreign:
            raise ValueError(
                f"weights file {path} is of another backbone: it holds {foreign[0]!r}, which this one lacks"
            )
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


def load_weights(classifier: nn.Module, weights: str, name: str) -> list[str]:
    """Loads weights into a torchvision classifier, but for its last layer; a deformable one may keep its offsets.

    Args:
        classifier: the model, of architecture `name`.
        weights: a file with a state dict, or the name of one of torchvision's weights ("IMAGENET1K_V1"), which are
            downloaded at first use.

    Returns:
        The keys of the classifier, without those of its last layer, whose values were not in the weights.

    Raises:
        ValueError: where `weights` is neither, or the file does not fit.
        RuntimeError: where a download fails.
    """
    path, published = Path(weights).expanduser(), models.get_model_weights(name)
    if path.is_file():
        state = fit_state_dict(read_state_dict(path), classifier.state_dict(), path)
    elif weights in published.__members__:
        try:
            state = published[weights].get_state_dict(progress=False, check_hash=True)
        except OSError as error:  # URLError is one
            raise RuntimeError(
                f"weights={weights!r} of {name} could not be downloaded ({error}); give a state-dict file instead"
            ) from error
    else:
        raise ValueError(
            f"weights={weights!r} is neither a file nor one of {name}'s published weights: "
            f"{', '.join(published.__members__)}"
        )
    missing, unexpected = classifier.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith(UNUSED_PREFIXES)]
    assert not unexpected
    assert all(is_of_offsets(key) or key.endswith(UNUSED_LEAF) for key in missing)
    return missing
