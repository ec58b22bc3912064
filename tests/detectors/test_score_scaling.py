"""The scaling of a ranking detector's scores: what it is, and that a training does not depend on it.

P  positives    N  logits
"""

import pytest
import torch
from detector_cases import Batch, Case
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from rst.detectors import DetectionSettings
from rst.detectors.losses.contract import Classification
from rst.detectors.losses.score_scaling import LEAST_SCALE, ScoreScaling


def ranked(negatives: int, positives: int, centre: float, width: float, lift: float) -> tuple[Classification, Tensor]:
    """Two levels of logits, positives higher by `lift`; and the qualities (P,)."""
    generator = torch.Generator().manual_seed(0)
    logits = centre + width * torch.randn(negatives + positives, generator=generator)
    index = torch.randperm(len(logits), generator=generator)[:positives]
    logits[index] += lift
    quality = 0.5 + torch.rand(positives, generator=generator) / 2
    levels = list(logits.split([len(logits) // 3, len(logits) - len(logits) // 3]))
    return Classification(levels, None, index, logits[index][:, None]), quality


def best(of: Classification, quality: Tensor) -> tuple[float, float]:
    """Scale and shift of the least cross-entropy over all logits that count, with the prior; by another method."""
    logits = torch.cat([level.flatten() for level in of.logits]).double()
    labels = torch.zeros_like(logits)
    labels[of.index] = quality.double()
    if of.ignore is not None:
        kept = ~torch.cat([level.flatten() for level in of.ignore])
        logits, labels = logits[kept], labels[kept]
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * parameters[0] + parameters[1]
        loss = cross_entropy(scaled, labels, reduction="sum") + (parameters[0] - 1) ** 2 / 2
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return parameters[0].item(), parameters[1].item()


SHAPES = [
    (2000, 50, -4.6, 0.01, 0.0),
    (2000, 50, -4.6, 1.0, 3.0),
    (3000, 5, 3.0, 0.3, 0.5),
    (500, 200, -20.0, 3.0, 6.0),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_logistic_regression(shape):
    of, quality = ranked(*shape)
    scaling = ScoreScaling()
    for _ in range(600):
        scaling.update(of, quality)
    expected = best(of, quality)
    assert (scaling.scale.item(), scaling.shift.item()) == pytest.approx(expected, rel=0.01, abs=0.02)
    # so the scores of all logits add up to the qualities
    total = sum(scaling(level).sigmoid().sum() for level in of.logits)
    assert float(total) == pytest.approx(float(quality.sum()), rel=0.02)


def test_of_many_logits_some_are_looked_at():
    of, quality = ranked(600_000, 300, -4.0, 1.0, 4.0)
    scaling = ScoreScaling()
    for _ in range(150):
        scaling.update(of, quality)
    assert (scaling.scale.item(), scaling.shift.item()) == pytest.approx(best(of, quality), rel=0.06)


def test_ignored_logits_do_not_count():
    of, quality = ranked(2000, 50, -4.6, 1.0, 3.0)
    levels = [torch.cat([level, torch.full((500,), 8.0)]) for level in of.logits]
    masks = [torch.arange(len(level)) >= len(level) - 500 for level in levels]
    first = len(of.logits[0])
    index = torch.where(of.index < first, of.index, of.index + 500)
    masked = Classification(levels, masks, index, of.candidate_logits)
    scaling = ScoreScaling()
    for _ in range(300):
        scaling.update(masked, quality)
    assert (scaling.scale.item(), scaling.shift.item()) == pytest.approx(best(of, quality), rel=0.01)


def test_scores_are_not_turned_round():
    of, quality = ranked(2000, 50, -4.6, 1.0, -3.0)
    scaling = ScoreScaling()
    for _ in range(100):
        scaling.update(of, quality)
    assert scaling.scale.item() == pytest.approx(LEAST_SCALE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_changes_nothing(bad):
    of, quality = ranked(200, 20, -4.6, 1.0, 3.0)
    scaling = ScoreScaling()
    scaling.update(of, quality)
    before = (scaling.scale.item(), scaling.shift.item())
    of.logits[0][3] = bad
    scaling.update(of, quality)
    nothing = torch.zeros(0)
    scaling.update(Classification(of.logits, None, nothing.long(), nothing[:, None]), nothing)
    assert (scaling.scale.item(), scaling.shift.item()) == before


LOSSES = ["rank_sort", "average_precision", "alrp"]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_does_not_depend_on_it(batch: Batch, loss: str):
    made = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = Case("atss", {"loss": loss, "score_scaling": scaled}).build(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            torch.stack(list(model(*batch).values())).sum().backward()
            optimizer.step()
        made.append({name: value for name, value in model.state_dict().items() if "score_scaling" not in name})
    assert made[0].keys() == made[1].keys()
    for name, value in made[0].items():
        assert torch.equal(value, made[1][name]), name


@pytest.mark.parametrize("loss", LOSSES)
def test_detections_keep_their_order(batch: Batch, loss: str):
    everything = DetectionSettings(score_threshold=0.0, nms_iou=0.6, limit=50)
    torch.manual_seed(0)
    model = Case("atss", {"loss": loss}).build(3, detections=everything)
    for _ in range(3):
        model(*batch)
    model.eval()
    with torch.no_grad():
        scaled = model(batch[0])
        scaling, model.score_scaling = model.score_scaling, None
        plain = model(batch[0])
    assert scaling.shift != 0
    for one, other in zip(scaled, plain, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"], other["labels"])
        expected = scaling(other["scores"].double().logit())
        torch.testing.assert_close(one["scores"].logit(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", ["focal", "qfl"])
def test_pointwise_losses_have_none(loss: str):
    assert Case("atss", {"loss": loss}).build(3).score_scaling is None
    with pytest.raises(ValueError, match=f"score_scaling=True does not go with loss='{loss}', which does not rank"):
        Case("atss", {"loss": loss, "score_scaling": True}).build(3)
