"""The scores of the losses on Triton: from masses to errors and updates, everything of the size of the positives.

    R  positives of all segments      S  segments      k  a positive in sorted order      i  in the caller's order
    FP, TP  masses of false and true positives      rank  FP + TP

One program a segment adds up the errors of its positives in sorted order, so a loss has the same bits every time, alone
or among other segments. `scores.py` is the same in torch operators, and the way for a score of the caller's own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .torch_step import MASS_FLOOR, self_pair
from .triton_masses import masses_of
from .triton_step import INTERPRETED, launch
from .triton_tables import (
    CHARGE,
    NEGATIVE_WEIGHT,
    POSITIVE_WEIGHT,
    PROMOTION,
    SECOND_PROMOTION,
    SIZES,
    Tables,
    order_table,
    poison_table,
    quality_table,
    update_table,
)

FLOOR = tl.constexpr(MASS_FLOOR)
ALRP_FLOOR = tl.constexpr(1e-5)  # published
RANK_UNITS = tl.constexpr(float(1 << 40))  # as `scores.RANK_UNITS`
BLOCK = 256 if INTERPRETED else 1024
WARPS = 16

# What is scored (LOSS). Of a caller's own score: its errors, or a whole update.
RANK_SORT, AVERAGE_PRECISION, ALRP, ERRORS, UPDATE = range(5)
OF_NAME = {"rank_sort": RANK_SORT, "average_precision": AVERAGE_PRECISION, "alrp": ALRP}


class Scored(NamedTuple):
    """What a score reads and writes beside the tables; what a loss has no use for is None."""

    loss: int  # LOSS
    values: list[Tensor]  # () or (S,) float32, written; the second one of aLRP is written by `charge_errors`
    sums: Tensor | None = None  # float32, sorted: sorting sums (4, R) of RANK_SORT, or weighed errors (R,) of ALRP
    errors: Tensor | None = None  # (R,) in the caller's order: localisation errors of ALRP; of ERRORS and UPDATE
    below: Tensor | None = None  # (R,) int64, written: of ALRP, reciprocal ranks up to each positive, in units
    update: Sequence[Tensor | None] = (None, None, None)  # (R,) each: promotion, weights for negatives, for positives


@triton.jit
def lesser(left, right):
    return tl.minimum(left, right)


@triton.jit(do_not_specialize=SIZES)
def score_kernel(
    value_ptr,  # (S,) float32
    second_ptr,  # (S,) float32, of RANK_SORT
    sums_ptr,  # float32, sorted: sorting sums (4, R) of RANK_SORT, or weighed errors (R,) of ALRP
    error_ptr,  # (R,) any float, caller's order: localisation errors of ALRP; errors of ERRORS and UPDATE
    promotion_ptr,  # (R,) any float, caller's order, of UPDATE, as the two below
    negative_ptr,
    positive_ptr,
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    units_ptr,
    along_ptr,
    masses_ptr,  # (2 R + S,) float64, GIVEN
    below_ptr,  # (R,) int64, of ALRP: reciprocal ranks up to each positive, in units
    LOSS: tl.constexpr,
    SPREADS: tl.constexpr,  # of UPDATE: 1 over negatives, 2 over positives, 3 over both
    SELF_PAIR: tl.constexpr,
    MASSES: tl.constexpr,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Values and updates of one segment, and its poison."""
    segment = tl.program_id(0)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    lanes = tl.arange(0, BLOCK)
    total, second_total = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    least, shares_before = tl.full((), 1.0, tl.float64), tl.zeros((), tl.int64)
    _false, _true, nan = masses_of(
        lanes, lanes < 0, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr, along_ptr,
        masses_ptr, MASSES, HARD,
    )  # fmt: skip
    nans = nan.to(tl.int32)
    begin = tl.zeros((), tl.int32)
    while begin < size:
        k = begin + lanes
        inside = k < size
        at = start + k
        i = tl.load(order_table(ints_ptr, segments) + at, mask=inside, other=0)
        false_mass, true_mass, nan = masses_of(
            k, inside, start, segment, size, singles_ptr, ints_ptr, positives_size, segments, units_ptr, along_ptr,
            masses_ptr, MASSES, HARD,
        )  # fmt: skip
        quality = tl.load(quality_table(singles_ptr, positives_size) + at, mask=inside, other=0.0)
        nans += tl.sum((quality != quality).to(tl.int32), 0)
        true_mass = tl.where(inside, true_mass, 1.0)
        floor: tl.constexpr = 1e-5 if LOSS == 2 else 1e-10  # type: ignore
        if LOSS == 0:
            error = false_mass / (true_mass + false_mass)
            reported = error
            better = tl.load(sums_ptr + at, mask=inside, other=1.0).to(tl.float64)
            better = tl.where(better > 0, better, 1.0)  # a NaN quality is not even as good as itself
            missorted = tl.load(sums_ptr + positives_size + at, mask=inside, other=0.0).to(tl.float64)
            deficit = tl.load(sums_ptr + 2 * positives_size + at, mask=inside, other=0.0).to(tl.float64)
            surplus = tl.load(sums_ptr + 3 * positives_size + at, mask=inside, other=0.0).to(tl.float64)
            sorting = (deficit * better + surplus * missorted) / (better * (better + missorted))
            wrong = missorted > FLOOR
            spread = tl.where(wrong, sorting / tl.maximum(missorted, FLOOR), 0.0)
            second_total += tl.sum(tl.where(inside, sorting, 0.0), 0)
            promotion = tl.where(wrong, sorting, 0.0)
            tl.store(update_table(doubles_ptr, positives_size, SECOND_PROMOTION) + at, promotion, mask=inside)
            tl.store(update_table(doubles_ptr, positives_size, POSITIVE_WEIGHT) + at, spread, mask=inside)
        elif LOSS == 1:
            alone = true_mass + (1 - SELF_PAIR)
            error = tl.where(inside, false_mass / (alone + false_mass), 1.0)
            # interpolation: the smallest error so far from the lowest positive upwards
            error = tl.minimum(tl.associative_scan(error, 0, lesser), least)
            least = tl.min(error, 0)
            reported = error
        elif LOSS == 2:
            rank = true_mass + (1 - SELF_PAIR) + false_mass
            reported = false_mass / rank
            own = tl.load(error_ptr + i, mask=inside, other=0.0).to(tl.float64)
            localisation = tl.load(sums_ptr + at, mask=inside, other=0.0).to(tl.float64) - SELF_PAIR * own
            error = (false_mass + localisation) / rank
            shares = tl.where(inside & (rank == rank), RANK_UNITS / rank + 0.5, 0.0).to(tl.int64)
            tl.store(below_ptr + at, shares_before + tl.cumsum(shares, 0), mask=inside)
            shares_before += tl.sum(shares, 0)
        else:
            error = tl.load(error_ptr + i, mask=inside, other=0.0).to(tl.float64)
            reported = error
        total += tl.sum(tl.where(inside, reported, 0.0), 0)
        if LOSS == 4:
            promotion = tl.load(promotion_ptr + i, mask=inside, other=0.0).to(tl.float64)
            weight = tl.zeros((BLOCK,), tl.float64)
            if SPREADS % 2 == 1:
                weight = tl.load(negative_ptr + i, mask=inside, other=0.0).to(tl.float64)
            if SPREADS >= 2:
                spread = tl.load(positive_ptr + i, mask=inside, other=0.0).to(tl.float64)
                tl.store(update_table(doubles_ptr, positives_size, POSITIVE_WEIGHT) + at, spread, mask=inside)
        else:
            # the Identity Update: the error is spread over the negatives above, if there are any
            outranked = false_mass > floor
            promotion = tl.where(outranked, error, 0.0)
            weight = tl.where(outranked, error / tl.maximum(false_mass, floor), 0.0)
        tl.store(update_table(doubles_ptr, positives_size, PROMOTION) + at, promotion, mask=inside)
        tl.store(update_table(doubles_ptr, positives_size, NEGATIVE_WEIGHT) + at, weight, mask=inside)
        begin += BLOCK
    poison = tl.where(nans > 0, float("nan"), 0.0)
    divisor = tl.maximum(size, 1).to(tl.float64)
    tl.store(poison_table(singles_ptr, positives_size, segments) + segment, poison)
    tl.store(value_ptr + segment, (total / divisor).to(tl.float32) + poison)
    if LOSS == 0:
        tl.store(second_ptr + segment, (second_total / divisor).to(tl.float32) + poison)


