"""What is known of a training step beforehand: published starting values, who takes part, who gets which gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rst.detectors import FasterRCNN
from rst.detectors.assignment.max_iou import IGNORED, NEGATIVE

RANK_SORT = [f"loss_{head}_{term}" for head in ("rpn", "roi") for term in ("rank", "sort", "bbox")]
CROSS_ENTROPY = [f"loss_{head}_{term}" for head in ("rpn", "roi") for term in ("cls", "bbox")]

Build = Callable[..., FasterRCNN]
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def record(owner: object, method: str) -> list[Any]:
    """The results of every later call of a method."""
    results, original = [], getattr(owner, method)

    def call(*args: Any) -> Any:
        results.append(original(*args))
        return results[-1]

    setattr(owner, method, call)
    return results


def anchor_gradients(model: FasterRCNN, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each anchor of each image the gradient of its logit and its match, both (n, N)."""
    maps: list[Tensor] = []
    hook = model.rpn.head.cls_logits.register_forward_hook(
        lambda module, inputs, output: maps.append(output) or output.retain_grad()
    )
    matches = record(model.rpn, "assign")
    losses = model(*batch)
    sum(v for k, v in losses.items() if k.startswith("loss_rpn")).backward()
    hook.remove()
    gradients = [level.grad for level in maps if level.grad is not None]
    assert len(gradients) == 5
    return torch.cat([g.flatten(1) for g in gradients], dim=1), matches[0]


def test_starting_values_are_the_published_ones(build: Build, batch: Batch):
    losses = build()(*batch)
    assert list(losses) == RANK_SORT
    assert losses["loss_rpn_rank"].item() == pytest.approx(0.2, rel=0.05)
    assert losses["loss_roi_rank"].item() == pytest.approx(1.0, rel=0.1)


def test_box_loss_equals_ranking_and_sorting(build: Build, batch: Batch):
    losses = build()(*batch)
    for head in ("rpn", "roi"):
        rank, sort, bbox = (losses[f"loss_{head}_{term}"] for term in ("rank", "sort", "bbox"))
        torch.testing.assert_close(bbox, rank + sort, rtol=1e-6, atol=0)


def test_classifiers_start_at_one_half(build: Build, batch: Batch):
    model = build(head_channels=256)
    logits = record(model.rpn.head, "forward")
    model(*batch)
    for level in logits[0][0]:
        assert (level.sigmoid() - 0.5).abs().max() < 0.1
    predictor = model.roi_heads.box_predictor
    for layer, std in ((predictor.fc_cls, 0.01), (predictor.fc_reg, 0.001)):
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
    assert predictor.fc_cls.out_features == 3  # no background


def test_every_anchor_outside_the_ignore_zone_takes_part(build: Build, batch: Batch):
    # At the start all logits lie within delta, so no pair's step is flat: who takes part has a gradient.
    gradient, match = anchor_gradients(build(), batch)
    assert (match == IGNORED).sum() > 100  # the ignore zone and, the images being of two sizes, the padding
    assert torch.equal(gradient != 0, match != IGNORED)
    assert torch.equal(gradient < 0, match >= 0)


def test_padding_takes_no_part(build: Build, batch: Batch):
    # The first image is 64 x 96 in a batch of 96 x 96: of P2's 24 rows, the last 8 are below it.
    gradient, _ = anchor_gradients(build(), batch)
    finest = gradient[:, : 3 * 24 * 24].unflatten(1, (3, 24, 24))
    assert not finest[0, :, 16:].any()
    assert finest[1, :, 16:].any()
    assert not finest[1, :, :, 16:].any()  # the second is 90 x 64


def test_cross_entropy_samples(build: Build, batch: Batch):
    model = build(loss="cross_entropy", train_proposals=1000, train_pre_nms=1000)
    gradient, match = anchor_gradients(model, batch)
    assert torch.equal(gradient != 0, match != IGNORED)
    assert torch.equal(gradient < 0, match >= 0)
    assert ((match != IGNORED).sum(1) == 256).all()
    samples = record(model.roi_heads, "training_proposals")
    assert list(model(*batch)) == CROSS_ENTROPY
    boxes, matches = samples[0]
    for match in matches.split([len(b) for b in boxes]):
        assert len(match) <= 512
        assert 0 < (match >= 0).sum() <= 128


def test_every_proposal_and_every_ground_truth_trains_in_the_head(build: Build, batch: Batch):
    model = build()
    proposals, samples = record(model.rpn, "propose"), record(model.roi_heads, "training_proposals")
    pooled = record(model.roi_heads.box_roi_pool, "forward")
    model(*batch)
    boxes, match = samples[0]
    for kept, proposed, target in zip(boxes, proposals[0], batch[1], strict=True):
        assert torch.equal(kept, torch.cat((proposed, target["boxes"])))
    assert len(pooled[0]) == len(match)
    assert set(match.tolist()) == {NEGATIVE, 0, 1, 2}
    last = len(boxes[0])
    assert match[last - 2 : last].tolist() == [0, 1]  # a ground truth matches itself, counted through the batch
    assert match[-1] == 2


def test_order_of_images_does_not_matter(build: Build, batch: Batch):
    model, (images, targets) = build(), batch
    forward, reversed_ = model(images, targets), model(images[::-1], targets[::-1])
    for name, value in forward.items():
        torch.testing.assert_close(reversed_[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_gradients_reach_every_trainable_parameter(build: Build, batch: Batch, loss: str, backbone: str):
    model = build(loss=loss, backbone=backbone)
    sum(model(*batch).values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
    silent = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    # with random weights a whole channel may be dead, but no layer's convolution is
    assert not {n for n in silent if n.endswith("weight") and ".bn" not in n}


def test_detached_labels_and_weights_leave_boxes_to_the_box_loss(build: Build, batch: Batch):
    model = build()
    losses = model(*batch)
    (losses["loss_roi_rank"] + losses["loss_roi_sort"]).backward(retain_graph=True)
    predictor = model.roi_heads.box_predictor
    assert predictor.fc_reg.weight.grad is None
    before = predictor.fc_cls.weight.grad.clone()
    losses["loss_roi_bbox"].backward()
    assert predictor.fc_reg.weight.grad.any()
    assert torch.equal(predictor.fc_cls.weight.grad, before)


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_bfloat16_autocast_costs_float32(build: Build, batch: Batch, loss: str):
    model = build(loss=loss)
    torch.manual_seed(1)
    exact = model(*batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(*batch)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.2, atol=0.05)
    sum(half.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval()(batch[0])
    assert all(f["boxes"].dtype == f["scores"].dtype == torch.float32 for f in found)
