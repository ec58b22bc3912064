"""What compute-sanitizer runs on a GPU: every kernel that the losses launch, here counted instead of run."""

import pytest
import torch
from rank_sort_cases import INTERPRETED

pytest.importorskip("triton")
if not INTERPRETED:
    pytest.skip("counts interpreted kernels", allow_module_level=True)

from gpu_run.parts import gpu_parts
from gpu_run.sanitized import calls
from gpu_run.source import kernels
from launches import counted_launches


def test_every_kernel_is_launched_and_is_checked(monkeypatch):
    with counted_launches(monkeypatch) as launches:
        for call in calls(torch.device("cpu")):
            call()
    launched = {name for name in launches.names if name.endswith("_kernel")}
    assert launched == {name for names in kernels().values() for name in names}
    assert len(launched) > 15
    for part in gpu_parts():
        if part.name.startswith("sanitizer"):
            assert {f"kns={name}" for name in launched} <= set(part.commands[0])
