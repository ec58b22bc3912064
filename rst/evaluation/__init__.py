"""Detections against ground truth: average precision and oLRP by COCO's and LVIS's protocols, and drawings of them."""

import importlib
from typing import TYPE_CHECKING, Any

from rst.evaluation.evaluator import Evaluation, evaluate, evaluate_detections
from rst.evaluation.report import format_table

if TYPE_CHECKING:
    from rst.evaluation.draw import draw_detections
    from rst.evaluation.results import to_coco_results, to_file_pixels

__all__ = [
    "Evaluation",
    "draw_detections",
    "evaluate",
    "evaluate_detections",
    "format_table",
    "to_coco_results",
    "to_file_pixels",
]

# Imported when asked for: torch takes seconds, which scoring a file of detections need not wait for.
LATE = {
    "draw_detections": "rst.evaluation.draw",
    "to_coco_results": "rst.evaluation.results",
    "to_file_pixels": "rst.evaluation.results",
}


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LATE[name]), name)
