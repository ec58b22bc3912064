"""Several rankings in one call: each gets the bits that a call of its own gets, whatever the backend.

P  positives      M  logits      S  segments
"""

import pytest
import torch
from every_loss import LOSSES, every_backend, every_loss, outside_of_backends
from rank_sort_cases import INTERPRETED, named
from segment_cases import PARTS, Call, call
from torch import Tensor
from torch.nn.functional import pad

from rst.kernels import RankSortLoss, SparseTargets, rank_sort

pytestmark = every_backend


def alone(whole: Call, ranges: list[tuple[int, int, int]]) -> tuple[Call, Tensor]:
    """A call of the logits in `ranges` (level, begin, end), and which positives of the whole it has."""
    offsets = [0]
    for level in whole.levels:
        offsets.append(offsets[-1] + len(level))
    places = torch.full((offsets[-1],), -1, dtype=torch.int64)
    size = 0
    for level, begin, end in ranges:
        places[offsets[level] + begin : offsets[level] + end] = torch.arange(size, size + end - begin)
        size += end - begin
    local = places.to(whole.index.device)[whole.index]
    rows = (local >= 0).nonzero().squeeze(1)
    levels = [whole.levels[level][begin:end] for level, begin, end in ranges]
    masks = [whole.masks[level][begin:end] for level, begin, end in ranges]
    return Call(levels, local[rows], whole.quality[rows], whole.error[rows], masks), rows


def assert_equal_to_separate_calls(whole: Call, loss: str, segments, ranges, **more) -> None:
    values, gradients = whole.parts(loss, segments=segments, **more)
    errors = gradients.pop()
    assert all(value.shape == (len(ranges),) for value in values)
    for number, each in enumerate(ranges):
        single, rows = alone(whole, each)
        expected, expected_gradients = single.parts(loss, **more)
        for value, other in zip(values, expected, strict=True):
            assert torch.equal(value[number], other), (number, value[number], other)
        expected_errors = expected_gradients.pop()
        for (level, begin, end), gradient in zip(each, expected_gradients, strict=True):
            assert torch.equal(gradients[level][begin:end], gradient), number
        if loss == "alrp":
            assert torch.equal(errors[rows], expected_errors)


# levels, segments, the ranges of each
EQUAL = (
    [60, 90, 30],
    3,
    [[(0, 20 * b, 20 * b + 20), (1, 30 * b, 30 * b + 30), (2, 10 * b, 10 * b + 10)] for b in range(3)],
)
FORMS = {
    "equal parts of every level": EQUAL,
    "one tensor in equal parts": ([160], 4, [[(0, 40 * b, 40 * b + 40)] for b in range(4)]),
    "equal lengths": ([150], [50, 50, 50], [[(0, 50 * b, 50 * b + 50)] for b in range(3)]),
    "a tensor each": ([33, 100, 47], [33, 100, 47], [[(0, 0, 33)], [(1, 0, 100)], [(2, 0, 47)]]),
    "across levels": ([50, 100], [30, 60, 60], [[(0, 0, 30)], [(0, 30, 50), (1, 0, 40)], [(1, 40, 100)]]),
    "one": ([50, 100], 1, [[(0, 0, 50), (1, 0, 100)]]),
    "one logit each": ([7], 7, [[(0, b, b + 1)] for b in range(7)]),
}


# interpreted, a call takes seconds: there the two forms that cut levels in every way
ASKED = ["equal parts of every level", "across levels"] if INTERPRETED else list(FORMS)


@every_loss
@pytest.mark.parametrize("form", ASKED)
def test_equal_to_separate_calls(backend, device, loss, form):
    name = next(key for key, each in LOSSES.items() if each is loss)
    sizes, segments, ranges = FORMS[form]
    whole = call(sizes, min(25, sum(sizes) - 2), device)
    assert_equal_to_separate_calls(whole, name, segments, ranges, **named(backend))


@pytest.mark.parametrize("loss", ["alrp"] if INTERPRETED else ["rank_sort", "alrp"])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_ties_and_hard_steps(backend, device, loss, delta):
    sizes, segments, ranges = FORMS["across levels"]
    assert_equal_to_separate_calls(
        call(sizes, 40, device, ties=True), loss, segments, ranges, delta=delta, **named(backend)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, *([] if INTERPRETED else [torch.float16, torch.float64])])
def test_dtypes(backend, device, dtype):
    if dtype == torch.float64 and backend.startswith("triton"):
        pytest.skip("Triton computes in float32")
    sizes, segments, ranges = FORMS["equal parts of every level"]
    assert_equal_to_separate_calls(call(sizes, 30, device, dtype), "rank_sort", segments, ranges, **named(backend))


def test_segments_without_positives_or_logits(backend, device):
    whole = call([100], 0, device)
    index = torch.tensor([3, 7, 12], device=device)
    whole = Call(whole.levels, index, torch.rand(3, device=device), torch.rand(3, device=device), whole.masks)
    values, gradients = whole.parts("rank_sort", segments=[20, 0, 30, 50], **named(backend))
    assert values[0][0] > 0
    assert values[0][1:].abs().sum() == 0
    assert gradients[0][:20].abs().sum() > 0
    assert gradients[0][20:].abs().sum() == 0
    none = call([100], 0, device).parts("rank_sort", segments=4, **named(backend))
    assert none[0][0].tolist() == [0] * 4


