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

from rst.kernels import (
    triton_breakpoints,
    triton_kinks_merge,
    triton_masses,
    triton_order,
    triton_pairs,
    triton_pairs_ask,
    triton_pairs_bands,
    triton_pairs_levels,
    triton_pairs_tree,
    triton_place,
    triton_scans,
    triton_scores,
    triton_tally,
    triton_tiled,
)
from rst.kernels.triton_pieces import ALIGNED, ANYWHERE, WHOLE

TARGETS = {
    "cuda 80": GPUTarget("cuda", 80, 32),
    "cuda 90": GPUTarget("cuda", 90, 32),
    "cuda 100": GPUTarget("cuda", 100, 32),
    "hip gfx942": GPUTarget("hip", "gfx942", 64),
}


# Types of the arguments that are not pointers; those of one type for all kernels.
SIZES = """positives_size segments tiles from_tile to_tile tables rows again size own_begin own_size zeros stride
    second_stride processes"""
NUMBERS = {
    **dict.fromkeys(SIZES.split(), "i32"),
    **dict.fromkeys(["bit", "first", "asking", "blocks"], "i32"),
    **dict.fromkeys(["delta", "inverse_width", "room", "widest", "units"], "fp32"),
}
# Pointers by the type that they have in all kernels.
TYPED = {
    "*fp32": """singles_ptr profile_ptr value_ptr second_ptr sums_ptr out_ptr caller_ptr upstream_ptr demotion_ptr
        error_ptr gathered_ptr quality_ptr values_ptr""",
    "*fp64": "doubles_ptr masses_ptr promotion_ptr negative_ptr positive_ptr given_ptr",
    "*i32": "ints_ptr flags_ptr",
    "*i64": "tallies_ptr total_ptr along_ptr units_ptr tables_ptr below_ptr keys_ptr sorted_ptr index_ptr segments_ptr",
    "*u8": "valid_ptr",
}
POINTERS = {name: kind for kind, names in TYPED.items() for name in names.split()}
# Instructions that load from or store to a thread's own memory.
LOCAL_MEMORY = re.compile(r"\b(LDL|STL)\b")


@dataclass(frozen=True)
class Resources:
    """The resources of one program of a compiled kernel."""

    registers: int  # per thread (vector registers on AMD)
    spilled: int  # vector registers on AMD; on NVIDIA the stack, where spilled registers lie
    stack: int  # bytes per thread that an instruction uses
    shared: int  # bytes per program


@dataclass(frozen=True)
class Variant:
    """One kernel at the types and sizes that its launcher uses."""

    kernel: triton.runtime.JITFunction
    constants: dict[str, object]
    options: dict[str, object] = field(default_factory=dict)  # of the compiler, such as num_warps
    logits: str = "fp32"  # type of the levels
    ignore: str = "fp32"  # type of their ignores
    pointers: dict[str, str] = field(default_factory=dict)  # types that are not those of all kernels

    def signature(self) -> dict[str, str | tuple[str, ...]]:
        """Types of all arguments, in order."""
        pieces = self.constants.get("PIECES", 0)
        tuples = {
            **dict.fromkeys(["levels", "outs"], f"*{self.logits}"),
            "ignores": f"*{self.ignore}",
            **dict.fromkeys(["sizes", "parts", "firsts", "begins"], "i64"),
        }
        types: dict[str, str | tuple[str, ...]] = {}
        for parameter in self.kernel.params:
            name = parameter.name
            if name in tuples:
                types[name] = (tuples[name],) * pieces  # type: ignore
            else:
                types[name] = parameter.annotation_type or {**NUMBERS, **POINTERS, **self.pointers}.get(
                    name, "constexpr"
                )
        return types

    def source(self) -> ASTSource:
        """What to compile; memory begins where torch's allocator lets it, at multiples of 16 bytes."""
        types = self.signature()
        aligned = {}
        for place, kind in enumerate(types.values()):
            if isinstance(kind, tuple):  # sizes and so on come 16-fold
                aligned |= {(place, each): [["tt.divisibility", 16]] for each in range(len(kind))}
            elif kind[0] == "*":
                aligned[place,] = [["tt.divisibility", 16]]
        return ASTSource(fn=self.kernel, signature=types, constexprs=self.constants, attrs=aligned)


def variants() -> dict[str, Variant]:
    """Every kernel, hard and smooth, for the dtypes of logits, the ways to ignore and the ways to cut levels."""
    return {**over_logits(), **over_positives(), **over_many_pairs()}