@triton.jit(do_not_specialize=SIZES)
def charge_kernel(
    value_ptr,  # (S,) float32
    error_ptr,  # (R,) any float, caller's order: localisation errors
    below_ptr,  # (R,) int64
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    BLOCK: tl.constexpr,
):
    """Localisation part of aLRP, see `scores.alrp_charge`: the charges, and the sum of all errors times them."""
    segment = tl.program_id(0)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    positives_ptr, sums_ptr = singles_ptr + start, below_ptr + start
    poison = tl.load(poison_table(singles_ptr, positives_size, segments) + segment).to(tl.float64)
    divisor = tl.maximum(size, 1).to(tl.float64)
    total = tl.zeros((), tl.float64)
    begin = tl.zeros((), tl.int32)
    while begin < size:
        k = begin + tl.arange(0, BLOCK)
        inside = k < size
        logits = tl.load(positives_ptr + k, mask=inside, other=0.0)
        before = run_bound(logits, inside, positives_ptr, size, False)  # type: ignore
        after = run_bound(logits, inside, positives_ptr, size, True)  # type: ignore
        below = tl.load(sums_ptr + before - 1, mask=inside & (before > 0), other=0)
        through = tl.load(sums_ptr + after - 1, mask=inside & (after > 0), other=0)
        own = tl.load(sums_ptr + k, mask=inside, other=0) - tl.load(sums_ptr + k - 1, mask=inside & (k > 0), other=0)
        charge = (below + through + own).to(tl.float64) / (2 * RANK_UNITS * divisor) + poison
        tl.store(update_table(doubles_ptr, positives_size, CHARGE) + start + k, charge, mask=inside)
        i = tl.load(order_table(ints_ptr, segments) + start + k, mask=inside, other=0)
        error = tl.load(error_ptr + i, mask=inside, other=0.0).to(tl.float64)
        total += tl.sum(tl.where(inside, error * charge, 0.0), 0)
        begin += BLOCK
    tl.store(value_ptr + segment, (total + poison).to(tl.float32))


