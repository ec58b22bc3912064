"""No kernel spills a register on any GPU that it is compiled for."""

import os
import re

import pytest

pytest.importorskip("triton")

from kernel_resources import TARGETS, compile_for, intermediate_code, ptx_code, variants


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


@pytest.mark.parametrize(
    "name",
    [
        "count smooth fp32 ignore=0",
        "scatter smooth fp32 ignore=0",
        "tally smooth fp32 ignore=1",
        "tally hard fp32 ignore=0",
        "look up smooth bf16 ignore=2",
    ],
)
def test_offsets_into_the_logits_are_64_bits_wide(name):
    """More than 2^31 logits: a program's number is widened before it is multiplied by the size of its block."""
    code = intermediate_code(variants()[name])
    # the tile's number, or its difference from the first one of its part, is widened and then multiplied
    found = []
    for wide, number in re.findall(r"(%[\w#]+) = arith.extsi (%[\w#]+) : i32 to i64", code):
        is_tile = re.search(rf"{re.escape(number)} = (tt.get_program_id x|arith.subi [^\n]*) : i32", code)
        if is_tile and re.search(rf"arith.muli {re.escape(wide)}, [^\n]*: i64", code):
            found.append(number)
    assert found


@pytest.mark.parametrize(
    "name", ["tally smooth fp32 ignore=0", "look up smooth fp32 ignore=0", "look up smooth bf16 ignore=0"]
)
def test_whole_tiles_move_16_bytes_at_a_time(name):
    """Whatever the size of the level: its last tile alone is loaded and stored logit by logit."""
    code = ptx_code(variants()[name])
    assert "ld.global.v4.b32" in code
    assert ("st.global.v4.b32" in code) == name.startswith("look up")


def test_delta_comes_in_float64():
    """Without its annotation Triton would pass a float as float32, and 0.1 would be another number."""
    assert variants()["kinks smooth"].signature()["delta"] == "fp64"
