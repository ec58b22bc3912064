"""Two processes with unequally many positives get, averaged, the gradients of one that holds everything."""

import os
import subprocess
import sys
from pathlib import Path

import normaliser_processes
import pytest
import torch
import torch.distributed as dist

from rst.detectors.box_loss import process_mean

PROCESSES = 2


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path):
    command = [sys.executable, str(normaliser_processes.__file__)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(PROCESSES), str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for rank in range(PROCESSES)
    ]
    try:
        for process in processes:
            _, complaint = process.communicate(timeout=240)
            assert process.returncode == 0, complaint.decode()
    finally:
        for process in processes:
            process.kill()
    shares = [torch.load(tmp_path / f"gradients_{rank}.pt") for rank in range(PROCESSES)]
    logits, deltas = normaliser_processes.gradients([0, 1])
    torch.testing.assert_close(torch.cat([share[0] for share in shares]), logits)
    torch.testing.assert_close(torch.cat([share[1] for share in shares]), deltas)


def test_outside_of_a_distributed_training_a_value_is_its_own_mean():
    value = torch.tensor(3.0)
    assert process_mean(value) is value
