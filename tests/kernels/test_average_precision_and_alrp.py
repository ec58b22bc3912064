"""AP loss and aLRP loss on every backend: equal to their equations, to the published numbers, and to themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rank_sort_cases import BACKENDS, Ranking, named, named_rankings, random_ranking

from rst.kernels import AlrpLoss, SelfBalance, SparseTargets, alrp, average_precision

PUBLISHED = np.load(Path(__file__).parent.parent / "data" / "ranking_losses.npz")
NAMED = named_rankings()
LOSSES = ["average_precision", "alrp"]

every_backend = pytest.mark.parametrize(
    ("backend", "device"), BACKENDS, ids=[f"{backend}-{device}" for backend, device in BACKENDS]
)


def errors_of(ranking: Ranking) -> torch.Tensor:
    """A localisation error (P,) for each positive."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(int((ranking.targets > 0).sum()), generator=generator)


def outcome(loss: str, ranking: Ranking, backend: str, device: str = "cpu"):
    """(value, gradient) of AP loss, or of aLRP's classification part, on the CPU in float64."""
    logits = ranking.logits.detach().clone().to(device).requires_grad_()
    targets = ranking.targets.to(device)
    if loss == "alrp":
        errors = errors_of(ranking).to(device)
        value = alrp(logits, targets, errors, delta=ranking.delta, **named(backend)).classification
    else:
        value = average_precision(logits, targets, delta=ranking.delta, **named(backend))
    value.backward()
    assert logits.grad is not None
    return value.double().item(), logits.grad.double().cpu()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMED)
@every_backend
def test_equals_the_dense_equations_in_float64(backend, device, name, loss):
    ranking = NAMED[name]
    if len(ranking.logits) * int((ranking.targets > 0).sum()) > 10_000_000:
        ranking = Ranking(ranking.logits[:50_000], ranking.targets[:50_000], ranking.delta)
    value, gradient = outcome(loss, ranking, backend, device)
    truth, true_gradient = outcome(loss, ranking.to(torch.float64), "reference")
    yardstick, yardstick_gradient = outcome(loss, ranking, "reference")
    assert abs(value - truth) <= abs(yardstick - truth) + 3e-7
    norm = true_gradient.abs().sum()
    allowed = (yardstick_gradient - true_gradient).abs().sum() + 1.5e-6 * norm + 1e-9
    assert (gradient - true_gradient).abs().sum() <= allowed
    assert gradient.sum().abs() <= 3e-6, "what pushes up pushes down"


@pytest.mark.parametrize("case", sorted({name[:3] for name in PUBLISHED}))
@every_backend
def test_equals_the_published_implementations(backend, device, case):
    vector = {key.removeprefix(f"{case}_"): PUBLISHED[key] for key in PUBLISHED if key.startswith(case)}
    delta = float(vector["ap_delta"])
    ranking = Ranking(torch.tensor(vector["logits"]), torch.tensor(vector["targets"]), delta)
    value, gradient = outcome("average_precision", ranking, backend, device)
    assert abs(value - vector["ap_loss"]) <= 1e-6
    assert np.abs(gradient.numpy() - vector["ap_grad"]).max() <= 1e-6

    logits = ranking.logits.to(device).requires_grad_()
    errors = torch.tensor(vector["loc_error"], device=device, requires_grad=True)
    loss = alrp(logits, ranking.targets.to(device), errors, delta=delta, **named(backend))
    sum(loss).backward()
    assert abs(loss.classification.item() - vector["alrp_loss"]) <= 1e-6
    assert np.abs(logits.grad.cpu().numpy() - vector["alrp_grad"]).max() <= 1e-6
    # the localisation part from the published ranks: cumulated errors over ranks, best score first; ties in both orders
    scores = vector["logits"][vector["targets"] > 0]
    if len(np.unique(scores)) == len(scores):
        assert (np.argsort(scores) == vector["alrp_order"]).all()
    rank = torch.tensor(vector["alrp_rank"]).double()
    twin = torch.tensor(vector["loc_error"], dtype=torch.float64, requires_grad=True)
    orders = [np.argsort(-scores, kind="stable"), np.argsort(scores, kind="stable")[::-1].copy()]
    expected = torch.stack([(twin[order].cumsum(0) / rank[order]).mean() for order in orders]).mean()
    expected.backward()
    assert loss.localisation.item() == pytest.approx(expected.item(), abs=2e-6)
    torch.testing.assert_close(errors.grad.cpu().double(), twin.grad, rtol=0, atol=2e-6)


A = [2.0, 1.0, 0.2, 1.5, 0.8, -1.0, 3.0], [1, 1, 1, 0, 0, 0, -1]
C = [3.0, 2, 1, 0.5, 0, -1], [0, 1, 1, 1, 0, 1]
PRINTED = [
    (A, 1.0, 0.312275, [-0.066667, -0.117949, -0.127660, 0.214512, 0.097763, 0, 0]),
    (A, 0.5, 0.264646, [0, -0.131313, -0.133333, 0.167677, 0.096970, 0, 0]),
    (C, 1.0, 0.315304, [0.258013, -0.076923, -0.076923, -0.078125, 0.057292, -0.083333]),
    (C, 0.5, 0.270833, [0.229167, -0.0625, -0.0625, -0.0625, 0.041667, -0.083333]),
]


@pytest.mark.parametrize(("case", "delta", "expected", "gradient"), PRINTED)
@every_backend
def test_average_precision_equals_the_printed_examples(backend, device, case, delta, expected, gradient):
    got = outcome("average_precision", Ranking(torch.tensor(case[0]), torch.tensor(case[1]), delta), backend, device)
    assert got[0] == pytest.approx(expected, abs=1e-6)
    assert got[1].tolist() == pytest.approx(gradient, abs=1e-6)


