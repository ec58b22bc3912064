"""The masses of the positives on Triton, from what the pass over the logits left behind.

R  positives of all segments      S  segments      k  a positive in sorted order      i  in the caller's order
FP, TP  masses of false and true positives, `passes.Masses`
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .torch_step import self_pair
from .triton_step import INTERPRETED, blocks_of, launch
from .triton_tables import SIZES, Tables, first_row, order_table, place_table, row_count

H_UNITS = tl.constexpr(1073741824.0)  # of the masses that tiles add up
BLOCK = 4096 if INTERPRETED else 256


class CallerMasses(NamedTuple):
    """Masses for a score of the caller's own, or to be added over processes."""

    masses: Tensor  # (2 R + S,) float64: FP and TP, poison
    caller: Tensor  # (2, R) float32: logits and qualities
    segment: Tensor  # (R,) int64, S for padding


# Where masses come from (MASSES): sums along the kinks, tiles, or given in the caller's order.
ALONG_KINKS, FROM_TILES, GIVEN = 0, 1, 2


@triton.jit
def band_masses(
    k,  # (BLOCK,) sorted positions in the segment
    inside,
    start,
    segment,
    size,
    singles_ptr,
    ints_ptr,
    positives_size,
    segments,
    tallies_ptr,
    along_ptr,
    HARD: tl.constexpr,
):
    """(false positives, true positives) of positives in float64, NaN where a logit of the segment is NaN.

    A mass is the integral of C over the band, divided by the width of the band in units, which includes its rounding.
    """
    rows = row_count(positives_size, segments)
    row = first_row(start, segment, HARD)
    own_ptr = tallies_ptr + row * 2
    nan = (tl.load(own_ptr) > 0) | (tl.load(own_ptr + 4 * rows) > 0)
    place_ptr = place_table(ints_ptr, positives_size, segments) + start
    lower = tl.load(place_ptr + k, mask=inside, other=0)
    upper = tl.load(place_ptr + positives_size + k, mask=inside, other=0)
    along_ptr += row
    last = size * (1 if HARD else 2)
    negatives, positives = tl.load(along_ptr + rows + last), tl.load(along_ptr + 2 * rows + last)
    false_positives = tl.load(along_ptr + rows + lower, mask=inside, other=0)
    true_positives = tl.load(along_ptr + 2 * rows + lower, mask=inside, other=0)
    if HARD:
        false_mass = (negatives - false_positives).to(tl.float64)
        true_mass = (positives - true_positives).to(tl.float64)
    else:
        band = tl.load(along_ptr + upper, mask=inside, other=1) - tl.load(along_ptr + lower, mask=inside, other=0)
        width = tl.maximum(band, 1).to(tl.float64)
        area = tl.load(along_ptr + rows + upper, mask=inside, other=0) - false_positives
        false_mass = (negatives * band - area).to(tl.float64) / width
        area = tl.load(along_ptr + 2 * rows + upper, mask=inside, other=0) - true_positives
        true_mass = (positives * band - area).to(tl.float64) / width
    # a positive of another process is in no tally of this one; its NaN is last
    largest = tl.load(singles_ptr + start + size - 1, mask=size > 0, other=0.0)
    nan = nan | (largest != largest)
    return tl.where(nan, float("nan"), false_mass), tl.where(nan, float("nan"), true_mass), nan


@triton.jit
def tile_masses(k, inside, start, segment, size, singles_ptr, positives_size, units_ptr):
    """The same from masses in units of H, (3, R): over all logits, over the positives, over those among the logits."""
    every = tl.load(units_ptr + start + k, mask=inside, other=0)
    among = tl.load(units_ptr + positives_size + start + k, mask=inside, other=0)
    counted = tl.load(units_ptr + 2 * positives_size + start + k, mask=inside, other=0)
    largest = tl.load(singles_ptr + start + size - 1, mask=size > 0, other=0.0)
    nan = (tl.load(units_ptr + 3 * positives_size + segment) > 0) | (largest != largest)
    false_mass, true_mass = (every - counted).to(tl.float64) / H_UNITS, among.to(tl.float64) / H_UNITS
    return tl.where(nan, float("nan"), false_mass), tl.where(nan, float("nan"), true_mass), nan


