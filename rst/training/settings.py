"""Settings of the optimiser and the schedule, with the paper's defaults, and the learning rate over time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rst.training.errors import ConfigError


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD with momentum on every parameter that is not frozen (paper, section 5).

    Args:
        lr: learning rate after the warm-up. The paper's values are for 16 images an iteration; scale it linearly
            with images_per_batch x devices x nodes x accumulate_grad_batches.
        momentum: momentum of SGD.
        weight_decay: L2 penalty, on biases and normalisation layers as well.
    """

    lr: float = 0.012
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"optimizer.lr must be a number above 0, got {self.lr}")
        for name in ("momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"optimizer.{name} must be a number from 0, got {getattr(self, name)}")

    def build(self, model: nn.Module) -> Optimizer:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ConfigError("optimizer: there is no parameter to train, every one of the model is frozen")
        return SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class ScheduleSettings:
    """Linear warm-up counted in iterations, then steps down at milestones counted in epochs, or half a cosine.

    Args:
        warmup_iterations: optimiser steps until the learning rate reaches optimizer.lr.
        warmup_factor: share of optimizer.lr at the first step.
        milestones: epochs after which the learning rate is multiplied by gamma; 8 means: from the ninth epoch on.
        gamma: factor at each milestone.
        cosine_epochs: instead of milestones (which are then []) follow half a cosine, which would reach 0 after this
            many epochs, usually all of trainer.max_epochs; the rate changes at the beginning of each epoch. null: none.
    """

    warmup_iterations: int = 500
    warmup_factor: float = 0.001
    milestones: list[float] = field(default_factory=lambda: [8, 11])
    gamma: float = 0.1
    cosine_epochs: float | None = None

    def __post_init__(self) -> None:
        if self.warmup_iterations < 0:
            raise ConfigError(f"schedule.warmup_iterations must not be negative, got {self.warmup_iterations}")
        for name in ("warmup_factor", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"schedule.{name} must be a number from 0, got {getattr(self, name)}")
        if not all(0 <= milestone < math.inf for milestone in self.milestones):
            raise ConfigError(f"schedule.milestones must be epochs from 0, got {list(self.milestones)}")
        if sorted(self.milestones) != list(self.milestones):
            raise ConfigError(f"schedule.milestones must ascend, got {list(self.milestones)}")
        if self.cosine_epochs is not None:
            if not 0 < self.cosine_epochs < math.inf:
                raise ConfigError(f"schedule.cosine_epochs must be a number above 0, got {self.cosine_epochs}")
            if self.milestones:
                raise ConfigError(
                    f"schedule.milestones must be [] beside schedule.cosine_epochs, got {list(self.milestones)}"
                )

    def factor(self, step: int, epoch: float) -> float:
        """Share of optimizer.lr at optimiser step `step` (from 0), `epoch` epochs (a real number) into the training."""
        decay = self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        if self.cosine_epochs is not None:
            done = min(math.floor(epoch) / self.cosine_epochs, 1.0)
            decay = 0.5 * (1 + math.cos(math.pi * done))
        if step >= self.warmup_iterations:
            return decay
        return decay * (self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_iterations)

    def build(
        self, optimizer: Optimizer, steps_per_epoch: Callable[[], float], shift: Callable[[], float] = lambda: 0
    ) -> LambdaLR:
        """The scheduler, to be stepped once per optimiser step.

        Args:
            steps_per_epoch: function that returns the optimiser steps of an epoch. A function, because at the start
                of a run the loaders do not exist yet, and must not: a resumed run builds them after its counters
                are restored. It may return infinity until then (step 0 lies in epoch 0 whatever the answer).
            shift: function that returns the step at which epoch 0 would have begun, had all epochs been of this
                length; other than 0 where a run was resumed with epochs of another length.
        """
        return LambdaLR(optimizer, lambda step: self.factor(step, (step - shift()) / steps_per_epoch()))
