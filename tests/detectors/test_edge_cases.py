"""Batches that broke published code: no objects, no positives, degenerate boxes, NaN; all parameters keep gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rst.detectors import FasterRCNN, faster_rcnn

Build = Callable[..., FasterRCNN]
LOSSES = pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, 64, 64, generator=generator), torch.rand(3, 48, 80, generator=generator)]


def target(*boxes: list[float]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


def step(model: FasterRCNN, targets: list[dict[str, Tensor]]) -> dict[str, float]:
    """Losses of one step, having checked that they and every gradient are finite and there."""
    losses = model(images(), targets)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name}: distributed training would wait for it"
            assert parameter.grad.isfinite().all(), name
    values = {name: loss.item() for name, loss in losses.items()}
    assert all(value == value for value in values.values()), values
    return values


@LOSSES
def test_an_image_without_objects(build: Build, loss: str):
    assert step(build(loss=loss), [target([8.0, 8, 40, 40]), target()])["loss_roi_bbox"] > 0


@LOSSES
def test_a_batch_without_objects(build: Build, loss: str):
    values = step(build(loss=loss), [target(), target()])
    assert values["loss_rpn_bbox"] == values["loss_roi_bbox"] == 0
    if loss == "rank_sort":
        assert not any(values.values())


@LOSSES
def test_degenerate_boxes_are_as_good_as_none(build: Build, loss: str):
    degenerate = [10.0, 10, 10, 30], [10.0, 10, 30, 10], [7.0, 7, 7, 7]
    torch.manual_seed(5)
    with_them = step(build(loss=loss), [target([8.0, 8, 40, 40], *degenerate), target(*degenerate)])
    torch.manual_seed(5)
    assert with_them == step(build(loss=loss), [target([8.0, 8, 40, 40]), target()])


@LOSSES
@pytest.mark.parametrize(
    "box", [[20, 20, 20.001, 60], [30, 30, 30.0001, 30.0001], [-40, -40, -20, -20], [0, 0, 9e4, 9e4]]
)
def test_slivers_specks_and_boxes_outside(build: Build, loss: str, box: list[float]):
    step(build(loss=loss), [target(box), target()])


@LOSSES
def test_no_positives_in_the_rpn_but_in_the_head(build: Build, loss: str):
    # Too small for any anchor to reach IoU 0.3; as a proposal of its own it is a positive of the head.
    values = step(build(loss=loss), [target([20.0, 20, 24, 24]), target()])
    assert values["loss_rpn_bbox"] == 0
    assert values["loss_roi_bbox"] > 0


@LOSSES
def test_no_proposals_at_all(build: Build, loss: str):
    model = build(loss=loss, train_proposals=0, test_proposals=0)
    values = step(model, [target(), target()])
    assert values["loss_roi_bbox"] == 0
    found = model.eval()(images())
    assert [len(f["boxes"]) for f in found] == [0, 0]


@LOSSES
def test_many_steps_on_few_and_no_objects(build: Build, loss: str):
    model = build(loss=loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for objects in (1, 0, 2, 0, 0, 1):
        optimizer.zero_grad()
        step(model, [target(*[[8.0, 8, 40, 40], [20.0, 4, 60, 44]][:objects]), target()])
        optimizer.step()


@LOSSES
def test_nan_reaches_the_losses_and_crashes_nothing(build: Build, loss: str):
    model = build(loss=loss)
    torch.nn.init.constant_(model.backbone.fpn.layer_blocks[0][0].weight, torch.nan)
    losses = model(images(), [target([8.0, 8, 40, 40]), target()])
    assert sum(losses.values()).isnan()
    found = model.eval()(images())
    assert all(f["scores"].isfinite().all() for f in found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "focal"}, "loss='focal' is not one of rank_sort, cross_entropy"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"backbone": "alexnet"}, "backbone='alexnet'"),
    ],
)
def test_refused_options(options: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        faster_rcnn(**options)


def test_a_training_step_needs_targets_within_the_classes(build: Build):
    model = build(num_classes=2)
    with pytest.raises(ValueError, match="targets is None"):
        model(images())
    wrong = {"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([2])}
    with pytest.raises(ValueError, match=r"targets\[1\]\['labels'\] holds 2, which is not in \[0, 2\)"):
        model(images(), [target(), wrong])
