"""Checkpoints on disk: written whole or not at all, read as tensors and plain containers, compared with the model."""

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from rst.training.errors import CheckpointError, CheckpointSaveError

MODEL_RECORD = "rst"  # the checkpoint's key under which number and names of the classes and the configuration stand
_PREFIX = "model."  # of the detector's entries in the state dict of DetectionTraining


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, safe against a full disk, a crash and a damaged file.

    A checkpoint is written to a temporary file in the same folder, flushed to the disk, and only then replaces the
    previous one. If anything fails before that, the previous checkpoint stays as it was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None:
            raise TypeError(f"storage_options are not supported, got {storage_options!r}")
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        # Serialised in memory first, as Lightning does: a full disk is then an OSError of the write below, not an
        # error somewhere inside the zip writer.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            kept = "; the previous checkpoint of that name is untouched" if path.exists() else ""
            size = buffer.getbuffer().nbytes / 2**20
            raise CheckpointSaveError(
                f"{path}: cannot save the checkpoint ({size:.1f} MiB): {error.strerror or error}{kept}"
            ) from error
        finally:
            with suppress(OSError):  # there is none after a success; after a failure the first error counts
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        # Always weights only: a checkpoint holds tensors and plain containers, and loading one runs no code.
        return load_checkpoint(path, map_location=map_location or "cpu")


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of `rst train`.

    Raises:
        CheckpointError: no such file, a truncated or damaged one, or one that holds more than tensors and plain
            containers.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({path.stat().st_size} bytes; truncated, damaged, or another kind "
            f"of file): {reason}"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path}: not a checkpoint of rst train (it has no entry 'state_dict')")
    return checkpoint


def check_fits(model: nn.Module, checkpoint: dict[str, Any], source: Path | str) -> None:
    """Refuse weights that are not this model's.

    Args:
        model: the detector, with the attribute `num_classes`.
        checkpoint: what `load_checkpoint` returned.
        source: the checkpoint's name in the message.

    Raises:
        CheckpointError: names both class counts and the first parameter that does not fit.
    """
    expected = model.state_dict()
    found = model_state(checkpoint)
    misfit = _first_misfit(expected, found)
    saved_classes = checkpoint.get(MODEL_RECORD, {}).get("num_classes")
    classes = getattr(model, "num_classes", None)
    if misfit is None and saved_classes in (None, classes):
        return
    message = f"{source}: does not fit the model"
    if saved_classes not in (None, classes):
        message += f": the checkpoint has {saved_classes} classes, the model {classes} (model.num_classes)"
    if misfit is not None:
        message += f"; first parameter that does not fit: {misfit}"
    raise CheckpointError(message)


def check_classes(
    checkpoint: dict[str, Any], names: list[str], ids: list[int], source: Path | str, annotations: Path | str
) -> None:
    """Refuse annotations with other categories than a checkpoint was trained on.

    Raises:
        CheckpointError: names both files and the categories that differ.
    """
    record = checkpoint.get(MODEL_RECORD, {})
    theirs = list(zip(record.get("category_ids", []), record.get("class_names", []), strict=False))
    ours = list(zip(ids, names, strict=False))
    if theirs and theirs != ours:
        differing = [f"{a} there, {b} here" for a, b in zip(theirs, ours, strict=False) if a != b][:3]
        counts = f"{len(theirs)} there, {len(ours)} here"
        raise CheckpointError(
            f"{source}: was trained on other categories than {annotations} has (data.train_annotations): "
            f"{'; '.join(differing) or counts}"
        )


def model_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The detector's own state dict (the averaged weights where the run kept an average)."""
    state = checkpoint["state_dict"]
    return {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}


def load_weights(model: nn.Module, checkpoint: dict[str, Any], source: Path | str) -> None:
    """Put a checkpoint's weights into a model, or raise CheckpointError where they are not its own."""
    check_fits(model, checkpoint, source)
    model.load_state_dict(model_state(checkpoint))


def _first_misfit(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    for name, value in expected.items():
        if name not in found:
            return f"{name}, shape {tuple(value.shape)} in the model, is not in the checkpoint"
        if found[name].shape != value.shape:
            return f"{name}, shape {tuple(found[name].shape)} in the checkpoint, {tuple(value.shape)} in the model"
    extra = next((name for name in found if name not in expected), None)
    return None if extra is None else f"{extra} is in the checkpoint, not in the model"
