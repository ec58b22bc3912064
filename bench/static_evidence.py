"""Compiles every Triton kernel for several GPUs: registers, spills, stack, shared memory, instructions.

PYTHONPATH=tests/support python bench/static_evidence.py results.json     without TRITON_INTERPRET

No GPU is needed. Instructions are counted in the machine code of one program, without padding. They are the length of
the code and not its time: a loop counts once.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import triton
from kernel_resources import TARGETS, Variant, compile_for, variants
from triton.backends.compiler import GPUTarget

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SASS_LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", re.MULTILINE)
AMD_LINE = re.compile(r"^\t([a-z]\w*)(?:\s|$)", re.MULTILINE)


def sass_instructions(listing: str) -> int:
    """Instructions in the output of cuobjdump, without the NOPs of the padding."""
    return sum(name != "NOP" for name in SASS_LINE.findall(listing))


def amd_instructions(assembly: str) -> int:
    """Instructions in AMD assembly up to the function's end, without directives (`.name`) and padding NOPs."""
    code = assembly.split("; -- End function")[0]
    return sum(name != "s_nop" for name in AMD_LINE.findall(code))


def count_instructions(variant: Variant, target: GPUTarget) -> int:
    """Instructions of the machine code for `target`."""
    compiled = triton.compile(variant.source(), target=target, options=variant.options)
    if target.backend == "hip":
        return amd_instructions(compiled.asm["amdgcn"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        command = [str(CUOBJDUMP), "-sass", str(path)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sass_instructions(listing)


def evidence_of(name: str) -> list[dict[str, object]]:
    """One entry for each target, for the variant with this name."""
    variant = variants()[name]
    return [
        {
            # with its file: kernels of two algorithms have the same name
            "kernel": f"{variant.kernel.fn.__module__.rpartition('.')[2]}.{variant.kernel.fn.__name__}",
            "variant": name,
            "target": target,
            **asdict(compile_for(variant, machine)),
            "instructions": count_instructions(variant, machine),
        }
        for target, machine in TARGETS.items()
    ]


def evidence() -> list[dict[str, object]]:
    """One entry for each kernel, variant and target, compiled in one process for each core."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return [entry for entries in pool.map(evidence_of, variants()) for entry in entries]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(evidence(), indent=1) + "\n")
