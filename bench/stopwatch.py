"""Times a loss inside a training step, forward and backward, by hooks on its inputs and its outputs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


class Passage(Function):
    """Returns its tensors unchanged and calls `note` when their gradients arrive.

    Autograd runs in the reverse order of recording. So `note` is called right after the loss's backward, before the
    backward of anything that was recorded earlier.
    """

    @staticmethod
    def forward(ctx: Any, note: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.note = note
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - any number of gradients
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        ctx.note()
        return None, *gradients


class Stopwatch:
    """Wraps a ranking loss. Its spans are the forward and the backward of every call, on `clock`."""

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
        for part in result:  # a hook on an output runs right before the loss's backward
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
