"""Detectors that train with the ranking losses, and the same detectors under the losses they are compared with.

Contract: in training `model(images, targets)` returns a dict of scalars, each key starting with "loss_", whose sum is
the objective; in evaluation `model(images)` returns a list of {"boxes", "labels", "scores"}, and "masks" where it
detects masks. `Detector.forward` has the details. A model may also have what `Detector` has: `heads`, `iou_types`,
`statistics`, `positives`, `anchor_heads` and `as_seen`; the toolkit uses what is there.

The first names below make a detector. The others are the parts to build one of your own: see CONTRIBUTING.md.
"""

from .assignment.anchors import AnchorGenerator
from .assignment.grid import GridSettings
from .assignment.scene import IGNORED, NEGATIVE, Assigner, Predictions, Scene
from .atss import atss
from .cascade_rcnn import cascade_rcnn
from .dense_detector import DenseDetector
from .detections.select import Detections, DetectionSettings, select_detections
from .detections.select_masks import MaskDetectionSettings
from .detector import AnchorHead, Detector, Positives
from .faster_rcnn import faster_rcnn
from .features.backbones import BackboneSettings, pyramid_backbone
from .features.inputs import Batch
from .features.pyramids import P2_TO_P6, P3_TO_P7, Pyramid
from .geometry.boxes import BoxCoder
from .geometry.ground_truth import GroundTruth
from .grid_detector import GridDetector
from .heads.mask_head import MaskSettings
from .heads.prototypes import PrototypeSettings
from .heads.rpn import ProposalSettings
from .losses.contract import Classification, DetectionLoss, HeadLosses, HeadOutputs, head_losses
from .losses.hard_negatives import TaskWeights
from .losses.localisation import Localisation
from .losses.ranking import RankSort
from .losses.tasks import Boxes, Masks, Task
from .mask_rcnn import mask_rcnn
from .paa import paa
from .prototype_detector import PrototypeDetector
from .solov2 import solov2
from .two_stage_detector import TwoStageDetector
from .yolact import yolact

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "P2_TO_P6",
    "P3_TO_P7",
    "AnchorGenerator",
    "AnchorHead",
    "Assigner",
    "BackboneSettings",
    "Batch",
    "BoxCoder",
    "Boxes",
    "Classification",
    "DenseDetector",
    "DetectionLoss",
    "DetectionSettings",
    "Detections",
    "Detector",
    "GridDetector",
    "GridSettings",
    "GroundTruth",
    "HeadLosses",
    "HeadOutputs",
    "Localisation",
    "MaskDetectionSettings",
    "MaskSettings",
    "Masks",
    "Positives",
    "Predictions",
    "ProposalSettings",
    "PrototypeDetector",
    "PrototypeSettings",
    "Pyramid",
    "RankSort",
    "Scene",
    "Task",
    "TaskWeights",
    "TwoStageDetector",
    "atss",
    "cascade_rcnn",
    "faster_rcnn",
    "head_losses",
    "mask_rcnn",
    "paa",
    "pyramid_backbone",
    "select_detections",
    "solov2",
    "yolact",
]
