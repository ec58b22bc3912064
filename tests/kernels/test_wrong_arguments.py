"""AP loss, aLRP loss and a loss of your own on wrong arguments: a defined result, or an error that names the argument.

`test_arguments.py` tests the same of rank_sort.
"""

import math

import pytest
import torch
from every_loss import outside_of_backends

from rst.kernels import SparseTargets, alrp, average_precision, ranking_loss

LOGITS = torch.zeros(2, 3)
INDEX, QUALITY = torch.tensor([1, 4]), torch.tensor([0.5, 0.9])
DENSE = torch.tensor([[0, 0.5, 0], [0, 0.9, 0]])
ERROR = torch.tensor([0.3, 0.6])


def precision(counts):
    return counts.false_positives / (counts.false_positives + counts.true_positives)


# each takes (logits, targets), and gives its values
LOSSES = {
    "average_precision": lambda *given, error=ERROR, **more: [average_precision(*given, **more)],
    "alrp": lambda *given, error=ERROR, **more: list(alrp(*given, error, **more)),
    "ranking_loss": lambda *given, error=ERROR, **more: [ranking_loss(precision, *given, **more)],
}
pytestmark = [outside_of_backends, pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)]


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        ([], ValueError, "logits: the sequence of levels is empty"),
        (LOGITS.long(), TypeError, "logits: expected a float tensor, got torch.int64"),
        (LOGITS.to(torch.complex64), TypeError, "logits: expected a float tensor, got torch.complex64"),
        (
            LOGITS.to(torch.float8_e5m2),
            TypeError,
            "logits: expected a float tensor of 16, 32 or 64 bits, got torch.flo",
        ),
        ([LOGITS, None], TypeError, r"logits\[1\]: expected a tensor, got NoneType"),
        ([LOGITS, LOGITS.half()], ValueError, r"logits\[1\]: torch.float16 on cpu, but logits\[0\] is torch.float32"),
        ([LOGITS, LOGITS.to("meta")], ValueError, r"logits\[1\]: torch.float32 on meta, but logits\[0\]"),
    ],
)
def test_logits(loss, logits, error, message):
    with pytest.raises(error, match=message):
        loss(logits, DENSE)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (None, TypeError, "targets: expected a tensor, tensors or SparseTargets, got NoneType"),
        (DENSE.t(), ValueError, r"targets: shape \(3, 2\), but the logits have \(2, 3\)"),
        ([DENSE, DENSE], ValueError, "targets: 2 tensors for 1 levels of logits"),
        (DENSE.to("meta"), ValueError, "targets: on meta, but the logits are on cpu"),
        (DENSE * 2, ValueError, r"targets: a quality of 1.8 is outside \[0, 1\]"),
        (SparseTargets(INDEX.int(), QUALITY), ValueError, r"targets.index: expected \(P,\) int64, got \(2,\) torch.in"),
        (SparseTargets(INDEX, QUALITY[:1]), ValueError, r"targets.quality: expected \(2,\) float, got \(1,\)"),
        (SparseTargets(INDEX, INDEX), ValueError, r"targets.quality: expected \(2,\) float, got \(2,\) torch.int64"),
        (SparseTargets(INDEX.to("meta"), QUALITY), ValueError, "targets.index: on meta, but the logits are on cpu"),
        (SparseTargets(INDEX, QUALITY.to("meta")), ValueError, "targets.quality: on meta, but the logits are on cpu"),
        (SparseTargets(INDEX + 2, QUALITY), ValueError, "targets.index: 6 is outside the 6 logits"),
        (SparseTargets(INDEX * 0, QUALITY), ValueError, "targets.index: 0 occurs more than once"),
        (SparseTargets(INDEX, QUALITY * 2), ValueError, r"targets.quality: a quality of 1.8 is outside \[0, 1\]"),
        (SparseTargets(INDEX, QUALITY, DENSE), ValueError, "targets.ignore: expected bool, got torch.float32"),
        (SparseTargets(INDEX, QUALITY, DENSE[0] > 1), ValueError, r"targets.ignore: shape \(3,\), but the logits"),
        (SparseTargets(INDEX, QUALITY, []), ValueError, "targets.ignore: 0 tensors for 1 levels of logits"),
    ],
)
def test_targets(loss, targets, error, message):
    with pytest.raises(error, match=message):
        loss(LOGITS, targets)


@pytest.mark.parametrize("delta", [-1, -1e-9, math.nan, math.inf, "1", None, torch.tensor(0.5)])
def test_delta(loss, delta):
    with pytest.raises(ValueError, match="delta: expected 0, or a number from 1e-20"):
        loss(LOGITS, DENSE, delta=delta)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"backend": "cpu"}, "backend: expected 'auto', 'triton', 'torch' or 'reference', got 'cpu'"),
        ({"algorithm": "fast"}, "algorithm: expected 'auto', 'tiled' or 'breakpoints', got 'fast'"),
        ({"backend": "torch", "algorithm": "tiled"}, "algorithm: 'tiled' needs backend 'triton', and this is 'torch'"),
        ({"backend": "reference", "algorithm": "tiled"}, "algorithm: backend 'reference' has none to choose from"),
        ({"group": 3}, "group: expected a torch.distributed.ProcessGroup that this process is in, got 3"),
    ],
)
def test_choices(loss, choice, message):
    with pytest.raises(ValueError, match=message):
        loss(LOGITS, DENSE, **choice)


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (0,), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("label", [0.0, -1.0])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_no_positives_or_nothing_at_all(loss, shape, label, backend):
    """0, attached to the graph, with zero gradient; also for an empty tensor, and where all logits are ignored."""
    logits = torch.zeros(shape, requires_grad=True)
    values = loss(logits, torch.full(shape, label), error=torch.zeros(0), backend=backend)
    sum(values).backward()
    assert [value.item() for value in values] == [0] * len(values)
    assert logits.grad is not None
    assert logits.grad.shape == shape
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_no_negatives(loss, backend):
    """No logit is wrongly ranked above a positive."""
    logits = torch.tensor([0.3, -2.0, 0.4], requires_grad=True)
    values = loss(logits, torch.tensor([0.5, 0.7, -1.0]), backend=backend)
    sum(values).backward()
    assert values[0].item() == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["positive", "negative", "ignored"])
@pytest.mark.parametrize("positives", [1, 2, 5])
def test_infinities_and_nan(loss, value, place, positives):
    """As in the dense equations; a NaN that is not ignored is a NaN in every value and gradient."""
    targets = torch.tensor([0.5, 0.9, 0.3, 0.2, 0.8][:positives] + [0] * 10 + [-1.0])
    error = torch.linspace(0.2, 0.8, positives)
    plain = torch.linspace(1, -1, len(targets)).roll(4)
    plain[{"positive": 0, "negative": positives + 2, "ignored": -1}[place]] = value
    got = []
    for backend, dtype in (("torch", torch.float32), ("reference", torch.float64)):
        logits = plain.to(dtype, copy=True).requires_grad_()
        values = loss(logits, targets, error=error, backend=backend)
        sum(values).backward()
        assert logits.grad is not None
        got.append((torch.stack(values).double(), logits.grad.double()))
    torch.testing.assert_close(got[0], got[1], rtol=0, atol=1e-6, equal_nan=True)
    poisoned = math.isnan(value) and place != "ignored"
    assert got[0][0].isnan().all() == poisoned
    assert torch.equal(got[0][1].isnan(), poisoned & (targets >= 0))
    assert got[0][1][-1] == 0
