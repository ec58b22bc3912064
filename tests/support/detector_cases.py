"""Every detector under every loss, small enough for a test. A new detector is one more entry of `DETECTORS`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from rst.detectors import (
    BackboneSettings,
    DetectionSettings,
    Detector,
    GridSettings,
    MaskDetectionSettings,
    MaskSettings,
    ProposalSettings,
    PrototypeSettings,
    atss,
    cascade_rcnn,
    faster_rcnn,
    mask_rcnn,
    paa,
    solov2,
    yolact,
)

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Family:
    """A detector and the losses that it has."""

    make: Callable[..., Detector]
    losses: list[dict[str, Any]]
    small: dict[str, Any]  # arguments that make it small
    overfit: dict[str, Any] = field(default_factory=dict)  # and further ones that let it learn two images fast
    quiet: str = "backbone.body"  # the part whose layers one step may leave without a gradient


BACKBONE = BackboneSettings("mobilenet_v2", fpn_channels=16)
MASKS = MaskSettings(channels=16, convolutions=1)
TWO_STAGES = [{"loss": name} for name in ("rank_sort", "cross_entropy", "cross_entropy_giou", "alrp")]
SMALL: dict[str, Any] = {"head_channels": 32, "proposals": ProposalSettings(100, 50, 100, 50)}
# The rows of table 2. The auxiliary head of ATSS is the centerness, that of PAA the IoU.
ONE_STAGE: list[dict[str, Any]] = [
    {"loss": "rank_sort"},
    {"loss": "average_precision"},
    {"loss": "average_precision", "centerness": True},
    {"loss": "alrp"},
    {"loss": "focal"},
    {"loss": "focal", "centerness": True},
    {"loss": "qfl"},
]
PAA_ROWS = [{"iou_head" if key == "centerness" else key: value for key, value in row.items()} for row in ONE_STAGE]
SMALL_DENSE = {"head_channels": 64, "detections": DetectionSettings(score_threshold=0.005, nms_iou=0.6)}
OVERFIT_DENSE = {"detections": DetectionSettings(score_threshold=0.0, nms_iou=0.6)}
# Small images have few anchors inside, and random weights few boxes of a high IoU.
CASCADE: dict[str, Any] = {"stages": (0.4, 0.45, 0.5), "crossing_anchors": True}
TO_OVERFIT: dict[str, Any] = {"head_channels": 64, "anchor_scale": 6, "proposals": ProposalSettings(128, 64, 128, 64)}
# Random weights make masks of no confidence, and scores that are almost equal beyond the best.
GRIDS: dict[str, Any] = {
    "grids": GridSettings((12, 10, 8, 6, 4), ((1, 32), (16, 48), (32, 96), (64, 192), (128, 384))),
    "detections": MaskDetectionSettings(0.0, least_cells=(0,) * 5, update_threshold=0.0, limit=3),
    "head_channels": 64,
    "head_convolutions": 1,
    "mask_channels": 64,
    "kernel_channels": 64,
}
DETECTORS: dict[str, Family] = {
    "faster_rcnn": Family(faster_rcnn, TWO_STAGES, SMALL, TO_OVERFIT),
    "atss": Family(atss, ONE_STAGE, SMALL_DENSE, OVERFIT_DENSE),
    "paa": Family(paa, PAA_ROWS, SMALL_DENSE, OVERFIT_DENSE),
    "faster_rcnn with CARAFE": Family(
        faster_rcnn,
        [{"loss": "rank_sort"}],
        SMALL | {"backbone": BackboneSettings("mobilenet_v2", fpn_channels=16, fpn_upsampling="carafe")},
        TO_OVERFIT,
    ),
    "yolact": Family(
        yolact,
        [{"loss": "rank_sort"}, {"loss": "cross_entropy"}],
        {"head_channels": 32, "masks": PrototypeSettings(8, 16), "detections": DetectionSettings(0.005)},
        {"detections": DetectionSettings(0.0)},
        quiet="backbone",  # far negatives have none, in a ranking as without hard ones; on a coarse level all are far
    ),
    "mask_rcnn": Family(mask_rcnn, TWO_STAGES[:2], SMALL | {"masks": MASKS}, TO_OVERFIT),
    "mask scoring R-CNN": Family(
        mask_rcnn, TWO_STAGES[1:2], SMALL | {"masks": replace(MASKS, scoring=True)}, TO_OVERFIT
    ),
    "cascade_rcnn": Family(cascade_rcnn, TWO_STAGES[:2], SMALL | CASCADE, TO_OVERFIT),
    "cascade_rcnn with masks": Family(cascade_rcnn, TWO_STAGES[:1], SMALL | CASCADE | {"masks": MASKS}, TO_OVERFIT),
    "solov2": Family(solov2, [{"loss": "rank_sort"}, {"loss": "focal"}], GRIDS),
}


@dataclass(frozen=True)
class Case:
    """One detector under one loss."""

    detector: str
    options: dict[str, Any]

    def __str__(self) -> str:
        words = [f"{key}={value}" if key != "loss" else str(value) for key, value in self.options.items()]
        return " ".join([self.detector, *words])

    @property
    def quiet(self) -> str:
        """The part whose layers one step may leave without a gradient."""
        return DETECTORS[self.detector].quiet

    @property
    def ranks(self) -> bool:
        """Whether the loss is a ranking: without positives all its terms are 0."""
        return self.options["loss"] in ("rank_sort", "average_precision", "alrp")

    @property
    def sorts(self) -> bool:
        """Whether the loss is Rank & Sort, which has all the switches."""
        return self.options["loss"] == "rank_sort"

    def build(self, num_classes: int = 3, **options: Any) -> Detector:
        """The detector with the weights of seed 0; `options` override."""
        torch.manual_seed(0)
        family = DETECTORS[self.detector]
        return family.make(num_classes, **({"backbone": BACKBONE} | family.small | self.options | options))

    def build_to_overfit(self, num_classes: int) -> Detector:
        """The backbone stays as it is: its random features are enough, and cheaper."""
        family = DETECTORS[self.detector]
        backbone = family.small.get("backbone", BACKBONE)
        backbone = replace(backbone, name="resnet18", frozen_stages=4, fpn_channels=32)
        return self.build(num_classes, backbone=backbone, **family.overfit)


CASES = [Case(name, options) for name, family in DETECTORS.items() for options in family.losses]


def objects_batch() -> Batch:
    """Two images of different sizes, one with two objects and one with one."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 90, 64, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 50], [50, 10, 90, 44]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.tensor([[10.0, 20, 52, 80]]), "labels": torch.tensor([1])},
    ]
    return images, with_masks(images, targets)


