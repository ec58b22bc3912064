"""PAA's assignment against a slow, plain restatement with scikit-learn's mixtures; and worked cases.

`RST_PAA_BATCHES=1000` tries more batches.
"""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussian_mixtures import fitted_by_sklearn
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from rst.detectors import BoxCoder, GroundTruth, Predictions, Scene
from rst.detectors.assignment.anchors import AnchorGenerator
from rst.detectors.assignment.probabilistic import ProbabilisticAssigner
from rst.detectors.assignment.scene import IGNORED, NEGATIVE
from rst.detectors.geometry.boxes import pairwise_iou
from rst.detectors.geometry.layout import padded_sizes

BATCHES = int(os.environ.get("RST_PAA_BATCHES", "60"))
STRIDES, CLASSES = (8, 16, 32, 64, 128), 3
CODER = BoxCoder((0.1, 0.1, 0.2, 0.2))


def scene_of(sizes: list[tuple[int, int]], truths: list[Tensor], scales: list[float]) -> Scene:
    height, width = (max(sides) for sides in zip(*padded_sizes(sizes), strict=True))
    maps = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    labels = [torch.arange(len(boxes)) % CLASSES for boxes in truths]
    generator = AnchorGenerator(STRIDES, scales, (1.0,))
    return generator.scene(maps, sizes, (height, width), GroundTruth(truths, labels))


def random_predictions(scene: Scene, generator: torch.Generator, spread: float = 1.0) -> Predictions:
    def maps(channels: int, mean: float) -> list[Tensor]:
        shape = (scene.layout.images, scene.layout.anchors * channels)
        return [mean + spread * torch.randn(*shape, *size, generator=generator) for size in scene.layout.sizes]

    return Predictions(maps(CLASSES, -3), maps(4, 0))


def random_scene(draw: random.Random) -> Scene:
    sizes = [(draw.randint(16, 140), draw.randint(16, 140)) for _ in range(draw.choice([1, 2]))]
    truths = []
    for height, width in sizes:
        boxes = []
        for _ in range(draw.choice([0, 1, 2, 4])):
            w, h = (draw.choice([draw.uniform(0.1, 4), draw.uniform(8, 60), draw.uniform(60, 300)]) for _ in "wh")
            x, y = draw.uniform(-5, width), draw.uniform(-5, height)
            boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        truths.append(torch.tensor(boxes).reshape(-1, 4))
    count = draw.choice([1, 3])
    return scene_of(sizes, truths, [draw.choice([4.0, 8.0]) * 2 ** (k / count) for k in range(count)])


def restated_owners(scene: Scene) -> list[list[int]]:
    owners, seen = [], 0
    for image, boxes in enumerate(scene.truth.boxes):
        inside = torch.ones(len(scene.anchors), dtype=torch.bool)
        if scene.outside is not None:
            inside = ~scene.outside[image]
        owner = [NEGATIVE] * len(scene.anchors)
        overlaps = pairwise_iou(boxes, scene.anchors) if len(boxes) else torch.zeros(0, len(scene.anchors))
        for anchor in inside.nonzero().flatten().tolist():
            of_anchor = overlaps[:, anchor].tolist()
            if of_anchor and max(of_anchor) >= np.float32(0.1):
                owner[anchor] = seen + of_anchor.index(max(of_anchor))
        for g, of_object in enumerate(overlaps):
            best = of_object[inside].max()
            if best > 0:
                for anchor in ((of_object == best) & inside).nonzero().flatten().tolist():
                    owner[anchor] = seen + g
        owners.append(owner)
        seen += len(boxes)
    return owners


def restated_losses(scene: Scene, predictions: Predictions, owners: list[list[int]], weight: float) -> dict:
    """Of each anchor with an owner, by (image, anchor): its level and its loss, in float64."""
    found = {}
    for image, owner in enumerate(owners):
        first = 0
        for level, (height, width) in enumerate(scene.layout.sizes):
            of_level = range(first, first := first + scene.layout.anchors * height * width)
            own = [anchor for anchor in of_level if owner[anchor] >= 0]
            if not own:
                continue
            places, objects = torch.tensor(own) - of_level.start, torch.tensor([owner[anchor] for anchor in own])
            logits, deltas = (
                maps[level][image].double().unflatten(0, (-1, c)).movedim(1, -1).reshape(-1, c)[places]
                for maps, c in ((predictions.logits, CLASSES), (predictions.deltas, 4))
            )
            truths = torch.nn.functional.one_hot(scene.truth.all_labels[objects], CLASSES).double()
            boxes = CODER.decode_single(deltas, scene.anchors[own].double())
            giou = generalized_box_iou(boxes, scene.truth.all_boxes[objects].double()).diagonal()
            losses = sigmoid_focal_loss(logits, truths, alpha=0.25, gamma=2).sum(1) + weight * (1 - giou)
            found |= {(image, anchor): (level, loss) for anchor, loss in zip(own, losses.tolist(), strict=True)}
    return found


