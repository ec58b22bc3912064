"""How the outputs of a classifier become scores of the classes: a sigmoid each, or a softmax with a background.

K  outputs per candidate    C  classes
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Classifier(ABC):
    """A way to score. It says how many outputs a head must have beyond its classes."""

    background: ClassVar[int]  # outputs beyond the classes; they come last

    @abstractmethod
    def scores(
        self,
        logits: Tensor,  # (..., K) any float dtype
    ) -> Tensor:
        """Scores of the classes, (..., C) float32 in [0, 1]."""


class Sigmoid(Classifier):
    """Each class by itself: K = C. Every ranking loss trains this one."""

    background = 0

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()


class Softmax(Classifier):
    """The classes against each other and a background: K = C + 1."""

    background = 1

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=-1)[..., :-1]
