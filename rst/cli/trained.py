"""A detector as a checkpoint holds it: settings, model and class names in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import Namespace
from torch import nn

from rst.cli.config import instantiate, parse_config, without_pretraining
from rst.training import CheckpointError, ConfigError, RunFolder, load_checkpoint, load_weights
from rst.training.checkpoints import MODEL_RECORD


@dataclass(frozen=True)
class Trained:
    """A checkpoint put together.

    Attributes:
        model: the detector with the checkpoint's weights, in evaluation mode, on the CPU.
        settings: the run's settings, instantiated: `settings.data` is a DetectionData, `settings.trainer` plain values.
        class_names: name of each label, empty if the checkpoint has none.
        category_ids: id of each label in the training's annotations, empty if the checkpoint has none.
        file: the checkpoint file.
        run: the folder of the run it lies in.
    """

    model: nn.Module
    settings: Namespace
    class_names: list[str]
    category_ids: list[int]
    file: Path
    run: Path


def load_trained(checkpoint: Path, config: Path | None, overrides: list[str], options: Sequence[str] = ()) -> Trained:
    """Build the model of a checkpoint and load its weights.

    Args:
        checkpoint: file, or folder of a run, whose best (else last) checkpoint is meant.
        config: settings; if None those in the run's folder, else those stored in the checkpoint itself.
        overrides: `--section.key value` on top of them.
        options: see `parse_config`.
    """
    if checkpoint.is_dir():
        folder = RunFolder(checkpoint)
        found = [file for file in (folder.best, folder.last) if file.is_file()]
        if not found:
            raise CheckpointError(f"{folder.checkpoints}: neither best.ckpt nor last.ckpt is there")
        checkpoint = found[0]
    content = load_checkpoint(checkpoint)
    record = content.get(MODEL_RECORD, {})
    folder = RunFolder.of_checkpoint(checkpoint)
    if config is None and folder.config.is_file():
        config = folder.config
    if config is not None:
        parser, settings = parse_config(overrides, config, options)
    elif record.get("config"):
        parser, settings = parse_config(overrides, record["config"], options)
    else:
        raise ConfigError(f"{folder.config}: no such file; name the model's settings with --config")
    built = instantiate(parser, without_pretraining(settings))
    load_weights(built.model, content, checkpoint)
    names, ids = (list(record.get(key, [])) for key in ("class_names", "category_ids"))
    return Trained(built.model.eval(), built, names, ids, checkpoint, folder.path)
