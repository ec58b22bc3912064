"""Several rankings in one call: each gets the bits that a call of its own gets, whatever the backend.

P  positives      M  logits      S  segments
"""

from dataclasses import dataclass

import pytest
import torch
from every_loss import LOSSES, every_backend, every_loss, outside_of_backends
from rank_sort_cases import named
from torch import Tensor

from rst.kernels import RankSortLoss, SparseTargets, alrp, average_precision, rank_sort, ranking_loss

pytestmark = every_backend


@dataclass(frozen=True)
class Call:
    """The inputs of one call, on one device."""

    levels: list[Tensor]
    index: Tensor
    quality: Tensor
    error: Tensor
    masks: list[Tensor]

    def parts(self, loss: str, targets=None, **more) -> tuple[list[Tensor], list[Tensor]]:
        """The values of the parts of a loss, and the gradients of the levels and of the errors, each part weighted."""
        levels = [level.clone().requires_grad_() for level in self.levels]
        error = self.error.clone().requires_grad_()
        targets = SparseTargets(self.index, self.quality, self.masks) if targets is None else targets
        if loss == "alrp":
            more["localisation_error"] = error
        values = PARTS[loss](levels, targets, **more)
        weights = (1.0, 2.0)
        sum(weight * value.sum() for weight, value in zip(weights, values, strict=False)).backward()
        return [value.detach() for value in values], [*(level.grad for level in levels), error.grad]


def own_score(counts) -> Tensor:
    """Reads everything that a score can read."""
    weighed = counts.weigh(counts.quality) + counts.sorting_sums().surplus.double()
    return counts.false_positives / (counts.false_positives + counts.true_positives) + 0.1 * weighed * counts.quality


PARTS = {
    "rank_sort": lambda *given, **more: list(rank_sort(*given, **more)),
    "average_precision": lambda *given, **more: [average_precision(*given, **more)],
    "alrp": lambda *given, **more: list(alrp(*given, **more)),
    "ranking_loss": lambda *given, **more: [ranking_loss(own_score, *given, **more)],
}


def call(sizes: list[int], positives: int, device: str, dtype: torch.dtype = torch.float32, ties: bool = False) -> Call:
    generator = torch.Generator().manual_seed(sum(sizes) + positives)
    total = sum(sizes)
    logits = 2 * torch.randn(total, generator=generator)
    logits = (4 * logits).round() / 4 if ties else logits
    index = torch.randperm(total, generator=generator)[:positives]
    quality, error = torch.rand(2, positives, generator=generator)
    mask = torch.rand(total, generator=generator) < 0.2
    levels = [level.to(device, dtype) for level in logits.split(sizes)]
    return Call(
        levels, index.to(device), quality.to(device), error.to(device), [m.to(device) for m in mask.split(sizes)]
    )


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


@every_loss
@pytest.mark.parametrize("form", FORMS)
def test_equal_to_separate_calls(backend, device, loss, form):
    name = next(key for key, each in LOSSES.items() if each is loss)
    sizes, segments, ranges = FORMS[form]
    whole = call(sizes, min(25, sum(sizes) - 2), device)
    assert_equal_to_separate_calls(whole, name, segments, ranges, **named(backend))


@pytest.mark.parametrize("loss", ["rank_sort", "alrp"])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_ties_and_hard_steps(backend, device, loss, delta):
    sizes, segments, ranges = FORMS["across levels"]
    assert_equal_to_separate_calls(
        call(sizes, 40, device, ties=True), loss, segments, ranges, delta=delta, **named(backend)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
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
@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "ranking_loss"])
def test_compiled(backend, device, loss):
    """One graph without a break, equal to eager."""
    whole = call([60, 90, 30], 30, device)

    def values(levels, index, quality, masks, error):
        more = {"localisation_error": error} if loss == "alrp" else {}
        return PARTS[loss](levels, SparseTargets(index, quality, masks), segments=3, **more, **named(backend))

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


@every_loss
def test_padding_counts_for_nothing(backend, device, loss):
    """Positives that are not valid change no bit, whatever their index and quality are."""
    name = next(key for key, each in LOSSES.items() if each is loss)
    whole = call([60, 90, 30], 20, device)
    for segments in (None, 3):
        expected, expected_gradients = whole.parts(name, segments=segments, **named(backend))
        places = torch.randperm(32, generator=torch.Generator().manual_seed(1))[:20].sort().values.to(device)
        valid = torch.zeros(32, dtype=torch.bool, device=device).index_fill(0, places, True)
        index = torch.tensor([-5, 10**9, 0, 3] * 8, device=device).index_copy(0, places, whole.index)
        quality = torch.full((32,), torch.nan, device=device).index_copy(0, places, whole.quality)
        error = torch.full((32,), torch.nan, device=device).index_copy(0, places, whole.error)
        padded = Call(whole.levels, index, quality, error, whole.masks)
        targets = SparseTargets(index, quality, whole.masks, valid)
        values, gradients = padded.parts(name, targets, segments=segments, **named(backend))
        for one, other in zip([*values, *gradients[:-1]], [*expected, *expected_gradients[:-1]], strict=True):
            assert torch.equal(one, other)
        if name == "alrp":
            assert torch.equal(gradients[-1][valid], expected_gradients[-1])
            assert gradients[-1][~valid].abs().sum() == 0


def test_nothing_but_padding(backend, device):
    whole = call([60], 4, device)
    targets = SparseTargets(whole.index, whole.quality, None, torch.zeros(4, dtype=torch.bool, device=device))
    values, gradients = whole.parts("rank_sort", targets, **named(backend))
    assert [value.item() for value in values] == [0, 0]
    assert gradients[0].abs().sum() == 0


@outside_of_backends
def test_padded_targets(backend, device):
    """`padded` gives targets of a fixed size the same loss."""
    whole = call([60, 90], 20, device)
    targets = SparseTargets(whole.index, whole.quality, whole.masks)
    padded = targets.padded(32)
    assert len(padded.index) == len(padded.quality) == len(padded.valid) == 32
    assert padded.padded(40).valid.sum() == 20
    for one, other in zip(
        *(whole.parts("rank_sort", each, **named(backend)) for each in (targets, padded)), strict=True
    ):
        for part, truth in zip(one, other, strict=True):
            assert (part is None and truth is None) or torch.equal(part, truth)
    with pytest.raises(ValueError, match="positives: 20 do not fit into 19"):
        targets.padded(19)


@outside_of_backends
@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        (torch.ones(4, dtype=torch.bool), ValueError, r"targets.valid: expected \(5,\) bool, got \(4,\) torch.bool"),
        (torch.ones(5), ValueError, r"targets.valid: expected \(5,\) bool, got \(5,\) torch.float32"),
        ([True] * 5, TypeError, "targets.valid: expected a tensor, got list"),
    ],
)
def test_wrong_padding(backend, device, valid, error, message):
    whole = call([60], 5, device)
    with pytest.raises(error, match=message):
        rank_sort(whole.levels, SparseTargets(whole.index, whole.quality, None, valid), **named(backend))
