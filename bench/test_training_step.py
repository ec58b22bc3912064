"""Training steps with ranking losses beside their baselines: the same detector with another loss.

RS Faster, Mask and Cascade R-CNN beside sampled cross-entropy, RS-ATSS and RS-PAA beside focal loss, RS-YOLACT beside
cross-entropy of hard negatives, RS-SOLOv2 beside focal and Dice. The first four are also measured with the published
per-positive loop instead of `rank_sort`; of PAA the share of its assignment is.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml
from device import CLOCK, DEVICE, ON_GPU
from measure import timed_on_device
from memory import rise, settled_memory
from peers import per_positive_rank_sort
from stopwatch import Stopwatch
from torch import Tensor

from rst import detectors
from rst.kernels import rank_sort

CONFIGS = Path(__file__).parent.parent / "configs" / "sample"
RANKING = {"loss": "rank_sort"}
SAME_ANCHORS = {"loss": "focal", "octave_base_scale": 4.0, "scales_per_octave": 3}
WARM_UP = 2


@dataclass(frozen=True)
class Contender:
    """A way to train a detector."""

    arguments: dict[str, Any]  # for the detector's function, added to the setting's
    rounds: int = 10
    loop: bool = False  # the per-positive loop instead of `rank_sort`


@dataclass(frozen=True)
class Detector:
    """A detector under several losses."""

    build: Callable[..., Any]
    ranking_losses: int  # calls of `rank_sort` in a step of a ranking contender
    contenders: dict[str, Contender]
    baseline: str  # the contender whose step the others are compared with


def _two_stages(build: Callable[..., Any], name: str, ranking_losses: int) -> Detector:
    return Detector(
        build,
        ranking_losses,
        contenders={
            f"RS {name}": Contender(RANKING),
            "sampled cross-entropy": Contender({"loss": "cross_entropy"}),
            "RS with the per-positive loop": Contender(RANKING, rounds=4, loop=True),
        },
        baseline="sampled cross-entropy",
    )


DETECTORS = {
    "faster_rcnn": _two_stages(detectors.faster_rcnn, "Faster R-CNN", ranking_losses=2),
    "mask_rcnn": _two_stages(detectors.mask_rcnn, "Mask R-CNN", ranking_losses=2),
    "cascade_rcnn": _two_stages(detectors.cascade_rcnn, "Cascade R-CNN", ranking_losses=4),
    "atss": Detector(
        detectors.atss,
        ranking_losses=1,
        contenders={
            "RS-ATSS": Contender(RANKING),
            "focal loss, the same anchors": Contender(SAME_ANCHORS),
            "focal loss, its own anchors": Contender({"loss": "focal"}),
            "RS-ATSS with the per-positive loop": Contender(RANKING, rounds=4, loop=True),
        },
        baseline="focal loss, the same anchors",
    ),
    "paa": Detector(
        detectors.paa,
        ranking_losses=1,
        contenders={"RS-PAA": Contender(RANKING), "focal loss, the same anchors": Contender(SAME_ANCHORS)},
        baseline="focal loss, the same anchors",
    ),
    "yolact": Detector(
        detectors.yolact,
        ranking_losses=1,
        contenders={"RS-YOLACT": Contender(RANKING), "YOLACT": Contender({"loss": "cross_entropy"})},
        baseline="YOLACT",
    ),
    "solov2": Detector(
        detectors.solov2,
        ranking_losses=1,
        contenders={"RS-SOLOv2": Contender(RANKING), "focal and Dice": Contender({"loss": "focal"})},
        baseline="focal and Dice",
    ),
}


@dataclass(frozen=True)
class Setting:
    """A detector and the batch it trains on."""

    detector: str
    arguments: dict[str, Any]  # for its function
    images: int
    height: int
    width: int
    boxes: int  # in each image
    autocast: bool = False
    gpu_only: bool = True


GROUPS = {
    "backbone": detectors.BackboneSettings,
    "proposals": detectors.ProposalSettings,
    "detections": detectors.DetectionSettings,
    "masks": detectors.MaskSettings,
    "grids": detectors.GridSettings,
}
GROUPS_OF = {  # where they are others
    "solov2": GROUPS | {"detections": detectors.MaskDetectionSettings},
    "yolact": GROUPS | {"masks": detectors.PrototypeSettings},
}


def _demo(detector: str) -> Setting:
    config = yaml.safe_load((CONFIGS / f"rs_{detector}_mobilenetv2.yaml").read_text())
    assert config["model"]["class_path"] == f"rst.detectors.{detector}"
    side = config["data"]["short_sides"][0]
    arguments = config["model"]["init_args"]
    groups = GROUPS_OF.get(detector, GROUPS)
    arguments |= {name: kind(**arguments[name]) for name, kind in groups.items() if name in arguments}
    arguments["backbone"] = replace(arguments["backbone"], weights=None)
    return Setting(detector, arguments, config["data"]["images_per_batch"], side, side, boxes=8, gpu_only=False)


def _r50(detector: str, autocast: bool = False, boxes: int = 7) -> Setting:
    return Setting(detector, {"num_classes": 80}, 4, 800, 1333, boxes=boxes, autocast=autocast)


SETTINGS = {
    "demo: MobileNetV2, 4 images of 224 x 224": _demo("faster_rcnn"),
    "R50-FPN, 4 images of 1333 x 800": _r50("faster_rcnn"),
    "R50-FPN, 4 images of 1333 x 800, bfloat16 autocast": _r50("faster_rcnn", autocast=True),
    "Mask R-CNN, demo: MobileNetV2, 4 images of 120 x 120": _demo("mask_rcnn"),
    "Mask R-CNN, R50-FPN, 4 images of 1333 x 800": _r50("mask_rcnn"),
    "Cascade R-CNN, demo: MobileNetV2, 4 images of 224 x 224": _demo("cascade_rcnn"),
    "Cascade R-CNN, R50-FPN, 4 images of 1333 x 800": _r50("cascade_rcnn"),
    "ATSS, demo: MobileNetV2, 4 images of 288 x 288": _demo("atss"),
    "ATSS, R50-FPN, 4 images of 1333 x 800": _r50("atss"),
    "ATSS, R50-FPN, 4 images of 1333 x 800, bfloat16 autocast": _r50("atss", autocast=True),
    "SOLOv2, demo: MobileNetV2, 4 images of 160 x 160": _demo("solov2"),
    "SOLOv2, R50-FPN, 4 images of 1333 x 800": _r50("solov2"),
    "PAA, demo: MobileNetV2, 4 images of 288 x 288": _demo("paa"),
    "PAA, R50-FPN, 4 images of 1333 x 800 with 80 objects each": _r50("paa", boxes=80),
    "YOLACT, demo: MobileNetV2, 4 images of 160 x 160": _demo("yolact"),
    "YOLACT, R50-FPN, 8 images of 550 x 550": Setting(
        "yolact", {"num_classes": 80, "image_side": 550}, 8, 550, 550, boxes=7
    ),
}
CASES = [(setting, name) for setting, what in SETTINGS.items() for name in DETECTORS[what.detector].contenders]


def batch(setting: Setting) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of noise, boxes of about 0.08 to 0.23 of their sides, masks that fill them: enough to time a step."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([setting.width, setting.height])
    images, targets = [], []
    for _ in range(setting.images):
        images.append(torch.rand(3, setting.height, setting.width, generator=generator).to(DEVICE))
        size = (torch.rand(setting.boxes, 2, generator=generator) * 0.15 + 0.08) * extent
        corner = torch.rand(setting.boxes, 2, generator=generator) * (extent - size)
        labels = torch.randint(setting.arguments["num_classes"], (setting.boxes,), generator=generator)
        boxes = torch.cat([corner, corner + size], 1)
        masks = torch.zeros(setting.boxes, setting.height, setting.width, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        target = {"boxes": boxes, "labels": labels, "masks": masks}
        targets.append({key: value.to(DEVICE) for key, value in target.items()})
    return images, targets


def training(detector: Detector, setting: Setting, contender: Contender) -> tuple[Any, Callable[[], None]]:
    """A new detector, and what trains it for a step."""
    torch.manual_seed(0)
    model = detector.build(**{**setting.arguments, **contender.arguments}).to(DEVICE).train()
    images, targets = batch(setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def precision() -> AbstractContextManager[object]:
        return torch.autocast(DEVICE.type, torch.bfloat16) if setting.autocast else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        with precision():
            objective = torch.stack(list(model(images, targets).values())).sum()
        objective.backward()
        optimizer.step()

    return model, step


def peak_mib(detector: Detector, setting: Setting, contender: Contender) -> float:
    """MiB of a second step of training, with its detector, images and gradients, on a CPU."""
    training(detector, setting, contender)[1]()  # what torch loads once is not the detector's
    before = settled_memory()
    step = training(detector, setting, contender)[1]
    step()
    return rise(step, before)


@pytest.mark.parametrize(("setting", "contender"), CASES)
@timed_on_device
def test_step(benchmark, facts, monkeypatch, setting, contender):
    chosen = SETTINGS[setting]
    if chosen.gpu_only and not ON_GPU:
        facts["not_measured"][f"training step, {setting}"] = "needs a GPU"
        pytest.skip("needs a GPU")
    detector = DETECTORS[chosen.detector]
    chosen_contender = detector.contenders[contender]
    watch = Stopwatch(per_positive_rank_sort if chosen_contender.loop else rank_sort, CLOCK)
    monkeypatch.setattr("rst.detectors.losses.ranking.rank_sort", watch)
    model, train = training(detector, chosen, chosen_contender)
    steps: list[list[list[Any]]] = []  # for each step its own span, then those of its losses
    assignments: list[list[Any]] = []  # the spans of the assigner, where it looks at predictions
    if chosen.detector == "paa":
        match = model.assigner.match

        def timed_match(*given: Any) -> Tensor:
            begin = CLOCK()
            found = match(*given)
            assignments.append([begin, CLOCK()])
            return found

        model.assigner.match = timed_match

    def step() -> None:
        begin = CLOCK()
        train()
        steps.append([[begin, CLOCK()], *watch.take()])

    benchmark.group = f"training step, {setting}"
    benchmark.extra_info.update(table="step", setting=setting, contender=contender, baseline=detector.baseline)
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    benchmark.pedantic(step, rounds=chosen_contender.rounds, warmup_rounds=WARM_UP)
    if ON_GPU:
        benchmark.extra_info["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    elif sys.platform == "linux":
        benchmark.extra_info["peak_mib"] = peak_mib(detector, chosen, chosen_contender)
    expected = 2 * detector.ranking_losses if chosen_contender.arguments == RANKING else 0
    assert {len(spans) - 1 for spans in steps} == {expected}, "spans: forward and backward of every ranking loss"
    seconds = [[end - begin for begin, end in spans] for spans in steps[WARM_UP:]]
    if assignments:
        shares = ((end - begin) / step[0] for (begin, end), step in zip(assignments[WARM_UP:], seconds, strict=True))
        benchmark.extra_info["assignment_share"] = median(shares)
    if expected:
        benchmark.extra_info["loss_share"] = median(sum(losses) / whole for whole, *losses in seconds)