def test_batches_against_the_restatement():
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    positives = objects = ties = 0
    for number in range(BATCHES):
        scene, weight = random_scene(draw), draw.choice([1.0, 1.3, 2.0])
        predictions = random_predictions(scene, generator)
        assigner = ProbabilisticAssigner(CODER, draw.choice([2, 9, 9]), weight)
        match, owners = assigner.match(scene, predictions), restated_owners(scene)
        own = assigner.nearest_objects(scene)
        assert own.tolist() == owners, number
        if not len(scene.truth.all_boxes):
            continue
        losses = assigner.losses(own, scene, predictions)
        expected = restated_losses(scene, predictions, owners, weight)
        for g in range(len(scene.truth.all_boxes)):
            candidates = []
            for level in range(len(STRIDES)):
                mine = [key for key, (own_level, _) in expected.items() if own_level == level and own[key] == g]
                for key in mine:
                    assert abs(losses[key].item() - expected[key][1]) < 1e-5 + 1e-4 * expected[key][1]
                # the same losses from here on: float32 and float64 may order two of them otherwise
                candidates += sorted((losses[key].item(), key) for key in mine)[: assigner.candidates_per_level]
            candidates.sort()
            got = [place for place, (_, key) in enumerate(candidates) if match[key] == g]
            assert len(got) == (match == g).sum()
            oracle = fitted_by_sklearn([loss for loss, _ in candidates]) if len(candidates) > 1 else None
            if got != (oracle.positives() if oracle else []):
                assert oracle is not None, f"batch {number}: a single candidate is no positive"
                assert oracle.tied(got), f"batch {number}, object {g}"
                ties += 1
            objects += 1
            positives += len(got)
        assert {NEGATIVE, *range(len(scene.truth.all_boxes))} >= set(match.flatten().tolist())
    assert positives > 2 * BATCHES
    assert ties <= 0.03 * objects


def test_padding_has_no_candidates_and_is_ignored():
    truths = [torch.tensor([[4.0, 8, 28, 31.5]]), torch.tensor([[4.0, 8, 28, 31.5]])]
    scene = scene_of([(32, 32), (128, 128)], truths, [4.0])
    assert scene.outside is not None
    predictions = random_predictions(scene, torch.Generator().manual_seed(1))
    called = ProbabilisticAssigner(CODER)(scene, predictions)
    assert torch.equal(called == IGNORED, scene.outside)
    assert {0, 1} < set(called.flatten().tolist())


def test_no_object_at_all_and_an_object_that_no_anchor_overlaps():
    assigner = ProbabilisticAssigner(CODER)
    for truths in ([torch.zeros(0, 4)] * 2, [torch.zeros(0, 4), torch.tensor([[-900.0, -900, -800, -800]])]):
        scene = scene_of([(32, 32), (64, 32)], truths, [4.0])
        match = assigner.match(scene, random_predictions(scene, torch.Generator().manual_seed(1)))
        assert (match == NEGATIVE).all()
        assert match.shape == (2, len(scene.anchors))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_predictions_that_are_not_finite_leave_a_positive(value: float):
    """So a step with NaN everywhere has a loss of NaN, and not of zero."""
    scene = scene_of([(64, 64)], [torch.tensor([[4.0, 8, 28, 31.5], [30, 30, 60, 60]])], [4.0])
    predictions = random_predictions(scene, torch.Generator().manual_seed(1))
    for level in (*predictions.logits, *predictions.deltas):
        level.fill_(value)
    match = ProbabilisticAssigner(CODER).match(scene, predictions)
    assert {0, 1} <= set(match.flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    scene = random_scene(random.Random(5))
    given = random_predictions(scene, torch.Generator().manual_seed(1))
    half = Predictions(*([level.to(dtype) for level in maps] for maps in given))
    rounded = Predictions(*([level.float() for level in maps] for maps in half))
    assigner = ProbabilisticAssigner(CODER)
    assert torch.equal(assigner.match(scene, half), assigner.match(scene, rounded))


def test_the_box_error_counts_by_its_weight():
    scene = random_scene(random.Random(9))
    predictions = random_predictions(scene, torch.Generator().manual_seed(1))
    own = ProbabilisticAssigner(CODER).nearest_objects(scene)
    none, once, more = (ProbabilisticAssigner(CODER, 9, w).losses(own, scene, predictions) for w in (0.0, 1.0, 1.3))
    torch.testing.assert_close(more - none, 1.3 * (once - none), rtol=1e-4, atol=1e-5)


def test_matching_waits_for_no_device():
    scene = scene_of([(64, 64), (32, 64)], [torch.tensor([[4.0, 8, 28, 31.5]]), torch.zeros(0, 4)], [4.0])
    predictions = random_predictions(scene, torch.Generator().manual_seed(1))
    with FakeTensorMode() as mode:  # it raises where a value is asked for
        truth = GroundTruth(
            *([mode.from_tensor(t) for t in given] for given in (scene.truth.boxes, scene.truth.labels))
        )
        maps = Predictions(*([mode.from_tensor(level) for level in given] for given in predictions))
        assert scene.outside is not None
        fake = replace(scene, anchors=mode.from_tensor(scene.anchors), outside=mode.from_tensor(scene.outside))
        assert ProbabilisticAssigner(CODER)(replace(fake, truth=truth), maps).shape == (2, len(scene.anchors))
