"""Detectors that train with the ranking losses, and their score-based twins: assembled from torchvision's parts."""

from .faster_rcnn import FasterRCNN, faster_rcnn

__all__ = ["FasterRCNN", "faster_rcnn"]
