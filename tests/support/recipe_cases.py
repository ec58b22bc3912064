"""One training step and one evaluation of every recipe of every detector, to compare with stored values.

`python tests/support/recipe_cases.py FOLDER DETECTOR ...` stores them, each detector's in the file that `stored_in`
names. For each case: the loss terms and statistics, of each
parameter's gradient the sum of absolute values, of an evaluation the sums of boxes, scores and labels, and digests of
all bits of both.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detector_cases import CASES, Batch, Case, objects_batch, with_masks
from torch import Tensor, nn

SWITCHES: list[dict[str, Any]] = [
    {"delta": 0.0},
    {"sorting_error": False},
    {"score_weighting": False},
    {"task_balance": "magnitude"},
    {"task_balance": 2.0},
]
# Of the ranking recipes: as published, which was the only way when most values were stored.
PUBLISHED: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"truths_in_box_loss": True},
    "atss": {"score_scaling": False},
    "paa": {"score_scaling": False},
    "solov2": {"score_scaling": False},
    "yolact": {"score_scaling": False},
}
# without stored values: they came later, with tests of their own
NEWER = {("faster_rcnn", "cross_entropy_giou"), ("faster_rcnn", "alrp")}
RANKING = {"rank_sort", "average_precision", "alrp"}
MENDED = [Case("faster_rcnn", {"loss": "rank_sort", "truths_in_box_loss": False})]


def cases() -> dict[str, Case]:
    """Detectors of `PUBLISHED`, every loss and every switch of Rank & Sort, by name; then what is not published."""
    plain = [
        case for case in CASES if case.detector in PUBLISHED and (case.detector, case.options["loss"]) not in NEWER
    ]
    switched = [Case(case.detector, case.options | switch) for case in plain for switch in SWITCHES if case.sorts]
    named = {case_name(case): case for case in [*plain, *switched]}
    published = {
        name: Case(case.detector, PUBLISHED[case.detector] | case.options) if case.options["loss"] in RANKING else case
        for name, case in named.items()
    }
    return published | {case_name(case): case for case in MENDED}


def stored_in(detector: str) -> str:
    """The file in tests/data with the values of a detector."""
    return f"{detector}_steps.npz" if detector in ("paa", "solov2", "yolact") else "detector_steps.npz"


def case_name(case: Case) -> str:
    """Detector and options."""
    return " ".join([case.detector, *(f"{key}={value}" for key, value in case.options.items())])


def batches() -> Iterator[Batch]:
    """A batch with objects, and the same images without any."""
    images, targets = objects_batch()
    yield images, targets
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    yield images, with_masks(images, [nothing, nothing])


def run(case: Case) -> dict[str, np.ndarray]:
    """The numbers of one case, by name."""
    model = case.build()
    results: dict[str, Any] = {}
    for number, (images, targets) in enumerate(batches()):
        torch.manual_seed(number)  # of the samplers
        model.train()
        model.zero_grad(set_to_none=True)
        losses = model(images, targets)
        sum(losses.values()).backward()
        values = losses | model.statistics
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
    """(32,) uint8: a digest of torch's version and of what this machine makes of convolutions, products, exponentials.

    The version is named, because gradients may round otherwise where all of these are equal (torch 2.11 and 2.14).
    """
    generator = torch.Generator().manual_seed(7)
    x, w = torch.randn(2, 16, 24, 40, generator=generator), torch.randn(32, 16, 3, 3, generator=generator)
    y = nn.functional.conv2d(x, w)
    z = y.flatten(1)[:, :512] @ torch.randn(512, 96, generator=generator)
    version = torch.tensor(list(torch.__version__.encode()), dtype=torch.uint8)
    return digest([version, y, z, z.sigmoid(), z.softmax(1), y.exp().sum((2, 3))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *detectors = sys.argv[1:]
    for file in {stored_in(detector) for detector in detectors}:
        stored = {"platform": platform()}
        for name, case in cases().items():
            if stored_in(case.detector) == file:
                stored |= {f"{name} | {key}": value for key, value in run(case).items()}
        np.savez_compressed(Path(folder) / file, **stored)
        print(file, len(stored), "values")
