"""Counting instructions in listings of machine code."""

import pytest

pytest.importorskip("triton")

from kernel_resources import TARGETS, variants
from static_evidence import amd_instructions, count_instructions, sass_instructions

SASS = """
\tcode for sm_90a
\t\tFunction : count_kernel
\t.headerflags\t@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                    /* 0x00000a00ff017b82 */
                                                                             /* 0x000e300000000800 */
        /*0010*/              @!P1 LDG.E R20, [R4.64] ;                      /* 0x0000a2000c1e1900 */
        /*0020*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;               /* 0x0000a2000c1e1900 */
        /*0030*/                   EXIT ;                                    /* 0x000000000000794d */
.L_x_1:
        /*0040*/                   BRA `(.L_x_1);                            /* 0xfffffffc00fc7947 */
        /*10050*/                  NOP;                                      /* 0x0000000000007918 */
"""
AMDGCN = """
\t.text
\t.globl\tcount_kernel                    ; -- Begin function count_kernel
count_kernel:                           ; @count_kernel
; %bb.0:
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\t.loc\t1 51 12                         ; rows.py:51:12
\tv_add_f32_e32 v1, v2, v3
\ts_nop 0
\ts_waitcnt lgkmcnt(0)
\ts_endpgm
.Lfunc_end0:
                                        ; -- End function
\t.set count_kernel.num_vgpr, 12
\tnot_an_instruction
"""


def test_instructions_of_nvidia_s_listing():
    assert sass_instructions(SASS) == 5, "two of them under a predicate, the padding not"


def test_instructions_of_amd_s_assembly():
    assert amd_instructions(AMDGCN) == 4, "neither directives nor the padding"


@pytest.mark.parametrize("target", TARGETS)
def test_the_profile_of_a_hard_step_takes_fewer_instructions(target):
    hard, smooth = (variants()[f"profile {step}"] for step in ("hard", "smooth"))
    few, many = (count_instructions(variant, TARGETS[target]) for variant in (hard, smooth))
    assert 50 < few < many
