"""Compiles every Triton kernel for a GPU that is not there, and reads from the result what it would use.

Needs a process without TRITON_INTERPRET, and no GPU. The assembler ships in Triton's own wheel.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from rst.kernels import columns, rows

TARGETS = {
    "cuda 80": GPUTarget("cuda", 80, 32),
    "cuda 90": GPUTarget("cuda", 90, 32),
    "cuda 100": GPUTarget("cuda", 100, 32),
    "hip gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Resources:
    """What one program of a compiled kernel takes."""

    registers: int  # per thread (vector registers on AMD)
    spilled: int  # bytes per thread, or registers on AMD
    stack: int  # bytes per thread
    shared: int  # bytes per program


@dataclass(frozen=True)
class Variant:
    """One kernel at the types and sizes that its launcher uses."""

    kernel: triton.runtime.JITFunction
    pointers: dict[str, str]  # argument -> pointer type
    constants: dict[str, object]

    def signature(self) -> dict[str, str]:
        """Types of all arguments, in order."""
        numbers = {"size": "i64", "count": "i32", "delta": "fp32", "inverse_width": "fp32"}
        return {name: self.pointers.get(name) or numbers.get(name, "constexpr") for name in self.kernel.arg_names}


def variants() -> dict[str, Variant]:
    """Every kernel, hard and smooth, for every dtype of logits and every way to ignore; int64 sizes throughout."""
    found = {}
    for hard in (False, True):
        step = "hard" if hard else "smooth"
        for logits in ("fp32", "fp16", "bf16"):
            for kind, ignore in enumerate((logits, "u8", "fp32")):
                common = {"logits_ptr": f"*{logits}", "ignore_ptr": f"*{ignore}", "positives_ptr": "*fp32"}
                constants = {"HARD": hard, "IGNORE": kind}
                name = f"{step} {logits} ignore={kind}"
                found[f"count {name}"] = Variant(
                    rows.count_kernel,
                    {**common, "mass_ptr": "*i64", "nan_ptr": "*i32"},
                    {**constants, "BLOCK_P": rows.BLOCK_P, "BLOCK_N": rows.BLOCK_N, "TILES": rows.TILES_PER_PROGRAM},
                )
                found[f"scatter {name}"] = Variant(
                    columns.scatter_kernel,
                    {**common, "out_ptr": f"*{logits}", "weights_ptr": "*fp32", "poison_ptr": "*fp32"},
                    {**constants, "BLOCK_P": columns.BLOCK_P, "BLOCK_N": columns.BLOCK_N},
                )
        among = {"positives_ptr": "*fp32", "quality_ptr": "*fp32"}
        found[f"sorting sums {step}"] = Variant(
            rows.sorting_sums_kernel,
            {**among, "sums_ptr": "*fp32"},
            {"HARD": hard, "BLOCK_P": rows.BLOCK_P, "BLOCK_N": rows.BLOCK_N},
        )
        found[f"sorting demotion {step}"] = Variant(
            columns.sorting_demotion_kernel,
            {**among, "spread_ptr": "*fp32", "out_ptr": "*fp32"},
            {"HARD": hard, "BLOCK_P": columns.BLOCK_P, "BLOCK_N": columns.BLOCK_N},
        )
    return found


def compile_for(variant: Variant, target: GPUTarget) -> Resources:
    """Compiles to machine code for `target` and reads off its resources."""
    source = ASTSource(fn=variant.kernel, signature=variant.signature(), constexprs=variant.constants)
    compiled = triton.compile(source, target=target)
    shared = compiled.metadata.shared
    if target.backend == "hip":
        return _read_amdgcn(compiled.asm["amdgcn"], shared)
    return _assemble_ptx(compiled.asm["ptx"], target.arch, shared)


def intermediate_code(variant: Variant) -> str:
    """The kernel in Triton's first intermediate form, the same for every target."""
    source = ASTSource(fn=variant.kernel, signature=variant.signature(), constexprs=variant.constants)
    return triton.compile(source, target=TARGETS["cuda 90"]).asm["ttir"]


def _assemble_ptx(ptx: str, arch: int, shared: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        name = re.search(r"\.target (sm_\w+)", ptx)
        assert name is not None, "PTX without a target"
        command = [
            get_ptxas(arch).path,
            "-v",
            f"--gpu-name={name[1]}",
            str(path),
            "-o",
            str(path.with_suffix(".cubin")),
        ]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", report)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert registers is not None, report
    assert frame is not None, report
    return Resources(int(registers[1]), int(frame[2]) + int(frame[3]), int(frame[1]), shared)


def _read_amdgcn(text: str, shared: int) -> Resources:
    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", text)
        assert found is not None, f"no {key} in the assembly"
        return int(found[1])

    spilled = value("vgpr_spill_count") + value("sgpr_spill_count")
    return Resources(value("vgpr_count"), spilled, value("private_segment_fixed_size"), shared)
