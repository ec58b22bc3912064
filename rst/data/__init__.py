"""Data sets, transforms and samplers: COCO files in, batches of tensors out."""

from rst.data.coco import CocoDetection
from rst.data.errors import DataError, DataWarning, FetchError
from rst.data.module import DetectionData

__all__ = ["CocoDetection", "DataError", "DataWarning", "DetectionData", "FetchError"]
