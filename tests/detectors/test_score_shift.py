"""The shift of a ranking detector's scores: what it is, and that a training does not depend on it.

P  positives
"""

import pytest
import torch
from detector_cases import Batch, Case

from rst.detectors import DetectionSettings
from rst.detectors.losses.score_shift import ScoreShift


def spread(centre: float, width: float, size: int = 200) -> torch.Tensor:
    return centre + width * torch.randn(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("centre", "width"), [(-4.6, 0.01), (-4.6, 1.5), (3.0, 1.0), (-40.0, 5.0), (300.0, 0.5)])
def test_the_mean_score_becomes_the_mean_quality(centre, width, dtype):
    logits, quality = spread(centre, width).to(dtype), torch.rand(200, generator=torch.Generator().manual_seed(1))
    shift = ScoreShift()
    for _ in range(300):
        shift.update(logits, quality)
    assert shift(logits).dtype == torch.float32
    assert shift(logits).sigmoid().mean().item() == pytest.approx(quality.mean().item(), abs=3e-3)


def test_equal_logits_need_one_step():
    shift = ScoreShift()
    shift.update(torch.full((5,), -6.0), torch.full((5,), 0.7))
    assert shift(torch.tensor(-6.0)).sigmoid().item() == pytest.approx(0.7, abs=1e-6)


def test_it_is_a_running_mean():
    shift, momentum = ScoreShift(), 0.1
    for _ in range(40):
        shift.update(torch.full((5,), -6.0), torch.full((5,), 0.5))
    assert shift.shift.item() == pytest.approx(6.0, abs=1e-5)
    shift.update(torch.full((5,), -8.0), torch.full((5,), 0.5))
    assert shift.shift.item() == pytest.approx(6.0 + momentum * 2.0, abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_changes_nothing(bad):
    shift = ScoreShift()
    shift.update(torch.tensor([-2.0, -3.0]), torch.tensor([0.5, 0.6]))
    before = {name: value.clone() for name, value in shift.state_dict().items()}
    shift.update(torch.zeros(0), torch.zeros(0))
    shift.update(torch.tensor([0.0]), torch.tensor([float("nan")]))
    if bad != bad:
        shift.update(torch.tensor([bad, 0.0]), torch.tensor([0.5, 0.5]))
        assert all(torch.equal(value, before[name]) for name, value in shift.state_dict().items())
    else:
        shift.update(torch.tensor([bad, 0.0]), torch.tensor([0.5, 0.5]))
        assert shift.shift.isfinite()
    for end in (0.0, 1.0):  # qualities whose log-odds are infinite
        shift.update(torch.tensor([0.0]), torch.tensor([end]))
    assert shift.shift.isfinite()


LOSSES = ["rank_sort", "average_precision", "alrp"]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_does_not_depend_on_it(batch: Batch, loss: str):
    made = []
    for shifted in (False, True):
        torch.manual_seed(0)
        model = Case("atss", {"loss": loss, "score_shift": shifted}).build(3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            torch.stack(list(model(*batch).values())).sum().backward()
            optimizer.step()
        made.append({name: value for name, value in model.state_dict().items() if "score_shift" not in name})
    assert made[0].keys() == made[1].keys()
    for name, value in made[0].items():
        assert torch.equal(value, made[1][name]), name


@pytest.mark.parametrize("loss", LOSSES)
def test_detections_keep_their_order_and_pass_a_threshold(batch: Batch, loss: str):
    everything = DetectionSettings(score_threshold=0.0, nms_iou=0.6, limit=50)
    torch.manual_seed(0)
    model = Case("atss", {"loss": loss}).build(3, detections=everything)
    for _ in range(3):
        model(*batch)
    images = batch[0]
    model.eval()
    with torch.no_grad():
        shifted = model(images)
        shift, model.score_shift = model.score_shift, None
        plain = model(images)
    assert shift.shift > 1
    for one, other in zip(shifted, plain, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"], other["labels"])
        assert other["scores"].max() < 0.05 < one["scores"].max()
        torch.testing.assert_close(one["scores"].logit() - shift.shift, other["scores"].logit(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", ["focal", "qfl"])
def test_pointwise_losses_have_none(loss: str):
    assert Case("atss", {"loss": loss}).build(3).score_shift is None
    with pytest.raises(ValueError, match=f"score_shift=True does not go with loss='{loss}', which does not rank"):
        Case("atss", {"loss": loss, "score_shift": True}).build(3)
