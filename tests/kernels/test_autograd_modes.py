"""Every loss in every autograd mode, repeated, and over more than 2^31 logits.

P  positives      M  logits
"""

import pytest
import torch
from every_loss import LOSSES, errors_of, every_backend, every_loss, outcome, outside_of_backends
from rank_sort_cases import INTERPRETED, named, random_ranking

from rst.kernels import SparseTargets, gather_levels, rank_sort


@outside_of_backends
@every_backend
@every_loss
def test_logits_that_need_no_gradient(backend, device, loss):
    ranking = random_ranking(78, 200, 10)
    targets, error = ranking.targets.to(device), errors_of(ranking).to(device)
    logits = ranking.logits.to(device)
    expected = loss(logits.clone().requires_grad_(), targets, error, **named(backend))
    assert expected.requires_grad
    plain = loss(logits, targets, error, **named(backend))
    assert not plain.requires_grad
    with torch.no_grad():
        quiet = loss(logits.clone().requires_grad_(), targets, error, **named(backend))
    assert not quiet.requires_grad
    with torch.inference_mode():
        inferred = loss(logits, targets, error, **named(backend))
    assert inferred.is_inference()
    assert all(torch.equal(value, expected.detach()) for value in (plain, quiet, inferred))


@outside_of_backends
@every_backend
def test_one_of_several_levels_needs_a_gradient(backend, device):
    ranking = random_ranking(79, 300, 20)
    for loss in LOSSES.values():
        _, whole = outcome(loss, ranking, backend, device)
        levels = [part.clone().to(device) for part in ranking.logits.split([120, 100, 80])]
        levels[1].requires_grad_()
        targets = [part.to(device) for part in ranking.targets.split([120, 100, 80])]
        loss(levels, targets, errors_of(ranking).to(device), delta=ranking.delta, **named(backend)).backward()
        assert levels[1].grad is not None
        assert levels[0].grad is None
        torch.testing.assert_close(levels[1].grad.cpu(), whole[120:220], rtol=1e-6, atol=1e-8)


@outside_of_backends
@every_backend
@every_loss
def test_no_second_derivative(backend, device, loss):
    logits = torch.tensor([0.1, 0.2, 0.3], device=device, requires_grad=True)
    targets, error = torch.tensor([0.9, 0.0, 0.0], device=device), torch.tensor([0.3], device=device)
    value = loss(logits, targets, error, **named(backend))
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(gradient.sum(), logits)


@outside_of_backends
@every_backend
@every_loss
@pytest.mark.parametrize(
    "transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev], ids=lambda made: made.__name__
)
def test_no_function_transforms(backend, device, loss, transform):
    """Refused by name: torch would speak of the inside of the loss, or of an operator of the targets."""
    logits = torch.zeros(2, 3, device=device)
    targets = torch.tensor([0.9, 0, 0], device=device)

    def value(logits):
        targets_of_all = targets.expand(logits.shape)
        return loss(logits, targets_of_all, torch.zeros(2, device=device), **named(backend))

    with pytest.raises(RuntimeError, match=r"torch\.func: .* use torch\.autograd.grad, and `segments`"):
        transform(value)(logits)


@outside_of_backends
@every_backend
@every_loss
def test_deterministic_algorithms_are_enough(backend, device, loss):
    if device == "cuda" and backend == "torch":
        pytest.skip("the fallback adds with atomics on a GPU, and README.md says so")
    ranking = random_ranking(80, 400, 30)
    torch.use_deterministic_algorithms(False)  # the fixture of conftest.py has it on
    expected = outcome(loss, ranking, backend, device)
    torch.use_deterministic_algorithms(True)  # without `warn_only`: an operator that has no such algorithm raises
    got = outcome(loss, ranking, backend, device)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@every_backend
@every_loss
def test_a_hundred_repeats_have_the_same_bits(backend, device, loss):
    if device == "cuda" and backend == "torch":
        pytest.skip("the fallback adds with atomics on a GPU, and README.md says so")
    ranking = random_ranking(81, 600, 40)
    first = outcome(loss, ranking, backend, device)
    for _ in range(3 if INTERPRETED else 99):
        again = outcome(loss, ranking, backend, device)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


BILLIONS = 2**31 + 5  # logits in a level that is stored as one


@outside_of_backends
def test_places_beyond_31_bits():
    levels = [torch.zeros(1).expand(BILLIONS), torch.tensor([3.0, 4.0])]
    index = torch.tensor([BILLIONS + 1, 0, BILLIONS, BILLIONS - 1])
    assert gather_levels(levels, index).tolist() == [4, 0, 3, 0]


@pytest.mark.slow
@outside_of_backends
def test_more_logits_than_31_bits_count():
    """Forward only: the gradient would need 8 GiB."""
    levels = [torch.full((1,), -50.0).expand(BILLIONS), torch.tensor([3.0, 4.0, 5.0])]
    targets = SparseTargets(torch.tensor([BILLIONS, BILLIONS + 2]), torch.tensor([0.5, 0.6]))
    loss = rank_sort(levels, targets, backend="torch")
    # the second positive is above all; the first has one negative above it, and a rank of 1/2 + 1 + 1
    assert loss.ranking.item() == pytest.approx(0.2, rel=1e-6)
    assert loss.sorting.item() == 0
