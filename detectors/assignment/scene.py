"""What an assigner sees of a training step, and what it answers.

    n  images    A  anchors per cell    N  anchors of an image, all levels    C  classes    H, W  cells of a level

A match is an int64 for each candidate: the index of its object in the batch, or NEGATIVE, or IGNORED.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor
from torchvision.models.detection._utils import Matcher

from ..geometry.ground_truth import GroundTruth
from ..geometry.layout import PADDING, MapLayout, padded_sizes

NEGATIVE = Matcher.BELOW_LOW_THRESHOLD
IGNORED = Matcher.BETWEEN_THRESHOLDS


class Predictions(NamedTuple):
    """The maps of every level, as the convolutions of a head return them."""

    logits: Sequence[Tensor]  # (n, A C, H, W)
    deltas: Sequence[Tensor]  # (n, 4 A, H, W)


@dataclass(frozen=True, eq=False)
class Scene:
    """The anchors of a batch and its objects."""

    anchors: Tensor  # (N, 4) float32 XYXY pixels, the same for every image
    layout: MapLayout  # of the maps
    strides: Sequence[int]  # pixels, of each level
    image_sizes: Sequence[tuple[int, int]]  # height and width of each image, pixels
    outside: Tensor | None  # (n, N) bool: anchors in the padding of their image; None: there are none
    truth: GroundTruth
    padding: int = PADDING  # the sides of an image padded on its own are multiples of this, pixels

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Height and width of each image padded on its own, pixels: no cell beyond takes part."""
        return padded_sizes(self.image_sizes, self.padding)


class Assigner(ABC):
    """Decides which anchors are positives of which object."""

    uses_predictions: ClassVar[bool] = False  # whether `match` needs the predictions of the step

    @property
    def by_iou(self) -> bool:
        """Whether the IoU with its best anchor tells if an object can have positives."""
        return False

    def __call__(self, scene: Scene, predictions: Predictions | None = None) -> Tensor:
        """The match of each anchor of each image, (n, N) int64; anchors in the padding are IGNORED."""
        match = self.match(scene, predictions)
        return match if scene.outside is None else match.masked_fill(scene.outside, IGNORED)

    @abstractmethod
    def match(self, scene: Scene, predictions: Predictions | None) -> Tensor:
        """The match (n, N) of all anchors, also of those in the padding."""