def bright_rectangles() -> Batch:
    """Two dark images with bright rectangles, of another colour for each class."""
    generator = torch.Generator().manual_seed(3)
    images, targets = [], []
    for boxes in ([[4, 6, 28, 30], [32, 34, 60, 58]], [[12, 18, 42, 56]]):
        image = torch.rand(3, 64, 64, generator=generator) * 0.2
        for channel, (x1, y1, x2, y2) in enumerate(boxes):
            image[channel, y1:y2, x1:x2] = 1
        images.append(image)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.arange(len(boxes))})
    return images, with_masks(images, targets, round=False)


def with_masks(
    images: list[Tensor], targets: list[dict[str, Tensor]], *, round: bool = True
) -> list[dict[str, Tensor]]:
    """The targets with masks: the ellipse in each box, or the box itself."""
    filled = []
    for image, target in zip(images, targets, strict=True):
        y, x = (torch.arange(side) + 0.5 for side in image.shape[-2:])
        left, top, right, bottom = target["boxes"].float().nan_to_num(0)[..., None, None].unbind(1)
        u = (x - (left + right) / 2) / ((right - left) / 2).clamp(min=1e-6)  # (G, 1, W), in [-1, 1] within the box
        v = (y[:, None] - (top + bottom) / 2) / ((bottom - top) / 2).clamp(min=1e-6)  # (G, H, 1)
        filled.append(target | {"masks": u.square() + v.square() <= 1 if round else (u.abs() <= 1) & (v.abs() <= 1)})
    return filled


def target(*boxes: list[float]) -> dict[str, Tensor]:
    """Objects of class 0."""
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def random_images(*sizes: tuple[int, int]) -> list[Tensor]:
    """Images (3, height, width) of noise."""
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def overfit(model: Detector, batch: Batch, steps: int = 100) -> None:
    """Trains on one batch until the best detections of each image are its objects, which must be within the steps."""
    images, targets = batch
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for made in range(1, steps + 1):
        optimizer.zero_grad()
        torch.stack(list(model(images, targets).values())).sum().backward()
        optimizer.step()
        if made % 10 == 0 and _finds(model, batch):
            return
    raise AssertionError(f"{steps} steps do not find the objects of one batch")


def _finds(model: Detector, batch: Batch) -> bool:
    """Whether the best detections of each image are its objects."""
    images, targets = batch
    with torch.no_grad():
        found = model.eval()(images)
    model.train()
    for detections, expected in zip(found, targets, strict=True):
        objects = len(expected["boxes"])
        if len(detections["boxes"]) < objects:
            return False
        overlap, index = box_iou(expected["boxes"], detections["boxes"][:objects]).max(dim=1)
        if overlap.min() <= 0.7 or not torch.equal(detections["labels"][:objects][index], expected["labels"]):
            return False
        if "masks" in detections:
            masks = detections["masks"][:objects][index]
            common, either = ((masks & expected["masks"]).sum((1, 2)), (masks | expected["masks"]).sum((1, 2)))
            if (common / either).min() <= 0.7:
                return False
    return True


def step(model: Detector, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, float]:
    """The losses of one step, after a check that each is finite and that every trainable parameter has a gradient."""
    model.zero_grad(set_to_none=True)
    losses = model(images, with_masks(images, targets))
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name}: distributed training would wait for it"
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
    values = {name: loss.item() for name, loss in losses.items()}
    assert all(value == value for value in values.values()), values
    return values
