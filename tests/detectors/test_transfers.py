"""Numbers between host and device: equal to those of torch, and nothing waits."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rst.detectors.assignment import mixture
from rst.detectors.geometry.transfers import Asked, constant

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("values", [[1, 2, 3], [[1, 2], [3, 4]], (0.1, 1e300), []])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_a_constant_is_the_tensor_of_the_same_numbers(device, values, dtype):
    if dtype == torch.int64 and values == (0.1, 1e300):
        values = (0, 1 << 62)
    expected = torch.tensor(values, dtype=dtype, device=device)
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        made = constant(values, dtype, torch.device(device))
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert (made.dtype, made.device) == (expected.dtype, expected.device)
    assert torch.equal(made, expected)


def test_a_cpu_answers_at_once():
    asked = Asked()
    assert [asked.is_true(torch.tensor(value)) for value in (False, True, True)] == [False, True, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_answers_later_and_nobody_waits():
    asked, yes, no = Asked(), *(torch.tensor(value, device="cuda") for value in (True, False))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert not asked.is_true(no), "the question"
        torch.cuda._sleep(int(2e8))
        assert not asked.is_true(yes), "the answer to the first is no, or is not there"
        assert not asked.is_true(yes), "the second waits behind the sleep"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    answers = [asked.is_true(yes)]
    torch.cuda.synchronize()
    assert asked.is_true(yes) or answers[0]


def test_who_has_no_values_is_not_asked():
    with FakeTensorMode():
        assert not Asked().is_true(torch.ones((), dtype=torch.bool, device="cpu"))
        assert constant([1, 2], torch.int64, torch.device("cuda")).device.type == "cuda"

    def step(x):
        asked = Asked()
        for _ in range(3):
            x = x + 1
            if asked.is_true((x > 0).all()):
                break
        return x

    torch.compiler.reset()
    assert torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2)).tolist() == [4, 4]
    torch.compiler.reset()


def test_the_end_of_the_steps_changes_no_bit(monkeypatch):
    """Whether the host knows that all samples have converged, and when, is a matter of time alone."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(40, 45, generator=generator).abs() * torch.rand(40, 1, generator=generator)).sort(1).values
    there = torch.rand(40, 45, generator=generator) < 0.9
    steps, fit = [], mixture._fit
    monkeypatch.setattr(mixture, "_fit", lambda *given: steps.append(1) or fit(*given))
    early = mixture.fit_mixtures(values, there)
    taken = len(steps)
    assert taken < mixture.MOST_STEPS
    monkeypatch.setattr(Asked, "is_true", lambda self, condition: False)
    late = mixture.fit_mixtures(values, there)
    assert len(steps) == taken + mixture.MOST_STEPS
    assert all(torch.equal(one, other) for one, other in zip(early, late, strict=True))
