"""A training step of RS Faster R-CNN on all anchors, beside its twins: sampled cross-entropy, and the published loop.

The twins are the same assembly with another `loss`, or with the per-positive loop in the place of `rank_sort`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml
from device import CLOCK, DEVICE, ON_GPU
from measure import timed_on_device
from peers import per_positive_rank_sort
from stopwatch import Stopwatch
from torch import Tensor

from rst import detectors
from rst.kernels import rank_sort

DEMO = Path(__file__).parent.parent / "configs" / "sample" / "rs_faster_rcnn_mobilenetv2.yaml"
RANK_SORT, SAMPLED, LOOP = "RS Faster R-CNN", "sampled cross-entropy", "RS with the per-positive loop"
ROUNDS = {RANK_SORT: 10, SAMPLED: 10, LOOP: 4}
WARM_UP = 2


@dataclass(frozen=True)
class Setting:
    """A detector and the batch it trains on."""

    arguments: dict[str, Any]  # of faster_rcnn
    images: int
    height: int
    width: int
    boxes: int  # in each image
    autocast: bool = False
    gpu_only: bool = True


def _demo() -> Setting:
    config = yaml.safe_load(DEMO.read_text())
    assert config["model"]["class_path"] == "rst.detectors.faster_rcnn"
    side = config["data"]["short_sides"][0]
    arguments = {**config["model"]["init_args"], "weights": None}
    return Setting(arguments, config["data"]["images_per_batch"], side, side, boxes=8, gpu_only=False)


SETTINGS = {
    "demo: MobileNetV2, 4 images of 224 x 224": _demo(),
    "R50-FPN, 4 images of 1333 x 800": Setting({"num_classes": 80, "backbone": "resnet50"}, 4, 800, 1333, boxes=7),
    "R50-FPN, 4 images of 1333 x 800, bfloat16 autocast": Setting(
        {"num_classes": 80, "backbone": "resnet50"}, 4, 800, 1333, boxes=7, autocast=True
    ),
}


def batch(setting: Setting) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of noise with boxes of a fifth of their sides: a step's time does not look closer."""
    generator = torch.Generator().manual_seed(0)
    extent = torch.tensor([setting.width, setting.height])
    images, targets = [], []
    for _ in range(setting.images):
        images.append(torch.rand(3, setting.height, setting.width, generator=generator).to(DEVICE))
        size = (torch.rand(setting.boxes, 2, generator=generator) * 0.15 + 0.08) * extent
        corner = torch.rand(setting.boxes, 2, generator=generator) * (extent - size)
        labels = torch.randint(setting.arguments["num_classes"], (setting.boxes,), generator=generator)
        targets.append({"boxes": torch.cat([corner, corner + size], 1).to(DEVICE), "labels": labels.to(DEVICE)})
    return images, targets


@pytest.mark.parametrize("contender", ROUNDS)
@pytest.mark.parametrize("setting", SETTINGS)
@timed_on_device
def test_step(benchmark, facts, monkeypatch, setting, contender):
    chosen = SETTINGS[setting]
    if chosen.gpu_only and not ON_GPU:
        facts["not_measured"][f"training step, {setting}"] = "needs a GPU"
        pytest.skip("needs a GPU")
    watch = Stopwatch(per_positive_rank_sort if contender == LOOP else rank_sort, CLOCK)
    monkeypatch.setattr("rst.detectors.ranking_losses.rank_sort", watch)
    torch.manual_seed(0)
    arguments = {**chosen.arguments, "loss": "cross_entropy" if contender == SAMPLED else "rank_sort"}
    model = detectors.faster_rcnn(**arguments).to(DEVICE).train()
    images, targets = batch(chosen)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    steps: list[list[list[Any]]] = []  # of each, its own span and then those of its losses

    def precision() -> AbstractContextManager[object]:
        return torch.autocast(DEVICE.type, torch.bfloat16) if chosen.autocast else nullcontext()

    def step() -> None:
        begin = CLOCK()
        optimizer.zero_grad()
        with precision():
            objective = torch.stack(list(model(images, targets).values())).sum()
        objective.backward()
        optimizer.step()
        steps.append([[begin, CLOCK()], *watch.take()])

    benchmark.group = f"training step, {setting}"
    benchmark.pedantic(step, rounds=ROUNDS[contender], warmup_rounds=WARM_UP)
    expected = 0 if contender == SAMPLED else 4
    assert {len(spans) - 1 for spans in steps} == {expected}, "two losses, forward and backward"
    seconds = [[end - begin for begin, end in spans] for spans in steps[WARM_UP:]]
    benchmark.extra_info.update(table="step", setting=setting, contender=contender)
    if expected:
        benchmark.extra_info["loss_share"] = median(sum(losses) / whole for whole, *losses in seconds)
