"""Detections against ground truth: average precision and oLRP by COCO's and LVIS's protocols, and drawings of them."""

from rst.evaluation.draw import draw_detections
from rst.evaluation.evaluator import Evaluation, evaluate, evaluate_detections
from rst.evaluation.report import format_table
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
