"""Faster R-CNN: published starting values, who takes part, which gradient goes where, and what it refuses."""

from typing import Any

import pytest
import torch
from detector_cases import Batch, Case, random_images, step, target
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import generalized_box_iou

from rst.detectors import BackboneSettings, ProposalSettings, TwoStageDetector, faster_rcnn
from rst.detectors.assignment.sampling import SampledAssigner
from rst.detectors.assignment.scene import IGNORED, NEGATIVE

RANK_SORT = [f"loss_{head}_{term}" for head in ("rpn", "roi") for term in ("rank", "sort", "bbox")]
CROSS_ENTROPY = [f"loss_{head}_{term}" for head in ("rpn", "roi") for term in ("cls", "bbox")]


def build(loss: str = "rank_sort", **options: Any) -> TwoStageDetector:
    model = Case("faster_rcnn", {"loss": loss}).build(**options)
    assert isinstance(model, TwoStageDetector)
    return model


def record(owner: object, method: str) -> list[Any]:
    """The results of every later call of a method."""
    results, original = [], getattr(owner, method)

    def call(*args: Any) -> Any:
        results.append(original(*args))
        return results[-1]

    setattr(owner, method, call)
    return results


def anchor_gradients(model: TwoStageDetector, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each anchor of each image the gradient of its logit and its match, both (n, N)."""
    maps: list[Tensor] = []
    hook = model.rpn.head.cls_logits.register_forward_hook(
        lambda module, inputs, output: maps.append(output) or output.retain_grad()
    )
    matches = record(model.rpn, "assigner")
    losses = model(*batch)
    sum(v for k, v in losses.items() if k.startswith("loss_rpn")).backward()
    hook.remove()
    gradients = [level.grad for level in maps if level.grad is not None]
    assert len(gradients) == 5
    return torch.cat([g.flatten(1) for g in gradients], dim=1), matches[0]


def test_starting_values_are_the_published_ones(batch: Batch):
    losses = build()(*batch)
    assert list(losses) == RANK_SORT
    assert losses["loss_rpn_rank"].item() == pytest.approx(0.2, rel=0.05)
    assert losses["loss_roi_rank"].item() == pytest.approx(1.0, rel=0.1)


def test_box_loss_equals_ranking_and_sorting(batch: Batch):
    losses = build()(*batch)
    for head in ("rpn", "roi"):
        rank, sort, bbox = (losses[f"loss_{head}_{term}"] for term in ("rank", "sort", "bbox"))
        torch.testing.assert_close(bbox, rank + sort, rtol=1e-6, atol=0)


def test_classifiers_start_at_one_half(batch: Batch):
    model = build(head_channels=256)
    logits = record(model.rpn.head, "forward")
    model(*batch)
    for level in logits[0][0]:
        assert (level.sigmoid() - 0.5).abs().max() < 0.1
    predictor = model.box_heads[0].predictor
    for layer, std in ((predictor.fc_cls, 0.01), (predictor.fc_reg, 0.001)):
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
    assert predictor.fc_cls.out_features == 3  # no background


def test_every_anchor_outside_the_ignore_zone_takes_part(batch: Batch):
    # At the start all logits lie within delta, so no pair's step is flat: who takes part has a gradient.
    gradient, match = anchor_gradients(build(), batch)
    assert (match == IGNORED).sum() > 100  # the ignore zone and, the images being of two sizes, the padding
    assert torch.equal(gradient != 0, match != IGNORED)
    assert torch.equal(gradient < 0, match >= 0)


def test_padding_takes_no_part(batch: Batch):
    # The first image is 64 x 96 in a batch of 96 x 96: of P2's 24 rows, the last 8 are below it.
    gradient, _ = anchor_gradients(build(), batch)
    finest = gradient[:, : 3 * 24 * 24].unflatten(1, (3, 24, 24))
    assert not finest[0, :, 16:].any()
    assert finest[1, :, 16:].any()
    assert not finest[1, :, :, 16:].any()  # the second is 90 x 64


def test_cross_entropy_samples(batch: Batch):
    model = build("cross_entropy", proposals=ProposalSettings(1000, 1000))
    gradient, match = anchor_gradients(model, batch)
    assert torch.equal(gradient != 0, match != IGNORED)
    assert torch.equal(gradient < 0, match >= 0)
    assert ((match != IGNORED).sum(1) == 256).all()
    samples = record(model.box_heads[0], "sample")
    assert list(model(*batch)) == CROSS_ENTROPY
    boxes, matches, is_truth = samples[0].proposals, samples[0].match, samples[0].is_truth
    assert len(is_truth) == len(matches)
    for match in matches.split([len(b) for b in boxes]):
        assert len(match) <= 512
        assert 0 < (match >= 0).sum() <= 128


SAMPLINGS = pytest.mark.parametrize(("rpn", "roi"), [("random", "random"), ("all", "random"), ("all", "all")])


@SAMPLINGS
@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy", "cross_entropy_giou"])
def test_samplers_go_with_every_loss(loss: str, rpn: str, roi: str, batch: Batch):
    """Table 10: what is not drawn takes no part in the gradient, and the statistics count what does."""
    model = build(loss, proposals=ProposalSettings(1000, 1000), rpn_sampling=rpn, roi_sampling=roi)
    assert (model.box_heads[0].sampler is None) == (roi == "all")
    if model.box_heads[0].sampler is not None:
        model.box_heads[0].sampler = BalancedPositiveNegativeSampler(64, 0.25)  # so small images have fewer than 512
    samples, rois = record(model.box_heads[0], "sample"), record(model.box_heads[0], "forward")
    proposals = record(model.rpn, "propose")
    gradient, match = anchor_gradients(model, batch)
    trained = match != IGNORED
    assert torch.equal(gradient != 0, trained)
    assert (trained.sum(1) == 256).all() == (rpn == "random")
    positives, statistics = int((match >= 0).sum()), model.statistics
    assert statistics["positives_rpn"] == positives
    assert statistics["negatives_per_positive_rpn"] == (int(trained.sum()) - positives) / positives

    boxes, matches = samples[0].proposals, samples[0].match
    sizes = [len(of_image) for of_image in boxes]
    assert len(rois[0].logits) == len(matches) == sum(sizes)
    objects = [len(target["labels"]) for target in batch[1]]
    offered = [len(of_image) + count for of_image, count in zip(proposals[0], objects, strict=True)]
    assert sizes == ([64, 64] if roi == "random" else offered)
    positives = int((matches >= 0).sum())
    assert statistics["negatives_per_positive_roi"] == (3 * len(matches) - positives) / positives


def test_a_sampling_that_is_not_given_is_the_one_of_the_loss():
    for loss, sampled in (("rank_sort", False), ("cross_entropy", True), ("cross_entropy_giou", True)):
        model = build(loss)
        assert isinstance(model.rpn.assigner, SampledAssigner) == (model.box_heads[0].sampler is not None) == sampled


def test_the_giou_baseline_differs_in_its_box_losses(batch: Batch):
    """Table 1, row GIoU: ten times GIoU in the R-CNN head, L1 in the RPN; the same samples and classifiers."""
    torch.manual_seed(5)
    given, model = {}, build("cross_entropy_giou")
    for head in (model.rpn, model.box_heads[0]):
        given[head] = record(head, "outputs")
    losses = model(*batch)
    boxes = given[model.box_heads[0]][0].tasks["bbox"]
    errors = 1 - generalized_box_iou(boxes.predicted, boxes.truths).diagonal()
    candidates = len(given[model.box_heads[0]][0].classification.logits[0])
    assert losses["loss_roi_bbox"].item() == pytest.approx(10 * errors.sum().item() / candidates, rel=1e-5)
    anchors = given[model.rpn][0].tasks["bbox"]
    targets = anchors.coder.encode_single(anchors.truths, anchors.references)
    expected = (anchors.deltas - targets).abs().sum().item() / (2 * 256)
    assert losses["loss_rpn_bbox"].item() == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(5)
    plain = build("cross_entropy")(*batch)
    assert all(torch.equal(losses[name], plain[name]) for name in ("loss_rpn_cls", "loss_roi_cls"))


def test_every_proposal_and_every_ground_truth_trains_in_the_head(batch: Batch):
    model = build()
    proposals, samples = record(model.rpn, "propose"), record(model.box_heads[0], "sample")
    pooled = record(model.box_heads[0].pool, "forward")
    model(*batch)
    boxes, match, is_truth = samples[0].proposals, samples[0].match, samples[0].is_truth
    for kept, proposed, objects in zip(boxes, proposals[0], batch[1], strict=True):
        assert torch.equal(kept, torch.cat((proposed, objects["boxes"])))
    assert len(pooled[0]) == len(match)
    own = torch.cat([torch.arange(len(b)) >= len(p) for b, p in zip(boxes, proposals[0], strict=True)])
    assert torch.equal(is_truth, own)
    assert set(match.tolist()) == {NEGATIVE, 0, 1, 2}
    last = len(boxes[0])
    assert match[last - 2 : last].tolist() == [0, 1]  # a ground truth matches itself, counted through the batch
    assert match[-1] == 2


def test_detached_labels_and_weights_leave_boxes_to_the_box_loss(batch: Batch):
    model = build()
    losses = model(*batch)
    (losses["loss_roi_rank"] + losses["loss_roi_sort"]).backward(retain_graph=True)
    predictor = model.box_heads[0].predictor
    assert predictor.fc_reg.weight.grad is None
    before = predictor.fc_cls.weight.grad.clone()
    losses["loss_roi_bbox"].backward()
    assert predictor.fc_reg.weight.grad.any()
    assert torch.equal(predictor.fc_cls.weight.grad, before)


@pytest.mark.parametrize(
    ("options", "localised"),
    [
        ({"loss": "rank_sort"}, False),
        ({"loss": "rank_sort", "truths_in_box_loss": True}, True),
        ({"loss": "rank_sort", "task_balance": "magnitude"}, False),
        ({"loss": "rank_sort", "task_balance": 2.0}, False),
        ({"loss": "cross_entropy"}, True),
    ],
    ids=str,
)
def test_no_positives_in_the_rpn_but_in_the_box_head(options: dict[str, Any], localised: bool):
    # Too small for any anchor or proposal to reach IoU 0.3; as a RoI of its own it is a positive of the box head.
    model = build(**options)
    values = step(model, random_images((64, 64), (48, 80)), [target([20.0, 20, 24, 24]), target()])
    assert values["loss_rpn_bbox"] == 0
    assert (values["loss_roi_bbox"] > 0) == localised
    assert values.get("loss_roi_rank", 1) > 0
    assert model.statistics["positives_roi"] == 1
    if not localised:
        assert model.statistics["balance_roi"].isnan(), "it would be the ratio to a loss of nothing"
        regression = model.box_heads[0].predictor.fc_reg.weight.grad
        assert regression is not None
        assert not regression.any()


def test_proposals_that_overlap_nothing_leave_both_heads_a_signal(batch: Batch):
    model = build()
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias.copy_(torch.tensor([50.0, 0, 0, 0] * 3))  # five anchors to the right
    values = step(model, *batch)
    assert model.statistics["positives_roi"] == 3, "the objects' own boxes"
    assert values["loss_roi_bbox"] == 0
    for name in ("loss_rpn_rank", "loss_rpn_bbox", "loss_roi_rank"):
        assert values[name] > 0.1, name
    for layer in (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, model.box_heads[0].predictor.fc_cls):
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()


def test_the_objects_own_boxes_are_ranked_and_not_regressed(batch: Batch):
    """The box loss is the weighted mean over proposals alone, in float64 by hand; its balance is its ratio."""
    model = build(proposals=ProposalSettings(1000, 1000))
    given = record(model.box_heads[0], "outputs")
    losses = model(*batch)
    boxes, ranked = given[0].tasks["bbox"], given[0].classification
    own = (boxes.references == boxes.truths).all(dim=1)
    assert (own.sum(), len(own) > 3) == (3, True)
    assert model.statistics["positives_roi"] == len(own), "all are ranked"
    assert torch.equal(boxes.counted, ~own)
    weights = ranked.candidate_logits.double().sigmoid().amax(dim=1)[~own]
    predicted = model.box_heads[0].coder.decode_single(boxes.deltas.double(), boxes.references.double())
    errors = 1 - generalized_box_iou(predicted, boxes.truths.double()).diagonal()[~own]
    mean = (weights * errors).sum() / weights.sum()
    expected = (losses["loss_roi_rank"] + losses["loss_roi_sort"]) / mean
    assert model.statistics["balance_roi"].item() == pytest.approx(expected.item(), rel=1e-5)
    published = build(proposals=ProposalSettings(1000, 1000), truths_in_box_loss=True)
    published(*batch)
    assert published.statistics["balance_roi"] > 1.1 * model.statistics["balance_roi"]


def test_a_gradient_of_the_box_loss_for_proposals_alone(batch: Batch):
    model = build(proposals=ProposalSettings(1000, 1000))
    given = record(model.box_heads[0], "outputs")
    losses = model(*batch)
    boxes = given[0].tasks["bbox"]
    (gradient,) = torch.autograd.grad(losses["loss_roi_bbox"], boxes.deltas)
    assert torch.equal(gradient.any(dim=1), boxes.counted)


@pytest.mark.parametrize("loss", ["rank_sort", "cross_entropy"])
def test_no_proposals_at_all(loss: str):
    model, images = build(loss, proposals=ProposalSettings(train_limit=0, test_limit=0)), random_images((64, 64))
    assert step(model, images, [target()])["loss_roi_bbox"] == 0
    assert [len(f["boxes"]) for f in model.eval()(images)] == [0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "focal"}, "loss='focal' is not one of rank_sort, cross_entropy, cross_entropy_giou"),
        ({"loss": "cross_entropy_giou", "delta": 0.5}, "delta=0.5 does not go with loss='cross_entropy_giou'"),
        ({"rpn_sampling": "none"}, "rpn_sampling='none' is not one of random, all"),
        ({"roi_sampling": True}, "roi_sampling=True is not one of random, all"),
        ({"loss": "cross_entropy", "truths_in_box_loss": True}, "truths_in_box_loss=True does not go with"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"backbone": BackboneSettings("alexnet")}, "backbone.name='alexnet'"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        faster_rcnn(**options)