@every_backend
def test_alrp_equals_the_printed_example(backend, device):
    logits = torch.tensor(A[0], device=device, requires_grad=True)
    errors = torch.tensor([0.1, 0.6, 0.3], device=device, requires_grad=True)
    loss = alrp(logits, torch.tensor(A[1], device=device), errors, **named(backend))
    sum(loss).backward()
    assert loss.classification.item() == pytest.approx(0.312275, abs=1e-6)
    expected = [-0.066667, -0.131282, -0.173050, 0.248424, 0.122574, 0, 0]
    assert logits.grad.tolist() == pytest.approx(expected, abs=1e-6)
    # ranks 1.25, 3.25 and 4.70: (0.1 / 1.25 + 0.7 / 3.25 + 1.0 / 4.70) / 3
    assert loss.localisation.item() == pytest.approx(0.169382, abs=1e-4)
    shares = [(1 / 1.25 + 1 / 3.25 + 1 / 4.70) / 3, (1 / 3.25 + 1 / 4.70) / 3, 1 / 4.70 / 3]
    assert errors.grad.tolist() == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@every_backend
def test_sparse_targets_and_levels_equal_dense_ones(backend, device, loss):
    ranking = random_ranking(3, 700, 40, delta=1.0)
    _, expected = outcome(loss, ranking, backend, device)
    index = (ranking.targets > 0).nonzero().squeeze(1)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    ignore = [part.to(device) for part in (ranking.targets < 0).split([100, 600])]
    targets = SparseTargets(index[order].to(device), ranking.targets[index[order]].to(device), ignore)
    levels = [part.to(device).requires_grad_() for part in ranking.logits.clone().split([100, 600])]
    if loss == "alrp":
        alrp(levels, targets, errors_of(ranking)[order].to(device), **named(backend)).classification.backward()
    else:
        average_precision(levels, targets, **named(backend)).backward()
    got = torch.cat([level.grad.cpu().double() for level in levels])
    torch.testing.assert_close(got, expected, rtol=3e-6, atol=1e-8)


@every_backend
def test_no_positives_is_zero_and_attached(backend, device):
    logits = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    nothing = torch.zeros(2, device=device)
    errors = torch.zeros(0, device=device, requires_grad=True)
    loss = alrp(logits, nothing, errors, **named(backend))
    value = average_precision(logits, nothing, **named(backend))
    (sum(loss) + value).backward()
    assert [part.item() for part in (*loss, value)] == [0, 0, 0]
    assert logits.grad.tolist() == [0, 0]


@pytest.mark.parametrize("loss", LOSSES)
@every_backend
def test_nan_makes_everything_nan_but_the_ignored(backend, device, loss):
    ranking = random_ranking(44, 300, 40)
    logits = ranking.logits.clone()
    logits[(ranking.targets == 0).nonzero()[0]] = torch.nan
    value, gradient = outcome(loss, Ranking(logits, ranking.targets), backend, device)
    assert np.isnan(value)
    assert gradient[ranking.targets >= 0].isnan().all()
    assert (gradient[ranking.targets < 0] == 0).all()


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (torch.zeros(2), r"localisation_error: expected \(3,\) float, one for each positive, got \(2,\) torch.float32"),
        (torch.zeros(3, dtype=torch.int64), r"localisation_error: expected \(3,\) float.* torch.int64"),
        (torch.zeros(3, device="meta"), "localisation_error: on meta, but the logits are on cpu"),
    ],
)
def test_localisation_errors_that_do_not_fit(errors, message):
    with pytest.raises(ValueError, match=message):
        alrp(torch.tensor(A[0]), torch.tensor(A[1]), errors)


def test_self_balance_renews_its_weight_after_every_window():
    balance = SelfBalance(start=50, window=3)
    part = AlrpLoss(torch.tensor(0.9), torch.tensor(0.3, requires_grad=True))
    for _ in range(3):
        assert balance(part).item() == pytest.approx(0.9 + 50 * 0.3)
    assert balance.weight.item() == pytest.approx((0.9 + 0.3) / 0.3)
    # a second window, resumed from a checkpoint in its middle
    assert balance(AlrpLoss(torch.tensor(0.5), torch.tensor(0.1))).item() == pytest.approx(0.5 + 4 * 0.1)
    resumed = SelfBalance(start=1, window=3)
    resumed.load_state_dict(balance.state_dict())
    for _ in range(2):
        resumed(AlrpLoss(torch.tensor(0.7), torch.tensor(0.2)))
    assert resumed.weight.item() == pytest.approx((0.5 + 0.7 + 0.7 + 0.1 + 0.2 + 0.2) / (0.1 + 0.2 + 0.2))
    resumed.eval()
    before = resumed.steps.clone()
    resumed(part).backward()
    assert resumed.steps == before
    assert part.localisation.grad.item() == pytest.approx(resumed.weight.item())


def test_self_balance_keeps_its_weight_without_any_positive():
    balance = SelfBalance(start=50, window=2)
    for _ in range(5):
        assert balance(AlrpLoss(torch.tensor(0.0), torch.tensor(0.0))).item() == 0
    assert balance.weight.item() == 50


@pytest.mark.parametrize(
    ("arguments", "message"), [({"start": 0}, "start: .* got 0"), ({"window": 0}, "window: .* got 0")]
)
def test_self_balance_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfBalance(**arguments)