@pytest.mark.parametrize("target", ["logit", "quality"])
def test_nan_stays_in_its_segment(backend, device, target):
    whole = call([120], 30, device)
    if target == "logit":
        negatives = torch.ones(120, dtype=torch.bool, device=device).index_fill(0, whole.index, False) & ~whole.masks[0]
        whole.levels[0][40 + int(negatives[40:80].nonzero()[0])] = torch.nan
    else:
        whole.quality[int((whole.index // 40 == 1).nonzero()[0])] = torch.nan
    values, gradients = whole.parts("rank_sort", segments=3, **named(backend))
    for value in values:
        assert value.isnan().tolist() == [False, True, False]
    counted = ~whole.masks[0].index_fill(0, whole.index, False)
    assert torch.equal(gradients[0].isnan(), counted & (torch.arange(120, device=device) // 40 == 1))


def test_dense_targets(backend, device):
    whole = call([60, 90, 30], 30, device)
    labels = [torch.zeros_like(level) for level in whole.levels]
    offset = 0
    for level, mask in zip(labels, whole.masks, strict=True):
        level.masked_fill_(mask, -1)
        inside = (whole.index >= offset) & (whole.index < offset + len(level))
        level[whole.index[inside] - offset] = whole.quality[inside].clamp(min=0.01)
        offset += len(level)
    values, gradients = whole.parts("rank_sort", labels, segments=3, **named(backend))
    for number, each in enumerate(EQUAL[2]):
        single, _ = alone(whole, each)
        targets = [labels[level][begin:end] for level, begin, end in each]
        expected, expected_gradients = single.parts("rank_sort", targets, **named(backend))
        for value, other in zip(values, expected, strict=True):
            assert torch.equal(value[number], other)
        for (level, begin, end), gradient in zip(each, expected_gradients, strict=False):
            assert torch.equal(gradients[level][begin:end], gradient)


@outside_of_backends
@pytest.mark.parametrize("form", ["equal parts of every level", "across levels"])
@pytest.mark.parametrize("loss", ["rank_sort", "average_precision", "alrp"])
def test_equal_to_the_dense_equations(backend, device, loss, form):
    sizes, segments, _ = FORMS[form]
    whole = call(sizes, 30, device)
    for got, truth in zip(
        whole.parts(loss, segments=segments, **named(backend)),
        whole.parts(loss, segments=segments, backend="reference"),
        strict=True,
    ):
        for one, other in zip(got, truth, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@outside_of_backends
def test_a_weight_for_each_segment(backend, device):
    """Each value has an upstream gradient of its own, also one that is expanded from a single number."""
    whole = call([120], 30, device)
    targets = SparseTargets(whole.index, whole.quality, whole.masks)
    logits = whole.levels[0].requires_grad_()
    loss = rank_sort(logits, targets, segments=3, **named(backend))
    assert isinstance(loss, RankSortLoss)
    single = [torch.autograd.grad(loss.ranking[part], logits, retain_graph=True)[0] for part in range(3)]
    weights = torch.tensor([0.5, 0.0, 3.0], device=device)
    (weighted,) = torch.autograd.grad(loss.ranking, logits, weights, retain_graph=True)
    torch.testing.assert_close(weighted, sum(w * g for w, g in zip(weights, single, strict=True)), rtol=1e-6, atol=0)
    (added,) = torch.autograd.grad(loss.ranking.sum(), logits)
    torch.testing.assert_close(added, sum(single), rtol=1e-6, atol=0)


@outside_of_backends
@pytest.mark.parametrize("padded", [False, True], ids=["segments", "padding"])
@pytest.mark.parametrize("loss", LOSSES)
def test_compiled(backend, device, loss, padded):
    """One graph without a break, equal to eager."""
    whole = call([60, 90, 30], 30, device)
    torch.compiler.reset()  # else the graphs of all these cases count as recompilations of one

    def values(levels, index, quality, masks, error):
        more = {"localisation_error": error} if loss == "alrp" else {}
        targets = SparseTargets(index, quality, masks)
        if padded:
            targets, more = targets.padded(33), {key: pad(value, (0, 3)) for key, value in more.items()}
        return PARTS[loss](levels, targets, segments=None if padded else 3, **more, **named(backend))

    made = []
    for function in (values, torch.compile(values, fullgraph=True, backend="aot_eager")):
        levels = [level.clone().requires_grad_() for level in whole.levels]
        parts = function(levels, whole.index, whole.quality, whole.masks, whole.error)
        sum(part.sum() for part in parts).backward()
        made.append([*parts, *(level.grad for level in levels)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@outside_of_backends
@pytest.mark.parametrize(
    ("segments", "error", "message"),
    [
        (0, ValueError, "segments: expected a number >= 1, got 0"),
        (-3, ValueError, "segments: expected a number >= 1, got -3"),
        (7, ValueError, "segments: 60 logits of level 0 cannot be cut into 7 equal parts"),
        ([10, 20], ValueError, "segments: lengths of 30 together, but there are 180 logits"),
        ([], ValueError, "segments: lengths of 0 together"),
        ([200, -20], ValueError, r"segments\[1\]: expected a length >= 0, got -20"),
        ([90.0, 90], ValueError, r"segments\[0\]: expected a length >= 0, got 90.0"),
        (True, TypeError, "segments: expected a number or a sequence of lengths, got bool"),
        ("180", TypeError, "segments: expected a number or a sequence of lengths, got str"),
        (torch.tensor([90, 90]), TypeError, "segments: expected a number or a sequence of lengths, got Tensor"),
    ],
)
def test_wrong_segments(backend, device, segments, error, message):
    with pytest.raises(error, match=message):
        call([60, 90, 30], 5, device).parts("rank_sort", segments=segments, **named(backend))
