"""Compiles every Triton kernel for GPUs that this machine need not have, and reads its resources from the result.

Needs a process without TRITON_INTERPRET, and no GPU. The assembler ships in Triton's own wheel.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from rst.kernels import triton_breakpoints, triton_kinks_merge, triton_pairs, triton_scans, triton_tiled

TARGETS = {
    "cuda 80": GPUTarget("cuda", 80, 32),
    "cuda 90": GPUTarget("cuda", 90, 32),
    "cuda 100": GPUTarget("cuda", 100, 32),
    "hip gfx942": GPUTarget("hip", "gfx942", 64),
}


# Types of the arguments that are not pointers.
NUMBERS = {
    **dict.fromkeys(["size"], "i64"),
    **dict.fromkeys(["positives_size", "kinks_size", "tables"], "i32"),
    **dict.fromkeys(["delta", "inverse_width", "room", "widest", "units", "finer"], "fp32"),
}
# Instructions that load from or store to a thread's own memory.
LOCAL_MEMORY = re.compile(r"\b(LDL|STL)\b")


@dataclass(frozen=True)
class Resources:
    """The resources of one program of a compiled kernel."""

    registers: int  # per thread (vector registers on AMD)
    spilled: int  # bytes per thread, or registers on AMD
    stack: int  # bytes per thread that an instruction uses
    shared: int  # bytes per program


@dataclass(frozen=True)
class Variant:
    """One kernel at the types and sizes that its launcher uses."""

    kernel: triton.runtime.JITFunction
    pointers: dict[str, str]  # argument -> pointer type
    constants: dict[str, object]
    options: dict[str, object] = field(default_factory=dict)  # of the compiler, such as num_warps

    def signature(self) -> dict[str, str]:
        """Types of all arguments, in order."""
        types = {}
        for parameter in self.kernel.params:
            known = {**NUMBERS, **self.pointers}.get(parameter.name, "constexpr")
            types[parameter.name] = parameter.annotation_type or known
        return types

    def source(self) -> ASTSource:
        """What to compile; memory begins where torch's allocator lets it, at multiples of 16 bytes."""
        types = self.signature()
        aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(types.values()) if kind[0] == "*"}
        return ASTSource(fn=self.kernel, signature=types, constexprs=self.constants, attrs=aligned)


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
                    triton_tiled.count_kernel,
                    {**common, "mass_ptr": "*i64", "nan_ptr": "*i32"},
                    {
                        **constants,
                        "BLOCK_P": triton_tiled.BLOCK_P,
                        "BLOCK_N": triton_tiled.COUNT_BLOCK_N,
                        "TILES": triton_tiled.TILES_PER_PROGRAM,
                    },
                )
                found[f"scatter {name}"] = Variant(
                    triton_tiled.scatter_kernel,
                    {**common, "out_ptr": f"*{logits}", "weights_ptr": "*fp32", "poison_ptr": "*fp32"},
                    {**constants, "BLOCK_P": triton_tiled.BLOCK_P, "BLOCK_N": triton_tiled.SCATTER_BLOCK_N},
                )
        among = {"positives_ptr": "*fp32", "quality_ptr": "*fp32"}
        found[f"sorting sums {step}"] = Variant(
            triton_pairs.sorting_sums_kernel,
            {**among, "sums_ptr": "*fp32"},
            {"HARD": hard, "BLOCK_P": triton_pairs.BLOCK_P, "BLOCK_N": triton_pairs.BLOCK_N},
        )
        found[f"sorting demotion {step}"] = Variant(
            triton_pairs.sorting_demotion_kernel,
            {**among, "spread_ptr": "*fp32", "out_ptr": "*fp32"},
            {"HARD": hard, "BLOCK_P": triton_pairs.BLOCK_P, "BLOCK_N": triton_pairs.DEMOTION_BLOCK_N},
        )
        found[f"weigh {step}"] = Variant(
            triton_pairs.weigh_kernel,
            {"positives_ptr": "*fp32", "values_ptr": "*fp32", "out_ptr": "*fp32"},
            {"HARD": hard, "BLOCK_P": triton_pairs.BLOCK_P, "BLOCK_N": triton_pairs.BLOCK_N},
        )
    return {**found, **breakpoints_variants()}


