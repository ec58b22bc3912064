"""The mixtures of PAA against scikit-learn's, sample by sample. `RST_MIXTURES=10000` tries more of them."""

import os
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gaussian_mixtures import ROUNDING, Oracle, fitted_by_sklearn
from torch import Tensor
from torch._subclasses import FakeTensorMode

from rst.detectors.assignment.mixture import fit_mixtures
from rst.detectors.assignment.probabilistic import separate

SAMPLES = int(os.environ.get("RST_MIXTURES", "600"))
MOST = 45  # values of a sample: nine of each of five levels


class Sample(NamedTuple):
    """The losses of an object's candidates, ascending."""

    kind: str
    values: list[float]


def random_sample(draw: random.Random) -> Sample:
    count = draw.choice([2, 2, 3, 4, 5, 9, 18, 27, 45])
    kind = draw.choice(["uniform", "two groups", "three values", "equal", "nearly equal", "an outlier", "zeros"])
    values = {
        "uniform": lambda: [draw.uniform(0, draw.choice([1, 3, 10])) for _ in range(count)],
        "two groups": lambda: [abs(draw.gauss(draw.choice([0.8, 2.0]), 0.2)) for _ in range(count)],
        "three values": lambda: [draw.choice([0.5, 1.0, 1.5]) for _ in range(count)],
        "equal": lambda: [draw.uniform(0, 2)] * count,
        "nearly equal": lambda: [1 + draw.uniform(0, 1e-3) for _ in range(count)],
        "an outlier": lambda: [*(draw.uniform(0, 1) for _ in range(count - 1)), 50.0],
        "zeros": lambda: [*([0.0] * (count - 1)), draw.uniform(0, 1)],
    }[kind]()
    return Sample(kind, sorted(np.float32(values).tolist()))


def padded(samples: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Values (G, K), with nonsense where a sample has none, and which are there."""
    there = torch.arange(MOST) < torch.tensor([len(values) for values in samples])[:, None]
    values = torch.tensor([values + [-7.0] * (MOST - len(values)) for values in samples])
    return values, there


@pytest.fixture(scope="module")
def compared() -> list[tuple[Sample, Oracle, list[int], np.ndarray, list[int]]]:
    """Of each sample scikit-learn's fit, and of ours the second component's values, the likelihoods, the positives."""
    draw = random.Random(0)
    samples = [random_sample(draw) for _ in range(SAMPLES)]
    values, there = padded([sample.values for sample in samples])
    mixture, positive = fit_mixtures(values, there), separate(values, there)
    assert not (positive & ~there).any()
    found = []
    for i, sample in enumerate(samples):
        own = slice(0, len(sample.values))
        second = (~mixture.in_first[i, own]).nonzero().flatten().tolist()
        likelihood = mixture.log_likelihood[i, own].numpy()
        found.append((sample, fitted_by_sklearn(sample.values), second, likelihood, positive[i].nonzero().flatten()))
    return found


def test_likelihoods_are_those_of_scikit_learn(compared):
    assert len({oracle.steps for _, oracle, *_ in compared}) > 5
    for sample, oracle, _, likelihood, _ in compared:
        np.testing.assert_allclose(likelihood, oracle.log_likelihood, atol=ROUNDING, err_msg=str(sample))


def test_components_are_those_of_scikit_learn_but_where_both_are_equally_likely(compared):
    tied = 0
    for sample, oracle, second, *_ in compared:
        expected = np.flatnonzero(oracle.component == 1).tolist()
        for value in set(second) ^ set(expected):
            assert abs(oracle.margin[value]) < ROUNDING, sample
            tied += 1
        if sample.kind in ("uniform", "two groups", "an outlier", "equal", "zeros"):
            assert second == expected, sample
    assert tied < 0.02 * sum(len(sample.values) for sample, *_ in compared)


def test_positives_are_those_of_scikit_learn_but_where_likelihoods_are_equal(compared):
    """Two values at the same distance from their mean are equally likely; then rounding says whether both count."""
    different = 0
    for sample, oracle, *_, positive in compared:
        if positive.tolist() != oracle.positives():
            assert oracle.tied(positive.tolist()), sample
            different += 1
    assert different < 0.05 * len(compared)


def test_the_most_steps_are_those_of_scikit_learn():
    values = np.linspace(0, 1, MOST) ** 8
    oracle = fitted_by_sklearn(values.tolist())
    mixture = fit_mixtures(*padded([values.tolist()]))
    np.testing.assert_allclose(mixture.log_likelihood[0].numpy(), oracle.log_likelihood, atol=ROUNDING)


def test_a_sample_does_not_depend_on_its_neighbours_or_on_what_is_absent():
    draw = random.Random(3)
    samples = [random_sample(draw).values for _ in range(30)]
    values, there = padded(samples)
    together = fit_mixtures(values, there)
    for i in range(4):
        alone = fit_mixtures(torch.where(there, values, torch.nan)[i : i + 1], there[i : i + 1])
        torch.testing.assert_close(alone.log_likelihood[0][there[i]], together.log_likelihood[i][there[i]])
        assert torch.equal(alone.in_first[0][there[i]], together.in_first[i][there[i]])


def test_none_one_and_two_candidates():
    values = torch.tensor([[3.0, 3, 3], [0.7, 3, 3], [0.2, 0.9, 3], [0.2, 5.0, 3], [0.4, 0.4, 3]])
    there = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0]]).bool()
    positive = separate(values, there)
    assert positive.sum(1).tolist()[:2] == [0, 0], "one candidate is no mixture: published code skips the object"
    assert positive[2:, 0].all()
    assert not positive[3, 1]
    assert not (positive & ~there).any()
    assert separate(torch.zeros(0, 5), torch.zeros(0, 5).bool()).shape == (0, 5)


def test_largest_numbers_leave_it_finite():
    largest = torch.finfo(torch.float32).max
    values = torch.tensor([[0.5, 0.6, largest], [largest] * 3, [0.1, largest, largest]])
    mixture = fit_mixtures(values, torch.ones_like(values).bool())
    assert mixture.log_likelihood.isfinite().all()
    assert separate(values, torch.ones_like(values).bool())[:, 0].all()


def test_fitting_waits_for_no_device():
    with FakeTensorMode(allow_non_fake_inputs=False):  # it raises where a value is asked for
        values = torch.empty(7, MOST, device="cuda")
        assert separate(values, values > 0).device.type == "cuda"
