"""Detections against ground truth: COCO's average precision, and pictures."""

from rst.evaluation.coco import evaluate_detections, format_table, to_coco_results
from rst.evaluation.draw import draw_detections

__all__ = ["draw_detections", "evaluate_detections", "format_table", "to_coco_results"]
