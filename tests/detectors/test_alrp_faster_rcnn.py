"""aLRP Faster R-CNN (table 1 of the Rank & Sort paper): its first step by hand, its two balances, what it refuses."""

import copy
from typing import Any

import pytest
import torch
from detector_cases import Batch, Case
from torch import Tensor
from torchvision.ops import generalized_box_iou

from rst.detectors import MaskSettings, TwoStageDetector, faster_rcnn
from rst.detectors.losses.contract import HeadOutputs
from rst.detectors.losses.ranking import Alrp

HEADS = {"rpn": (0.2, 0.7), "roi": (1.0, 0.5)}  # factor of the terms, IoU of a positive


def build(**options: Any) -> TwoStageDetector:
    model = Case("faster_rcnn", {"loss": "alrp"}).build(**options)
    assert isinstance(model, TwoStageDetector)
    return model


def recorded(loss: Alrp) -> list[HeadOutputs]:
    """What every later call of the loss is given."""
    given: list[HeadOutputs] = []
    loss.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    return given


def losses_of(model: TwoStageDetector) -> dict[str, Alrp]:
    losses = {"rpn": model.rpn.loss, "roi": model.box_heads[0].loss}
    assert all(isinstance(loss, Alrp) for loss in losses.values())
    return losses  # pyright: ignore[reportReturnType] - asserted


def by_hand(outputs: HeadOutputs, weight: float, iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """Both terms and the gradient of the logits, in float64, from the equations of the published loss at delta 1."""
    ranked, boxes = outputs.classification, outputs.tasks["bbox"]
    logits = torch.cat([level.detach().double().flatten() for level in ranked.logits])
    ignored = torch.zeros(len(logits), dtype=torch.bool)
    if ranked.ignore is not None:
        ignored = torch.cat([level.flatten() for level in ranked.ignore])
    negative = ~ignored
    negative[ranked.index] = False
    predicted = boxes.coder.decode_single(boxes.deltas.detach().double(), boxes.references.double())
    error = 1 - generalized_box_iou(predicted, boxes.truths.double()).diagonal()
    ranked_error = error / (2 * (1 - iou))
    positive, gradient = logits[ranked.index], torch.zeros_like(logits)
    precision, localisation = [], []
    for k, own in enumerate(positive):
        above = ((positive - own) / 2 + 0.5).clamp(0, 1)
        above[k] = 0  # the positive itself counts as 1, and its own error is its target
        false = torch.where(negative, ((logits - own) / 2 + 0.5).clamp(0, 1), 0)
        rank = 1 + above.sum() + false.sum()
        precision.append((1 + above.sum()) / rank)
        localisation.append(error[positive >= own].sum() / rank)
        if false.sum() > 1e-5:
            update = ((above * ranked_error).sum() + false.sum()) / rank
            gradient[ranked.index[k]] -= update
            gradient += false * update / false.sum()
    count = len(positive)
    terms = 1 - torch.stack(precision).mean(), 50 * torch.stack(localisation).mean()
    return weight * terms[0], weight * terms[1], weight * gradient / count


@pytest.mark.parametrize("head", HEADS)
def test_the_first_step_by_hand(head: str, batch: Batch):
    """The RPN's terms are weighted by 0.2; its ranking divides the box errors by 2 (1 - 0.7), its box loss does not."""
    model = build()
    given = recorded(losses_of(model)[head])
    losses = model(*batch)
    classification, localisation, gradient = by_hand(given[0], *HEADS[head])
    assert losses[f"loss_{head}_cls"].item() == pytest.approx(classification.item(), rel=1e-5)
    assert losses[f"loss_{head}_bbox"].item() == pytest.approx(localisation.item(), rel=1e-5)
    assert model.statistics[f"balance_{head}"] == 50
    levels = torch.autograd.grad(losses[f"loss_{head}_cls"], list(given[0].classification.logits))
    torch.testing.assert_close(torch.cat([g.flatten() for g in levels]).double(), gradient, rtol=1e-4, atol=1e-8)


def test_the_published_recipe(batch: Batch):
    """No samplers, sigmoids without a background, one scale of the deltas, the objects' own boxes among the errors."""
    model = build()
    assert list(model(*batch)) == [f"loss_{head}_{term}" for head in ("rpn", "roi") for term in ("cls", "bbox")]
    box_head = model.box_heads[0]
    assert box_head.sampler is None
    assert box_head.predictor.fc_cls.out_features == 3
    assert box_head.truths_in_box_loss
    for coder in (model.rpn.coder, box_head.coder):
        assert torch.equal(
            coder.encode_single(torch.tensor([[1.0, 0, 11, 10]]), torch.tensor([[0.0, 0, 10, 10]])),
            torch.tensor([[1.0, 0, 0, 0]]),
        )
    for name, loss in losses_of(model).items():
        assert (loss.weight, loss.delta, loss.balance.window) == (HEADS[name][0], 1.0, 7330)


def test_each_head_has_a_balance_and_a_training_goes_on_with_them(batch: Batch):
    """A model and an optimiser that are loaded again make the same steps, bit for bit."""

    def train(model: TwoStageDetector, optimizer: torch.optim.Optimizer, steps: int) -> list[dict[str, Tensor]]:
        made = []
        for _ in range(steps):
            optimizer.zero_grad()
            losses = model(*batch)
            sum(losses.values()).backward()
            optimizer.step()
            made.append({name: loss.detach() for name, loss in losses.items()} | model.statistics)
        return made

    def fresh() -> tuple[TwoStageDetector, torch.optim.Optimizer]:
        model = build(self_balance_window=2)
        return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    model, optimizer = fresh()
    first = train(model, optimizer, 3)  # in the middle of a window
    for head in HEADS:
        classification, box = (sum(step[f"loss_{head}_{term}"] for step in first[:2]) for term in ("cls", "bbox"))
        expected = (classification + box / 50) / (box / 50)
        assert [step[f"balance_{head}"].item() for step in first[:2]] == [50, 50]
        assert first[2][f"balance_{head}"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert first[2]["balance_rpn"] != first[2]["balance_roi"]
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, its_optimizer = fresh()
    again.load_state_dict(saved[0])
    its_optimizer.load_state_dict(saved[1])
    for step, expected in zip(train(again, its_optimizer, 2), train(model, optimizer, 2), strict=True):
        assert all(torch.equal(step[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"truths_in_box_loss": False},
            "truths_in_box_loss=False does not go with loss='alrp', which ranks the box er",
        ),
        ({"masks": MaskSettings()}, "masks do not go with loss='alrp', which ranks box errors and no others"),
        ({"task_balance": "value"}, "task_balance='value' does not go with loss='alrp'"),
        ({"score_weighting": True}, "score_weighting=True does not go with loss='alrp'"),
        ({"sorting_error": True}, "sorting_error=True does not go with loss='alrp'"),
        ({"self_balance_window": 0}, "self_balance_window=0 is not at least 1"),
        ({"loss": "rank_sort", "self_balance_window": 5}, "self_balance_window=5 does not go with loss='rank_sort'"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        faster_rcnn(**{"loss": "alrp"} | options)


def test_the_objects_own_boxes_may_be_asked_for_and_a_positive_iou_must_be_below_1():
    assert build(truths_in_box_loss=True).box_heads[0].truths_in_box_loss
    with pytest.raises(ValueError, match=r"positive_iou=1.0 is not in \[0, 1\)"):
        Alrp(positive_iou=1.0)