def over_logits() -> dict[str, Variant]:
    """The kernels over all logits. float16 is compiled once: it differs from bfloat16 in nothing but the widening."""
    found = {}
    seen = [(logits, kind) for logits in ("fp32", "bf16") for kind in range(3)] + [("fp16", 0)]
    cuts = {"": (WHOLE, 1), " 8 levels": (WHOLE, 8), " segments": (ALIGNED, 8), " odd segments": (ANYWHERE, 16)}
    for logits, kind in seen:
        ignore = (logits, "u8", "fp32")[kind]
        for cut, (how, pieces) in cuts.items() if (logits, kind) in (("fp32", 0), ("bf16", 1)) else [("", cuts[""])]:
            for hard in (False, True) if (logits, kind, cut) == ("fp32", 0, "") else (False,):
                constants = {"IGNORE": kind, "CUT": how, "PIECES": pieces, "HARD": hard}
                name = f"{'hard' if hard else 'smooth'} {logits} ignore={kind}{cut}"
                tiles = {**constants, "BLOCK_P": triton_tiled.BLOCK_P}
                types = {"logits": logits, "ignore": ignore}
                found[f"count {name}"] = Variant(
                    triton_tiled.count_kernel,
                    {**tiles, "BLOCK_N": triton_tiled.COUNT_BLOCK_N, "TILES": triton_tiled.TILES_PER_PROGRAM},
                    {"num_warps": triton_tiled.COUNT_WARPS},
                    **types,
                )
                found[f"scatter {name}"] = Variant(
                    triton_tiled.scatter_kernel, {**tiles, "BLOCK_N": triton_tiled.SCATTER_BLOCK_N}, **types
                )
                search = {**constants, "CELLS": triton_kinks_merge.MOST_CELLS, "BLOCK": triton_breakpoints.BLOCK}
                warps = {"num_warps": triton_breakpoints.WARPS}
                found[f"tally {name}"] = Variant(triton_tally.tally_kernel, search, warps, **types)
                found[f"look up {name}"] = Variant(triton_breakpoints.scatter_kernel, search, warps, **types)
                pieces_of = {"IGNORE": kind, "CUT": how, "PIECES": pieces, "PADDED": cut != ""}
                found[f"gather {name}"] = Variant(
                    triton_order.gather_kernel,
                    {**pieces_of, "FIRST": True, "BLOCK": triton_order.GATHER_BLOCK},
                    **types,
                )
    return found


def over_positives() -> dict[str, Variant]:
    """The kernels over positives and kinks."""
    found = {}
    for is_sorted in (False, True):
        blocks = {"BLOCK_P": triton_order.BLOCK_P, "BLOCK_N": triton_order.BLOCK_N, "ZEROED": triton_order.ZEROED}
        name = "order of sorted keys" if is_sorted else "order of keys"
        found[name] = Variant(triton_order.order_kernel, {"SORTED": is_sorted, **blocks})
    found["reduce"] = Variant(
        triton_tally.reduce_kernel, {"BLOCK": triton_tally.REDUCE_BLOCK, "TABLES": triton_tally.REDUCE_TABLES}
    )
    scoring = {"num_warps": triton_scores.WARPS}
    found["charge"] = Variant(triton_scores.charge_kernel, {"BLOCK": triton_scores.BLOCK}, scoring)
    pairs = {"BLOCK_P": triton_pairs.BLOCK_P, "BLOCK_N": triton_pairs.BLOCK_N}
    for hard in (False, True):
        step = "hard" if hard else "smooth"
        half = {"HARD": hard, "SELF_PAIR": 1.0 if hard else 0.5}
        found[f"sorting sums {step}"] = Variant(
            triton_pairs.sorting_sums_kernel, {**pairs, "HARD": hard, "CALLER": False}
        )
        found[f"weigh {step}"] = Variant(triton_pairs.weigh_kernel, {**pairs, "HARD": hard, "CALLER": False})
        for name, flags in {
            "place": {"DEMOTION": triton_place.NOT, "SECOND": False, "CHARGED": False},
            "place sorting": {"DEMOTION": triton_place.BY_PAIRS, "SECOND": True, "CHARGED": False},
            "place charged": {"DEMOTION": triton_place.NOT, "SECOND": False, "CHARGED": True},
        }.items():
            found[f"{name} {step}"] = Variant(
                triton_place.place_kernel, {**pairs, "HARD": hard, "PIECES": 8, "FIRST": True, **flags}
            )
        found[f"count positives {step}"] = Variant(
            triton_tiled.count_positives_kernel,
            {"HARD": hard, "BLOCK_P": triton_tiled.BLOCK_P, "BLOCK_N": triton_tiled.COUNT_BLOCK_N},
        )
        found[f"kinks {step}"] = Variant(
            triton_kinks_merge.kinks_kernel,
            {"HARD": hard, "CELLS": triton_kinks_merge.MOST_CELLS, "BLOCK": triton_kinks_merge.BLOCK},
            {"num_warps": triton_kinks_merge.WARPS},
        )
        scan = {"HARD": hard, "BLOCK": triton_scans.SCAN_BLOCK}
        found[f"integrate {step}"] = Variant(
            triton_scans.integrate_kernel, scan, {"num_warps": triton_scans.INTEGRATE_WARPS}
        )
        found[f"profile {step}"] = Variant(triton_scans.profile_kernel, scan, {"num_warps": triton_scans.PROFILE_WARPS})
        for source in (triton_masses.ALONG_KINKS, triton_masses.FROM_TILES):
            found[f"masses {step} {source}"] = Variant(
                triton_masses.masses_kernel, {**half, "MASSES": source, "BLOCK": triton_masses.BLOCK}
            )
        for loss in range(5):
            for source in range(2) if loss < triton_scores.ERRORS else (triton_masses.GIVEN,):
                constants = {**half, "LOSS": loss, "MASSES": source, "SPREADS": 3, "BLOCK": triton_scores.BLOCK}
                found[f"score {loss} {step} {source}"] = Variant(triton_scores.score_kernel, constants, scoring)
    return found


