"""The share of the ranking losses in a training step of the demo, forward and backward."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from rst import detectors
from rst.kernels import autograd

DEMO = Path(__file__).parent.parent / "configs" / "sample" / "rs_faster_rcnn_mobilenetv2.yaml"


def crowns(count: int, side: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images of noise with a demo tile's number of boxes in a demo tile's sizes: a step's time does not look closer."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, side, side, generator=generator) for _ in range(count)]
    targets = []
    for _ in images:
        size = torch.rand(8, 2, generator=generator) * side * 0.15 + side * 0.08
        corner = torch.rand(8, 2, generator=generator) * (side - size)
        targets.append({"boxes": torch.cat([corner, corner + size], 1), "labels": torch.zeros(8, dtype=torch.int64)})
    return images, targets


@pytest.fixture
def spent(monkeypatch) -> list[float]:
    """Seconds inside the losses' forward and backward, one entry a call."""
    seconds: list[float] = []

    def timed(function: Callable) -> Callable:
        def run(*arguments):
            begin = time.perf_counter()
            result = function(*arguments)
            seconds.append(time.perf_counter() - begin)
            return result

        return run

    monkeypatch.setattr(autograd.RankSort, "forward", staticmethod(timed(autograd.RankSort.forward)))
    monkeypatch.setattr(autograd.RankSort, "backward", staticmethod(timed(autograd.RankSort.backward)))
    return seconds


def test_share_of_the_losses_in_a_demo_step(benchmark, spent):
    config = yaml.safe_load(DEMO.read_text())
    assert config["model"]["class_path"] == "rst.detectors.faster_rcnn"
    model = detectors.faster_rcnn(**{**config["model"]["init_args"], "weights": None}).train()
    images, targets = crowns(config["data"]["images_per_batch"], config["data"]["short_sides"][0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    shares: list[float] = []

    def step() -> None:
        spent.clear()
        begin = time.perf_counter()
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
        shares.append(sum(spent) / (time.perf_counter() - begin))
        assert len(spent) == 4, "two losses, forward and backward"

    benchmark.group = "training step of the demo"
    benchmark.pedantic(step, rounds=15, warmup_rounds=3)
    shares = sorted(shares[3:])
    benchmark.extra_info.update(contender="RS Faster R-CNN", loss_share=shares[len(shares) // 2])
