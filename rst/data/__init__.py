"""Data sets, transforms and samplers: COCO files in, batches of tensors out."""

import importlib
from typing import TYPE_CHECKING, Any

from rst.coco.errors import DataError, DataWarning

if TYPE_CHECKING:
    from rst.data.dataset import CocoDetection
    from rst.data.module import DetectionData

__all__ = ["CocoDetection", "DataError", "DataWarning", "DetectionData"]

# Imported when asked for: torch and Lightning take seconds, which checking and making data sets need not wait for.
LATE = {"CocoDetection": "rst.data.dataset", "DetectionData": "rst.data.module"}


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LATE[name]), name)