def over_many_pairs() -> dict[str, Variant]:
    """The kernels of the tree over pairs of positives."""
    found = {}
    inputs = dict.fromkeys(["positives_ptr", "quality_ptr", "ascending_ptr", "raw_ptr", "out_ptr"], "*fp32")
    places = ["members_ptr", "next_ptr", "rank_ptr", "begin_ptr", "end_ptr", "ends_ptr", "peak_ptr", "worse_ptr"]
    whole = dict.fromkeys(["fraction_ptr", "whole_sums_ptr", "whole_ptr", "masses_ptr"], "*i64")
    real = dict.fromkeys(["values_ptr", "real_sums_ptr", "real_ptr", "totals_ptr"], "*fp64")
    pointers = {**inputs, **dict.fromkeys(places, "*i32"), **whole, **real}
    for kind, name in enumerate(("sorting", "demotion", "weighing")):
        for hard in (False, True):
            constants = {"KIND": kind, "HARD": hard}
            bits = {"BITS": 0 if hard else triton_pairs_tree.UNIT_BITS}
            block = {"BLOCK": triton_pairs_levels.BLOCK}
            for kernel, sizes, more in (
                (triton_pairs_bands.bands_kernel, {**bits, "BLOCK": triton_pairs_bands.BLOCK}, {"values_ptr": "*fp32"}),
                (triton_pairs_levels.split_kernel, {**block, "SUMS": triton_pairs_levels.SUMS}, {}),
                (triton_pairs_ask.ask_kernel, {**bits, **block}, {}),
            ):
                step = "hard" if hard else "smooth"
                title = f"{name}: {kernel.fn.__name__.removesuffix('_kernel')} {step}"
                found[title] = Variant(kernel, {**constants, **sizes}, pointers={**pointers, **more})
    return found


def compile_for(variant: Variant, target: GPUTarget) -> Resources:
    """Compiles to machine code for `target` and reads off its resources."""
    compiled = triton.compile(variant.source(), target=target, options=variant.options)
    shared = compiled.metadata.shared
    if target.backend == "hip":
        return _read_amdgcn(compiled.asm["amdgcn"], shared)
    return _read_cubin(compiled.asm["cubin"], target.arch, shared)


def intermediate_code(variant: Variant) -> str:
    """The kernel in Triton's first intermediate form, the same for every target."""
    return triton.compile(variant.source(), target=TARGETS["cuda 90"], options=variant.options).asm["ttir"]


def ptx_code(variant: Variant) -> str:
    """The kernel in NVIDIA's virtual assembly, for cuda 90."""
    return triton.compile(variant.source(), target=TARGETS["cuda 90"], options=variant.options).asm["ptx"]


def _read_cubin(cubin: bytes, arch: int, shared: int) -> Resources:
    """Of the machine code that Triton made, with its options of the assembler."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = re.search(r"REG:(\d+) STACK:(\d+) ", _cuobjdump("-res-usage", path, arch))
        assert usage is not None, "cuobjdump names no registers"
        registers, stack = int(usage[1]), int(usage[2])
        if stack and not LOCAL_MEMORY.search(_cuobjdump("-sass", path, arch)):
            stack = 0  # the assembler may set a frame aside that its code never touches
    return Resources(registers, stack, stack, shared)


def _cuobjdump(option: str, cubin: Path, arch: int) -> str:
    command = [str(Path(get_ptxas(arch).path).with_name("cuobjdump")), option, str(cubin)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read_amdgcn(text: str, shared: int) -> Resources:
    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", text)
        assert found is not None, f"no {key} in the assembly"
        return int(found[1])

    # scalar registers spill into lanes of vector registers; what goes to memory is in the private segment
    return Resources(value("vgpr_count"), value("vgpr_spill_count"), value("private_segment_fixed_size"), shared)