@triton.jit
def masses_of(
    k, inside, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr, along_ptr, given_ptr,
    MASSES: tl.constexpr, HARD: tl.constexpr,
):  # fmt: skip
    """(FP, TP, nan) of the positives k of a segment, wherever they come from; `nan` is a scalar."""
    if MASSES == 0:
        false_mass, true_mass, nan = band_masses(
            k, inside, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr, along_ptr, HARD
        )
    elif MASSES == 1:
        false_mass, true_mass, nan = tile_masses(
            k, inside, start, segment, size, singles_ptr, positives_size, units_ptr
        )
    else:
        i = tl.load(order_table(ints_ptr, segments) + start + k, mask=inside, other=0)
        false_mass = tl.load(given_ptr + i, mask=inside, other=0.0)
        true_mass = tl.load(given_ptr + positives_size + i, mask=inside, other=0.0)
        poison = tl.load(given_ptr + 2 * positives_size + segment)
        nan = poison != poison
    return false_mass, true_mass, nan


@triton.jit(do_not_specialize=SIZES)
def masses_kernel(
    singles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    units_ptr,
    along_ptr,
    masses_ptr,  # (2 R + S,) float64: FP and TP in the caller's order, poison
    caller_ptr,  # (2, R) float32: positives and qualities in the caller's order
    segments_ptr,  # (R,) int64: segments in the caller's order, S for padding
    SELF_PAIR: tl.constexpr,
    MASSES: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Masses for a score of the caller's own, or to be added over processes. Padding has only itself above it."""
    segment = tl.program_id(1)
    padding = segment == segments
    start = tl.load(ints_ptr + segment)
    stop = tl.load(ints_ptr + segment + 1, mask=~padding, other=positives_size)
    size = stop - start
    begin = tl.program_id(0) * BLOCK
    if (begin == 0) & ~padding:
        lanes = tl.arange(0, BLOCK)
        _false, _true, found_nan = masses_of(
            lanes, lanes < 0, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr,
            along_ptr, masses_ptr, MASSES, HARD,
        )  # fmt: skip
        tl.store(masses_ptr + 2 * positives_size + segment, tl.where(found_nan, float("nan"), 0.0).to(tl.float64))
    while begin < size:
        k = begin + tl.arange(0, BLOCK)
        inside = k < size
        i = tl.load(order_table(ints_ptr, segments) + start + k, mask=inside, other=0)
        false_mass, true_mass = tl.zeros((BLOCK,), tl.float64), tl.full((BLOCK,), SELF_PAIR, tl.float64)
        if not padding:
            false_mass, true_mass, _nan = masses_of(
                k, inside, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr,
                along_ptr, masses_ptr, MASSES, HARD,
            )  # fmt: skip
        tl.store(masses_ptr + i, false_mass, mask=inside)
        tl.store(masses_ptr + positives_size + i, true_mass, mask=inside)
        for table in tl.static_range(2):  # type: ignore - positives, qualities
            values = tl.load(singles_ptr + table * positives_size + start + k, mask=inside, other=0.0)
            tl.store(caller_ptr + table * positives_size + i, values, mask=inside)
        tl.store(segments_ptr + i, tl.zeros((BLOCK,), tl.int64) + segment, mask=inside)
        begin += tl.num_programs(0) * BLOCK


def write_masses(tables: Tables, source: int, units: Tensor, along: Tensor, delta: float) -> CallerMasses:
    """The masses in the caller's order; `source` is MASSES."""
    size, segments = tables.positives, tables.segments
    device = tables.ints.device
    found = CallerMasses(
        torch.empty(2 * size + segments, dtype=torch.float64, device=device),
        torch.empty((2, size), dtype=torch.float32, device=device),
        torch.empty(size, dtype=torch.int64, device=device),
    )
    launch(
        masses_kernel,
        (blocks_of(tables.longest, BLOCK), segments + 1),
        tables.singles,
        tables.ints,
        size,
        segments,
        units,
        along,
        *found,
        SELF_PAIR=self_pair(delta),
        MASSES=source,
        HARD=delta == 0,
        BLOCK=BLOCK,
    )
    return found
