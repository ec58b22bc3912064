"""One training step and one evaluation of every recipe of every detector, to compare with stored values.

`python tests/support/recipe_cases.py FILE.npz` stores them. For each case: the loss terms and statistics, of each
parameter's gradient the sum of absolute values, of an evaluation the sums of boxes, scores and labels, and digests of
all bits of both.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rst.detectors import BackboneSettings, DetectionSettings, ProposalSettings, atss, faster_rcnn

BACKBONE = BackboneSettings("mobilenet_v2", fpn_channels=16)
FASTER_RCNN = {
    "backbone": BACKBONE,
    "head_channels": 32,
    "proposals": ProposalSettings(train_pre_nms=100, train_limit=50, test_pre_nms=100, test_limit=50),
}
ATSS = {
    "backbone": BACKBONE,
    "head_channels": 64,
    "detections": DetectionSettings(score_threshold=0.005, nms_iou=0.6),
}

BUILDERS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "faster_rcnn": (faster_rcnn, FASTER_RCNN),
    "atss": (atss, ATSS),
}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "faster_rcnn": [
        {"loss": "rank_sort"},
        {"loss": "rank_sort", "delta": 0.0},
        {"loss": "rank_sort", "sorting_error": False},
        {"loss": "rank_sort", "score_weighting": False},
        {"loss": "rank_sort", "task_balance": "magnitude"},
        {"loss": "rank_sort", "task_balance": 2.0},
        {"loss": "cross_entropy"},
    ],
    "atss": [
        {"loss": "rank_sort"},
        {"loss": "rank_sort", "delta": 0.0},
        {"loss": "rank_sort", "sorting_error": False},
        {"loss": "rank_sort", "score_weighting": False},
        {"loss": "rank_sort", "task_balance": "magnitude"},
        {"loss": "rank_sort", "task_balance": 2.0},
        {"loss": "average_precision"},
        {"loss": "average_precision", "centerness": True},
        {"loss": "alrp"},
        {"loss": "focal"},
        {"loss": "focal", "centerness": True},
        {"loss": "qfl"},
    ],
}


def names() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each case its name, detector and options."""
    for detector, recipes in RECIPES.items():
        for options in recipes:
            yield " ".join([detector, *(f"{key}={value}" for key, value in options.items())]), detector, options


def batches() -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Two images of different sizes with three objects of three classes, and the same without any object."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 96, generator=generator), torch.rand(3, 90, 64, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 50], [50, 10, 90, 44]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.tensor([[10.0, 20, 52, 80]]), "labels": torch.tensor([1])},
    ]
    yield images, targets
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    yield images, [nothing, nothing]


def run(detector: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of one case, by name."""
    build, small = BUILDERS[detector]
    torch.manual_seed(0)
    model = build(num_classes=3, **(small | options))
    results: dict[str, Any] = {}
    for number, (images, targets) in enumerate(batches()):
        torch.manual_seed(number)  # of the samplers
        model.train()
        model.zero_grad(set_to_none=True)
        losses = model(images, targets)
        sum(losses.values()).backward()
        values = losses | model.statistics  # pyright: ignore[reportOperatorIssue]
        results |= {f"{number} {name}": value.detach().numpy() for name, value in values.items()}
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results[f"{number} gradients"] = torch.stack([g.double().abs().sum() for g in gradients]).numpy()
        results[f"{number} digest"] = digest(gradients)
    model.eval()
    with torch.no_grad():
        found = model(images)
    detections = [torch.cat([f[key] for f in found]) for key in ("boxes", "scores", "labels")]
    results["detections"] = torch.stack([part.double().sum() for part in detections]).numpy()
    results["detections digest"] = digest(detections)
    return results


def digest(tensors: list[Tensor]) -> np.ndarray:
    """(32,) uint8: of all bits of the tensors, in their order."""
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(tensor.detach().contiguous().numpy().tobytes())
    return np.frombuffer(state.digest(), dtype=np.uint8)


def platform() -> np.ndarray:
    """(32,) uint8: a digest of what this machine and torch make of a convolution, a product and an exponential."""
    generator = torch.Generator().manual_seed(7)
    x, w = torch.randn(2, 16, 24, 40, generator=generator), torch.randn(32, 16, 3, 3, generator=generator)
    y = nn.functional.conv2d(x, w)
    z = y.flatten(1)[:, :512] @ torch.randn(512, 96, generator=generator)
    return digest([y, z, z.sigmoid(), z.softmax(1), y.exp().sum((2, 3))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    stored = {"platform": platform()}
    for name, detector, options in names():
        stored |= {f"{name} | {key}": value for key, value in run(detector, options).items()}
    np.savez_compressed(Path(sys.argv[1]), **stored)
    print(len(stored), "values")
