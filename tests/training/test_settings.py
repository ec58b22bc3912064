"""The learning rate over time, and the optimiser it drives."""

import pytest
import torch

from rst.training import ConfigError, OptimizerSettings, ScheduleSettings

PAPER = ScheduleSettings()


@pytest.mark.parametrize(
    ("step", "epoch", "factor"),
    [
        (0, 0.0, 0.001),
        (250, 0.03, 0.001 + 0.999 / 2),
        (499, 0.07, 0.001 + 0.999 * 499 / 500),
        (500, 0.07, 1.0),
        (58639, 7.9999, 1.0),
        (58640, 8.0, 0.1),
        (80630, 11.0, 0.01),
        (87959, 11.9999, 0.01),
    ],
)
def test_the_papers_schedule(step, epoch, factor):
    assert PAPER.factor(step, epoch) == pytest.approx(factor)


def test_warm_up_and_milestone_may_overlap():
    schedule = ScheduleSettings(warmup_iterations=10, warmup_factor=0.0, milestones=[0.5], gamma=0.5)
    assert schedule.factor(5, 0.5) == pytest.approx(0.25)


def test_no_warm_up_starts_at_the_full_rate():
    assert ScheduleSettings(warmup_iterations=0, milestones=[]).factor(0, 0.0) == 1.0


def test_half_a_cosine_falls_from_epoch_to_epoch():
    """RS-YOLACT's (section 6.2.2): half of the rate in the middle of 55 epochs, next to nothing in the last."""
    schedule = ScheduleSettings(warmup_iterations=10, warmup_factor=0.1, milestones=[], cosine_epochs=55)
    assert schedule.factor(0, 0.0) == pytest.approx(0.1)
    assert [schedule.factor(99, epoch) for epoch in (0.0, 0.99)] == [1.0, 1.0]
    assert schedule.factor(99, 1.0) == schedule.factor(99, 1.9) == pytest.approx(0.999184, abs=1e-6)
    assert (schedule.factor(99, 27) + schedule.factor(99, 28)) / 2 == pytest.approx(0.5)
    assert schedule.factor(99, 54.5) == pytest.approx(0.000816, abs=1e-6)
    assert schedule.factor(99, 55.0) == schedule.factor(99, 80.0) == 0.0
    with pytest.raises(ConfigError, match=r"milestones must be \[\] beside schedule.cosine_epochs, got \[8, 11\]"):
        ScheduleSettings(cosine_epochs=12)


def test_scheduler_follows_the_factor_step_by_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = ScheduleSettings(warmup_iterations=2, warmup_factor=0.5, milestones=[2], gamma=0.1)
    scheduler = schedule.build(optimizer, lambda: 3)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.05, 0.05])


def test_the_schedule_can_start_before_the_length_of_an_epoch_is_known():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    ScheduleSettings(warmup_factor=0.25).build(optimizer, lambda: float("inf"))
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"milestones": [11, 8]}, r"schedule\.milestones.*\[11, 8\]"),
        ({"milestones": [], "cosine_epochs": 0}, "cosine_epochs.*0"),
        ({"warmup_iterations": -1}, "warmup_iterations.*-1"),
    ],
)
def test_impossible_schedules_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        ScheduleSettings(**settings)


def test_sgd_takes_what_is_not_frozen_with_momentum_and_weight_decay_on_everything():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    (group,) = OptimizerSettings(lr=0.02).build(model).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters() if p.requires_grad]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 1e-4)
