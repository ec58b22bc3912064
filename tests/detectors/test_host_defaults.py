"""Defaults of the host program change no bit of a step or of an evaluation; weights of another dtype are refused."""

import pytest
import torch
from detector_cases import CASES, Batch, Case
from host_defaults import HOSTILE, all_of_them, default_dtype


def step_and_evaluation(case: Case, batch: Batch, hostile):
    """Losses, statistics, gradients and detections, in one list; the model is made before."""
    model = case.build()
    images, targets = batch
    found = []
    with hostile():
        losses = model(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        found += [value.detach() for value in losses.values()] + list(model.statistics.values())
        found += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found += [tensor for of_head in model.positives(images, targets).values() for tensor in of_head]
        model.eval()
        with torch.no_grad():
            for detections in model(images):
                found += list(detections.values())
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_and_an_evaluation(case: Case, batch: Batch):
    torch.use_deterministic_algorithms(True)
    expected = step_and_evaluation(case, batch, torch.enable_grad)
    got = step_and_evaluation(case, batch, all_of_them)
    assert len(got) == len(expected)
    for value, other in zip(got, expected, strict=True):
        assert (value.dtype, value.device) == (other.dtype, other.device)
        assert torch.equal(value.nan_to_num(7.0), other.nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
def test_weights_of_another_dtype_are_refused(case: Case, batch: Batch, dtype):
    images, targets = batch
    with default_dtype(dtype):
        made = case.build()
    head = case.build()
    getattr(head, next(name for name, _ in head.named_parameters() if "backbone" not in name).split(".")[0]).to(dtype)
    message = f"the weights .* are {dtype}, not torch.float32: call float()"
    for model in (made, head, case.build().to(dtype)):
        for call in (
            lambda model=model: model(images, targets),
            lambda model=model: model.positives(images, targets),
            lambda model=model: model.eval()(images),
        ):
            with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
                call()
    assert len(case.build().to(dtype).float().eval()(images)) == len(images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_of_another_dtype(batch: Batch, dtype):
    """They are float32 from the start: images come as they are decoded."""
    images, targets = batch
    model = CASES[0].build()
    rounded = [image.to(dtype) for image in images]
    losses, expected = model(rounded, targets), model([image.float() for image in rounded], targets)
    assert all(torch.equal(losses[name], value) for name, value in expected.items())


def test_a_model_made_under_other_defaults_of_memory(batch: Batch):
    """What is made in new memory is written before it is read."""
    with HOSTILE["deterministic, NaN in new memory"]():
        made = CASES[0].build()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), CASES[0].build().parameters(), strict=True))