def breakpoints_variants() -> dict[str, Variant]:
    """The kernels of the breakpoints algorithm: over the logits, and along the kinks.

    float16 is compiled once, for it differs from bfloat16 in nothing but the widening.
    """
    found = {}
    seen = [(logits, kind) for logits in ("fp32", "bf16") for kind in range(3)] + [("fp16", 0)]
    for logits, kind in seen:
        ignore = (logits, "u8", "fp32")[kind]
        search = {"threshold_ptr": "*fp32", "cells_ptr": "*i32", "bounds_ptr": "*fp32"}
        pointers = {"logits_ptr": f"*{logits}", "ignore_ptr": f"*{ignore}", **search}
        constants = {"IGNORE": kind, "CELLS": triton_kinks_merge.MOST_CELLS, "BLOCK": triton_breakpoints.BLOCK}
        warps = {"num_warps": triton_breakpoints.WARPS}
        for hard in (False, True) if (logits, kind) == ("fp32", 0) else (False,):
            name = f"tally {'hard' if hard else 'smooth'} {logits} ignore={kind}"
            tables = {"tables_ptr": "*i64"}
            found[name] = Variant(
                triton_breakpoints.tally_kernel, {**pointers, **tables}, {**constants, "HARD": hard}, warps
            )
        found[f"look up {logits} ignore={kind}"] = Variant(
            triton_breakpoints.scatter_kernel,
            {**pointers, "out_ptr": f"*{logits}", "profile_ptr": "*fp32", "poison_ptr": "*fp32"},
            constants,
            warps,
        )
    kinks = {"position_ptr": "*fp64", "threshold_ptr": "*fp32", "place_ptr": "*i32", "owner_ptr": "*i32"}
    tallies = {"all_ptr": "*i64", "masked_ptr": "*i64", "own_ptr": "*i64", "along_ptr": "*i64"}
    ordered = {"positives_ptr": "*fp32", "order_ptr": "*i64", "cells_ptr": "*i32", "bounds_ptr": "*fp32"}
    pointers = {**kinks, **tallies, **ordered, "weights_ptr": "*fp64", "profile_ptr": "*fp32", "masses_ptr": "*fp64"}
    merge = (
        {"CELLS": triton_kinks_merge.MOST_CELLS, "BLOCK": triton_kinks_merge.BLOCK},
        {"num_warps": triton_kinks_merge.WARPS},
    )
    scan, integrating = {"BLOCK": triton_scans.SCAN_BLOCK}, {"num_warps": triton_scans.INTEGRATE_WARPS}
    for name, kernel, constants, options in (
        ("kinks", triton_kinks_merge.kinks_kernel, *merge),
        ("integrate", triton_scans.integrate_kernel, {**scan, "FINE": triton_scans.FINEST_BITS}, integrating),
        ("masses", triton_scans.masses_kernel, {"BLOCK": triton_scans.BLOCK}, {}),
        ("profile", triton_scans.profile_kernel, scan, {"num_warps": triton_scans.PROFILE_WARPS}),
    ):
        for hard in (False, True):
            step = "hard" if hard else "smooth"
            found[f"{name} {step}"] = Variant(kernel, pointers, {**constants, "HARD": hard}, options)
    return found


def compile_for(variant: Variant, target: GPUTarget) -> Resources:
    """Compiles to machine code for `target` and reads off its resources."""
    compiled = triton.compile(variant.source(), target=target, options=variant.options)
    shared = compiled.metadata.shared
    if target.backend == "hip":
        return _read_amdgcn(compiled.asm["amdgcn"], shared)
    return _assemble_ptx(compiled.asm["ptx"], target.arch, shared)


def intermediate_code(variant: Variant) -> str:
    """The kernel in Triton's first intermediate form, the same for every target."""
    return triton.compile(variant.source(), target=TARGETS["cuda 90"], options=variant.options).asm["ttir"]


def ptx_code(variant: Variant) -> str:
    """The kernel in NVIDIA's virtual assembly, for cuda 90."""
    return triton.compile(variant.source(), target=TARGETS["cuda 90"], options=variant.options).asm["ptx"]


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
        stack = int(frame[1])
        if stack:  # the assembler may set a frame aside that its code never touches
            dump = [str(Path(get_ptxas(arch).path).with_name("cuobjdump")), "-sass", str(path.with_suffix(".cubin"))]
            code = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
            stack = stack if LOCAL_MEMORY.search(code) else 0
    return Resources(int(registers[1]), int(frame[2]) + int(frame[3]), stack, shared)


def _read_amdgcn(text: str, shared: int) -> Resources:
    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", text)
        assert found is not None, f"no {key} in the assembly"
        return int(found[1])

    spilled = value("vgpr_spill_count") + value("sgpr_spill_count")
    return Resources(value("vgpr_count"), spilled, value("private_segment_fixed_size"), shared)
