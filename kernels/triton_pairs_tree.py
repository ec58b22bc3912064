"""The passes over pairs of many positives, without visiting the pairs: a wavelet matrix (Triton).

    R  positives, by segment and ascending logit, NaN last      y  qualities      v  values      H  the step
    E  ends of a band      C  halves of a node that are summed      B  blocks of members

The functions take positives in this order, and count for each those of its own segment: the places from `begin` to
before `end`. One ranking is one segment; a place with `begin == end` holds no positive: it counts nothing and nobody
counts it.

From bit to bit of the ranks of y, the top one first, the members of all nodes are split into a worse and a better half.
Two launches a level: `triton_pairs_levels.py` splits, with prefix sums; `triton_pairs_ask.py` lets each positive ask
the other half of its node, and sums the blocks of the next level. Masses are whole units, the other sums float64 in a
fixed order. Values are divided by the largest of their segment, so no segment adds to the rounding errors of another.
`torch_pairs_tree.py` is the same in torch operators; README.md has the derivation.
"""

from typing import Any

import torch
from torch import Tensor

from .triton_pairs_ask import ask_kernel
from .triton_pairs_bands import BLOCK as BAND_BLOCK
from .triton_pairs_bands import DEMOTION, SORTING, WEIGHING, bands_kernel
from .triton_pairs_levels import BLOCK, SUMS, split_kernel
from .triton_step import blocks_of, launch_context

# Units in a band, 2^40: logits are rounded to 1e-12 of a band. Fewer above 2^22 positives: their sum stays below 2^62.
UNIT_BITS = 40


def sorting_sums_sorted(
    positives: Tensor,  # (R,) float32
    quality: Tensor,  # (R,) float32
    begin: Tensor,  # (R,) int32
    end: Tensor,  # (R,) int32
    delta: float,
) -> Tensor:
    """The four rows of `SortingSums`, (4, R) float32."""
    return _sum(SORTING.value, positives, quality, None, begin, end, delta)


def sorting_demotion_sorted(
    spread: Tensor,  # (R,) float32
    positives: Tensor,  # (R,) float32
    quality: Tensor,  # (R,) float32
    begin: Tensor,  # (R,) int32
    end: Tensor,  # (R,) int32
    delta: float,
) -> Tensor:
    """Per positive i the sum of spread_k H(s_i - s_k) over the k of better quality, (R,) float32."""
    return _sum(DEMOTION.value, positives, quality, spread, begin, end, delta)


def weigh_sorted(
    values: Tensor,  # (R,) float32
    positives: Tensor,  # (R,) float32
    begin: Tensor,  # (R,) int32
    end: Tensor,  # (R,) int32
    delta: float,
) -> Tensor:
    """Per positive i the sum of H(s_j - s_i) values_j over all j, with the self pair, (R,) float32."""
    return _sum(WEIGHING.value, positives, None, values, begin, end, delta)


def _sum(
    kind: int,
    positives: Tensor,
    quality: Tensor | None,
    values: Tensor | None,
    begin: Tensor,
    end: Tensor,
    delta: float,
) -> Tensor:
    size, device = len(positives), positives.device

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    sorting, hard = kind == SORTING.value, delta == 0
    out = empty(4, size, dtype=torch.float32) if sorting else empty(size, dtype=torch.float32)
    if size == 0:
        return out
    positives, begin, end = positives.contiguous(), begin.contiguous(), end.contiguous()
    # what is not there for this kind or step is never read: any tensor stands in
    ascending = quality = positives if quality is None else quality.masked_fill(begin == end, 0.0)
    if kind != WEIGHING.value:
        ascending = quality.sort().values
    values = positives if values is None else values.contiguous()
    peak = begin if sorting else torch.zeros_like(begin)
    halves, blocks = 2 if sorting else 1, blocks_of(size, BLOCK)
    scaled = positives if sorting else empty(size, dtype=torch.float64)
    rank, members = empty(size, dtype=torch.int32), empty(2, size, dtype=torch.int32)
    ends, fraction = empty(2 if hard else 4, size, dtype=torch.int32), empty(size, dtype=torch.int64)
    whole_sums = empty(1 + halves, blocks, dtype=torch.int64)
    real_sums = empty(2 * halves, blocks, dtype=torch.float64)
    worse = empty(size + 1, dtype=torch.int32)
    whole = empty(halves if sorting else 0, size + 1, dtype=torch.int64)
    real = empty(2 * halves, size + 1, dtype=torch.float64)
    masses = empty(2 if sorting else 0, size, dtype=torch.int64)
    totals = empty(2 if sorting else 1, size, dtype=torch.float64)

    bits = 0 if hard else min(UNIT_BITS, 62 - size.bit_length())
    # the number of levels depends on R alone: the host must not read a value
    top = 0 if kind == WEIGHING.value else max((size - 1).bit_length() - 1, 0)
    common: dict[str, Any] = {"KIND": kind, "HARD": hard}
    bands: dict[str, Any] = {**common, "BITS": bits, "BLOCK": BAND_BLOCK}
    splitting: dict[str, Any] = {**common, "BLOCK": BLOCK, "SUMS": SUMS}
    asks: dict[str, Any] = {**common, "BITS": bits, "BLOCK": BLOCK}
    tasks = halves + (kind != WEIGHING.value)
    with launch_context(positives):
        bands_kernel[(blocks_of(size, BAND_BLOCK),)](
            positives,
            quality,
            ascending,
            values,
            begin,
            end,
            size,
            0.0 if hard else 1 / (2 * delta),
            members,
            rank,
            fraction,
            ends,
            peak,
            **bands,
        )

        def ask(bit: int, members: Tensor, asking: int, summing: int) -> None:
            ask_kernel[(asking + summing,)](
                members,
                quality,
                ascending,
                values,
                scaled,
                rank,
                fraction,
                begin,
                end,
                peak,
                size,
                bit,
                int(bit == top),
                asking,
                blocks,
                whole_sums,
                real_sums,
                ends,
                worse,
                whole,
                real,
                masses,
                totals,
                out,
                **asks,
            )

        ask(top + 1, members[0], 0, blocks)
        for level, bit in enumerate(range(top, -1, -1)):
            here, following = members[level % 2], members[1 - level % 2]
            split_kernel[(blocks, tasks)](
                here,
                following,
                quality,
                ascending,
                scaled,
                rank,
                fraction,
                size,
                bit,
                blocks,
                whole_sums,
                real_sums,
                worse,
                whole,
                real,
                **splitting,
            )
            ask(bit, following, blocks, blocks if bit else 0)
    return out
