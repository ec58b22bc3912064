"""Mask Scoring R-CNN: the IoU that a mask should be given, its loss, and the scores of masks of detections."""

import pytest
import torch
from detector_cases import MASKS, Batch, Case
from spies import record

from rst.detectors import MaskSettings, TwoStageDetector, faster_rcnn, mask_rcnn
from rst.detectors.geometry.masks import shares_inside
from rst.detectors.heads.mask_score_head import mask_ious


def build() -> TwoStageDetector:
    model = Case("mask scoring R-CNN", {"loss": "cross_entropy"}).build()
    assert isinstance(model, TwoStageDetector)
    return model


def test_shares_inside_are_counts_of_pixels():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 30, 40, generator=generator) > 0.6
    masks[3] = False
    low = torch.rand(300, 2, generator=generator) * torch.tensor([44.0, 34.0]) - 2
    boxes = torch.cat((low, low + torch.rand(300, 2, generator=generator) * 25), dim=1)
    counts = [100, 50, 100, 50]
    found = shares_inside([masks[:1], masks[1:]], boxes, counts)
    owners = [i for i, count in enumerate(counts) for _ in range(count)]
    for share, box, owner in zip(found.tolist(), boxes.tolist(), owners, strict=True):
        left, top, right, bottom = (max(0, int(value) + end) for value, end in zip(box, (0, 0, 1, 1), strict=True))
        inside = masks[owner, top:bottom, left:right].sum().item()
        assert share == pytest.approx(inside / max(masks[owner].sum().item(), 1), abs=1e-6)


def test_the_iou_of_a_mask_counts_what_lies_outside_of_its_roi():
    logits = torch.full((3, 4, 4), -5.0)
    logits[:, :2] = 5  # the upper half: 8 cells
    truths = torch.zeros(3, 4, 4)
    truths[:, :, :2] = 1  # the left half: 8 cells, 4 in common
    truths[2] = 0
    found = mask_ious(logits, truths, torch.tensor([1.0, 0.5, 0.3]))
    assert found.tolist() == pytest.approx([4 / 12, 4 / (8 + 16 - 4), 0], abs=1e-5)


def test_the_loss_is_half_the_mean_square_over_masks_that_meet_their_object(batch: Batch):
    model = build()
    given = record(model.box_heads[0].loss, "forward", argument=True)
    losses = model(*batch)
    task = given[0].tasks["mask_score"]
    meeting = task.truths > 0
    assert meeting.any()
    expected = 0.5 * (task.predicted - task.truths)[meeting].square().mean()
    torch.testing.assert_close(losses["loss_roi_mask_score"], expected)
    nothing = type(task)(task.predicted, torch.zeros_like(task.truths))
    assert nothing.mean_square() == 0


def test_masks_of_detections_have_the_product_of_both_scores(batch: Batch):
    model = build().eval()
    torch.nn.init.constant_(model.mask_heads[0].score_head.iou.bias, 0.5)
    torch.nn.init.zeros_(model.mask_heads[0].score_head.iou.weight)
    with torch.no_grad():
        found = model(batch[0])
    for of_image in found:
        torch.testing.assert_close(of_image["mask_scores"], 0.5 * of_image["scores"])
    torch.nn.init.constant_(model.mask_heads[0].score_head.iou.bias, 7.0)
    with torch.no_grad():
        found = model(batch[0])
    assert all(torch.equal(of_image["mask_scores"], of_image["scores"]) for of_image in found), "an IoU is at most 1"


def test_a_loss_that_ranks_has_no_auxiliary_head():
    with pytest.raises(ValueError, match=r"masks.scoring=True does not go with loss='rank_sort'"):
        mask_rcnn(3, masks=MaskSettings(scoring=True))
    assert "mask_scores" not in Case("mask_rcnn", {"loss": "cross_entropy"}).build().eval()([torch.zeros(3, 64, 64)])[0]
    assert faster_rcnn(3, loss="cross_entropy", masks=MASKS).iou_types == ("bbox", "segm")
