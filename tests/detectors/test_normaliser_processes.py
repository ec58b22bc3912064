"""Two processes with unequally many positives get, averaged, the gradients of one that holds everything."""

from pathlib import Path

import normaliser_processes
import pytest
import torch
import torch.distributed as dist
from process_group import process_group

from rst.detectors.losses.localisation import process_mean

PROCESSES = 2


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path):
    with process_group(normaliser_processes.__file__, PROCESSES, tmp_path):
        whole = {flag: normaliser_processes.gradients([0, 1], flag) for flag in (True, False)}
    shares = [torch.load(tmp_path / f"gradients_{rank}.pt") for rank in range(PROCESSES)]
    for flag, (logits, deltas) in whole.items():
        torch.testing.assert_close(torch.cat([share[flag][0] for share in shares]), logits)
        torch.testing.assert_close(torch.cat([share[flag][1] for share in shares]), deltas)
    assert whole[True][1].any(dim=1).all()
    assert whole[False][1].any(dim=1).tolist() == normaliser_processes.COUNTED


def test_a_value_alone_is_its_own_mean():
    value = torch.tensor(3.0)
    assert process_mean(value) is value
