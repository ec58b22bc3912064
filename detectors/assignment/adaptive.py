"""Adaptive training sample selection (ATSS): each object picks its positive anchors with its own IoU threshold.

    n  images    L  levels    A  anchors per cell    N  anchors of an image    G  objects of the batch
    q  cells looked for per level    S  cells along the side of their window    K  candidates of an object

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
CVPR 2020, algorithm 1. The cells of a level are a lattice, so the nearest ones are looked for in a window around each
object. No matrix of objects by anchors is made, and nothing waits for the device.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry.boxes import paired_iou
from ..geometry.transfers import constant
from .scene import NEGATIVE, Assigner, Predictions, Scene

# Pixels by which the centre of an anchor must be inside its object (published code).
INSIDE = 0.01
_LOW = (1 << 32) - 1  # the lower half of a key: it separates equal distances
_NOTHING = torch.iinfo(torch.int64).max


class Candidates(NamedTuple):
    """The anchors nearest to each object."""

    number: Tensor  # (G, K) int64, of the anchor in its image
    there: Tensor  # (G, K) bool: a small level has fewer


class AdaptiveAssigner(Assigner):
    """Positive are those candidates that overlap their object more than usual and have their centre inside it.

    Candidates of an object are, on each level, the anchors whose centres are nearest to its own. Of equally near ones
    the first by (y, x, anchor of the cell) is taken, where published code leaves it to chance. Their IoUs are compared
    with mean plus standard deviation over all levels (unbiased; 0 for a single candidate, where published code has
    NaN). An anchor that several objects want goes to the one it overlaps most, and among equals to the first. All other
    anchors are negative: nothing is ignored.

    Args:
        candidates_per_level: 9 in the publication.
    """

    def __init__(self, candidates_per_level: int = 9) -> None:
        self.candidates_per_level = candidates_per_level

    def match(self, scene: Scene, predictions: Predictions | None) -> Tensor:
        anchors, boxes, image = scene.anchors, scene.truth.all_boxes, scene.truth.image
        number, there = self.candidates(boxes, image, scene)
        candidate = anchors[number]  # (G, K, 4)
        overlap = paired_iou(candidate, boxes[:, None])  # (G, K)
        centre = 0.5 * (candidate[..., :2] + candidate[..., 2:])
        margin = torch.minimum(centre - boxes[:, None, :2], boxes[:, None, 2:] - centre).amin(dim=-1)
        chosen = there & (overlap >= self.threshold(overlap, there)[:, None]) & (margin > INSIDE)

        # The largest key is the largest IoU (its bits are in its order) and then the first object.
        owner = torch.arange(len(boxes), device=boxes.device)[:, None]
        keys = torch.where(chosen, (overlap.view(torch.int32).long() << 32) | (_LOW - owner), -1)
        places = image[:, None] * len(anchors) + number
        best = torch.full((scene.layout.images * len(anchors),), -1, dtype=torch.int64, device=boxes.device)
        best.scatter_reduce_(0, places.flatten(), keys.flatten(), "amax")
        return torch.where(best >= 0, _LOW - (best & _LOW), NEGATIVE).view(scene.layout.images, -1)

    def candidates(
        self,
        boxes: Tensor,  # (G, 4)
        image: Tensor,  # (G,)
        scene: Scene,
    ) -> Candidates:
        """The anchors of each level that are nearest to each object, K = L * candidates_per_level."""
        device, layout = boxes.device, scene.layout
        stride = constant(scene.strides, torch.int64, device)  # (L,)
        sizes = constant(layout.sizes, torch.int64, device)  # (L, 2): rows and columns
        extents = constant(scene.extents, torch.int64, device)
        limit = torch.minimum(-(-extents[:, None] // stride[:, None]), sizes)[image]
        rows, columns = limit.unbind(-1)  # (G, L) each
        x, y = (0.5 * (boxes[:, :2] + boxes[:, 2:])).T[..., None]  # (G, 1) each

        # Whatever the lattice, the q nearest cells are within q - 1 rows and columns of the nearest one.
        wanted = math.ceil(self.candidates_per_level / layout.anchors)
        reach = torch.arange(-wanted, wanted + 1, device=device)  # (S,), one more: the nearest is subject to rounding
        row, row_distance, row_there = _window(y, stride, rows, reach)  # (G, L, S) each
        column, column_distance, column_there = _window(x, stride, columns, reach)
        distance = row_distance[..., None] + column_distance[..., None, :]  # (G, L, S, S) squared pixels
        cell = row[..., None] * sizes[:, 1, None, None] + column[..., None, :]
        # Keys in the order of the distance (whose bits are in its order) and then of the cell: no two are equal.
        keys = torch.where(
            row_there[..., None] & column_there[..., None, :],
            (distance.view(torch.int32).long() << 32) | cell,
            _NOTHING,
        )
        keys = keys.flatten(2).topk(wanted, dim=2, largest=False).values  # (G, L, q)
        there = keys != _NOTHING
        cell = torch.where(there, keys & _LOW, 0)
        area = sizes.prod(1)  # (L,)
        start = layout.anchors * (area.cumsum(0) - area)
        in_cell = torch.arange(layout.anchors, device=device)
        number = (start[:, None] + cell)[..., None] + in_cell * area[:, None, None]  # (G, L, q, A)
        there = there[..., None].expand_as(number)
        kept = self.candidates_per_level
        return Candidates(number.flatten(2)[..., :kept].flatten(1), there.flatten(2)[..., :kept].flatten(1))

    @staticmethod
    def threshold(overlap: Tensor, there: Tensor) -> Tensor:
        """Mean plus standard deviation of the overlaps (G, K) of the candidates that are there, (G,) float64."""
        count = there.sum(1)
        values = torch.where(there, overlap.double(), 0)  # in float64 the mean of equals is exactly their value
        mean = values.sum(1) / count.clamp(min=1)
        deviation = torch.where(there, values - mean[:, None], 0)
        return mean + (deviation.square().sum(1) / (count - 1).clamp(min=1)).sqrt()


def _window(
    centre: Tensor,  # (G, 1) pixels along one axis
    stride: Tensor,  # (L,)
    limit: Tensor,  # (G, L) cells along that axis
    reach: Tensor,  # (S,)
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis, (G, L, S) each: cells around the nearest one, their squared distances, and whether they exist."""
    nearest = torch.minimum((centre / stride).round().long().clamp(min=0), limit - 1)
    cells = nearest[..., None] + reach
    distance = (cells * stride[:, None] - centre[..., None]).square()
    return cells, distance, (cells >= 0) & (cells < limit[..., None])
