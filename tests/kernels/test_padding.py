"""Padded targets: a fixed number of positives, of which some are none.

P  positives
"""

import pytest
import torch
from every_loss import LOSSES, every_backend, every_loss, outside_of_backends
from rank_sort_cases import named
from segment_cases import Call, call

from rst.kernels import SparseTargets, rank_sort

pytestmark = every_backend


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


def test_targets_need_not_be_contiguous(backend, device):
    whole = call([60, 90], 20, device)
    targets = SparseTargets(whole.index, whole.quality, whole.masks).padded(24)
    strided = [torch.stack([each, each], 1)[:, 0] for each in (targets.index, targets.quality, targets.valid)]
    assert not any(each.is_contiguous() for each in strided)
    other = SparseTargets(strided[0], strided[1], whole.masks, strided[2])
    for one, truth in zip(
        *(whole.parts("rank_sort", each, **named(backend)) for each in (other, targets)), strict=True
    ):
        for part, expected in zip(one, truth, strict=True):
            assert (part is None and expected is None) or torch.equal(part, expected)


@pytest.mark.parametrize("outside", [-1, 150, 10**12])
def test_triton_does_not_hide_an_index_outside_the_levels(monkeypatch, backend, device, outside):
    """On a GPU an index is not checked, for that would be a host sync: its ranking becomes NaN."""
    if not backend.startswith("triton"):
        pytest.skip("torch's own index check raises")
    monkeypatch.setattr("rst.kernels.targets._may_read", lambda tensor: False)
    whole = call([60, 90], 20, device)
    whole.index[7] = outside
    values, gradients = whole.parts("rank_sort", SparseTargets(whole.index, whole.quality), **named(backend))
    assert all(value.isnan() for value in values)
    assert all(gradient.isnan().all() for gradient in gradients[:-1])