@triton.jit
def run_bound(logits, inside, positives_ptr, size, AFTER: tl.constexpr):
    """How many of the ascending positives are below each logit, or not above it."""
    low = tl.zeros(logits.shape, tl.int32)
    high = tl.where(inside, size, 0)
    while tl.max(high - low, 0) != 0:
        middle = (low + high) >> 1
        searching = low < high
        other = tl.load(positives_ptr + middle, mask=searching, other=0.0)
        before = other < logits
        if AFTER:
            before = before | (other == logits)
        low = tl.where(searching & before, middle + 1, low)
        high = tl.where(searching & ~before, middle, high)
    return low


def score(tables: Tables, scored: Scored, source: int, units: Tensor, along: Tensor, delta: float) -> None:
    """Writes values, updates and poison; `source` is MASSES, and `units` are the masses themselves if GIVEN."""
    unused = tables.singles
    promotion, negative, positive = scored.update

    def given(tensor: Tensor | None) -> Tensor:
        return unused if tensor is None else tensor

    launch(
        score_kernel,
        (tables.segments,),
        scored.values[0],
        scored.values[-1],
        given(scored.sums),
        given(scored.errors),
        given(promotion),
        given(negative),
        given(positive),
        tables.singles,
        tables.doubles,
        tables.ints,
        *tables.sizes,
        units,
        along,
        units,
        given(scored.below),
        LOSS=scored.loss,
        SPREADS=(negative is not None) + 2 * (positive is not None),
        SELF_PAIR=self_pair(delta),
        MASSES=source,
        HARD=delta == 0,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def charge_errors(tables: Tables, value: Tensor, errors: Tensor, below: Tensor) -> None:
    """Writes the charges of the localisation errors (R,) and the value of aLRP's localisation part."""
    launch(
        charge_kernel,
        (tables.segments,),
        value,
        errors,
        below,
        tables.singles,
        tables.doubles,
        tables.ints,
        *tables.sizes,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
