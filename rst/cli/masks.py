"""A detector of masks needs masks to train on."""

from typing import Any

from rst.data import DetectionData
from rst.training.errors import ConfigError


def check_masks(model: Any, data: DetectionData) -> None:
    """Refuse a detector whose masks are evaluated, and data without masks.

    Raises:
        ConfigError: names the key.
    """
    if "segm" in getattr(model, "iou_types", ()) and not data.masks:
        name = type(model).__name__
        raise ConfigError(f"data.masks is false, but {name} detects masks and has to learn them: --data.masks true")
