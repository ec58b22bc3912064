"""How long a loss takes inside a training step, forward and backward, by what it is called with and what it returns."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


class Passage(Function):
    """Hands tensors through and says when their gradients come back.

    Autograd runs what was recorded last first: right after the loss, before anything that was recorded before it.
    """

    @staticmethod
    def forward(ctx: Any, note: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.note = note
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - of any number
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.note()
        return None, *gradients


class Stopwatch:
    """Wraps a ranking loss; its spans are the forward and the backward of every call, on `clock`."""

    def __init__(self, loss: Callable, clock: Callable) -> None:
        self.loss, self.clock = loss, clock
        self.spans: list[list[Any]] = []  # [begin, end] of each

    def __call__(self, logits: Any, targets: Any, **arguments: Any) -> Any:
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        backward: list[Any] = []
        levels = Passage.apply(lambda: backward.append(self.clock()), *levels)
        begin = self.clock()
        result = self.loss(levels, targets, **arguments)
        self.spans.append([begin, self.clock()])
        for part in result:  # its hook runs right before the loss's backward
            part.register_hook(lambda gradient: self._begin(backward))
        return result

    def _begin(self, span: list[Any]) -> None:
        if not span:
            span.append(self.clock())
            self.spans.append(span)

    def take(self) -> list[list[Any]]:
        """The spans since the last call."""
        taken, self.spans = self.spans, []
        assert all(len(span) == 2 for span in taken), "a loss without its backward"
        return taken
