"""No kernel spills a register on any GPU that it is compiled for."""

import os

import pytest

pytest.importorskip("triton")

from kernel_resources import TARGETS, compile_for, variants


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_spills(target, capsys):
    assert os.environ.get("TRITON_INTERPRET", "0") == "0", "offline compilation needs a process without the interpreter"
    spilling = []
    with capsys.disabled():
        print(f"\n{target}: {'kernel':<36} registers  spilled  stack  shared")
        for name, variant in variants().items():
            used = compile_for(variant, TARGETS[target])
            row = f"{name:<36} {used.registers:9d} {used.spilled:8d} {used.stack:6d} {used.shared:7d}"
            print(f"{'':{len(target) + 1}} {row}")
            if used.spilled or used.stack:
                spilling.append(row)
    assert not spilling, "\n".join(spilling)
