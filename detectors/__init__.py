"""Detectors that train with the ranking losses, and their score-based twins: assembled from torchvision's parts.

Contract: in training `model(images, targets)` returns a dict of scalars, each key starting with "loss_", whose sum is
the objective; in evaluation `model(images)` returns a list of {"boxes", "labels", "scores"}. `model.statistics`, which
a model may go without, is a dict of what its last training step on this process tells besides: detached 0-d tensors on
the model's device, the same keys in every step, NaN where a step has no value.
"""

from .atss import atss
from .dense_detector import DenseDetector
from .faster_rcnn import FasterRCNN, faster_rcnn

__all__ = ["DenseDetector", "FasterRCNN", "atss", "faster_rcnn"]
