"""From sorted positives to their sorted kinks (Triton), in one kernel for all segments.

    R  positives of all segments, ascending in each      S  segments, the rankings of one call
    K  kinks of a segment: 2 for each positive, or 1 for a hard step      G  cells of the grid of a segment
    s_i  logit of positive i      d  delta      b_0 <= ... <= b_{K-1}  kinks: s_i - d and s_i + d, in float64
    t_k  threshold: the least float32 that is not below b_k

The lower kinks of a segment are ascending, as the positives are, and so are the upper ones. A kink's position in the
merged list is its own index plus the number of smaller kinks in the other list. Nothing makes the host wait: it knows
R and S; how many positives a segment has, only the device knows.

The same kernel tallies the positives, as the pass over the logits will: what they add there is subtracted later.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_kinks import WIDEST, cell_of, offset_units
from .triton_step import INTERPRETED, LARGEST, blocks_of, launch, replace_infinities
from .triton_tables import (
    COUNTED,
    OWN,
    SIZES,
    Tables,
    bounds_table,
    cells_table,
    first_row,
    flags_table,
    owner_table,
    place_table,
    row_count,
    threshold_table,
)

# With eight cells for a kink most cells have none, and one look-up ends most searches. 2^15 cells of 4 bytes stay in
# the first-level cache of a big GPU, beside the thresholds of a few thousand positives.
CELLS_PER_KINK = 8
LEAST_CELLS, MOST_CELLS = 1 << 8, 1 << 15
# Kinks closer together than this share one cell: their float32 scale would overflow.
LEAST_SPAN = tl.constexpr(1e-30)
# Numbers near 1 that differ by less may be the same float64.
FLOAT64_STEP = tl.constexpr(2.0**-52)
# One element a thread and one warp a program: each element is a chain of dependent loads, so they are spread
# over the GPU and wait for no other warp. The interpreter pays per operation instead, whatever the tile.
BLOCK = 4096 if INTERPRETED else 32
WARPS = 1

# The rule by which a kink, or a positive, comes before a bound.
BELOW = tl.constexpr(0)
AT_OR_BELOW = tl.constexpr(1)
IN_EARLIER_CELLS = tl.constexpr(2)


@triton.jit
def round_up(position):
    """The least float32 that is not below a float64 of moderate size."""
    nearest = position.to(tl.float32)
    bits = nearest.to(tl.int32, bitcast=True)
    above = tl.where(nearest > 0, bits + 1, tl.where(nearest < 0, bits - 1, 1)).to(tl.float32, bitcast=True)
    return tl.where(nearest.to(tl.float64) < position, above, nearest)


@triton.jit
def load_kinks(positives_ptr, places, inside, delta, minus, plus, SIDE: tl.constexpr):
    """s_i + SIDE delta in float64; a NaN becomes an infinity, so the caller must find it in another way.

    Where a positive is so large that float64 would lose delta, its kinks are the nearest numbers that differ from it.
    """
    logits = tl.load(positives_ptr + places, mask=inside, other=0.0)
    logits = tl.where(logits < LARGEST, tl.where(logits <= -LARGEST, minus, logits), plus).to(tl.float64)
    return logits + SIDE * tl.maximum(tl.abs(logits) * FLOAT64_STEP, delta)


@triton.jit
def kinks_before(
    bound,  # (BLOCK,) float64, or int32 IN_EARLIER_CELLS
    positives_ptr,
    positives_size,
    delta,
    minus,
    plus,
    first,
    last,
    scale,
    SIDE: tl.constexpr,
    RULE: tl.constexpr,
    CELLS: tl.constexpr,
):
    """How many of the kinks s_i + SIDE delta, ascending, come before each bound, by bisection."""
    low = tl.zeros(bound.shape, tl.int32)
    high = low + positives_size
    while tl.max(high - low, 0) != 0:
        middle = (low + high) >> 1
        searching = low < high
        kinks = load_kinks(positives_ptr, middle, searching, delta, minus, plus, SIDE)
        if RULE == 0:
            before = kinks < bound
        elif RULE == 1:
            before = kinks <= bound
        else:
            before = cell_of(tl.maximum(round_up(kinks), first), first, last, scale, CELLS) < bound
        low = tl.where(searching & before, middle + 1, low)
        high = tl.where(searching & ~before, middle, high)
    return low


@triton.jit
def positives_before(bound, positives_ptr, positives_size, RULE: tl.constexpr):
    """How many positives come before `bound`, a scalar, by bisection; NaN are last."""
    low = tl.zeros((), tl.int32)
    high = low + positives_size
    # the usual answers, none at minus infinity and all below infinity, need no search
    if RULE == 1:
        high = tl.where(tl.load(positives_ptr) <= bound, high, low)
    else:
        low = tl.where(tl.load(positives_ptr + positives_size - 1) < bound, high, low)
    while low < high:
        middle = (low + high) >> 1
        positive = tl.load(positives_ptr + middle)
        before = (positive < bound) | ((positive == bound) & (RULE == 1))
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def last_kink_before(positives_ptr, before, delta, minus, plus, SIDE: tl.constexpr):
    """The last of the first `before` kinks s_i + SIDE delta; -infinity if there is none."""
    kinks = load_kinks(positives_ptr, before - 1, before > 0, delta, minus, plus, SIDE)
    return tl.where(before > 0, kinks, float("-inf"))


@triton.jit
def add_to_tally(table_ptr, interval, offset, wanted, HARD: tl.constexpr):
    """Adds one logit to the count of its interval, and its offset."""
    tl.atomic_add(table_ptr + interval * 2, tl.full(interval.shape, 1, tl.int64), mask=wanted, sem="relaxed")
    if not HARD:
        tl.atomic_add(table_ptr + interval * 2 + 1, offset, mask=wanted & (interval > 0), sem="relaxed")


@triton.jit(do_not_specialize=["room", "widest", "units", *SIZES])
def kinks_kernel(
    delta: tl.float64,  # type: ignore  # 0 for a hard step; without a type it would be passed in float32
    room,  # max(2 delta, 1)
    widest,  # 2^30 units, in logits
    units,  # units per logit
    singles_ptr,
    doubles_ptr,
    ints_ptr,
    positives_size,  # R
    segments,  # S
    tallies_ptr,  # (2, rows, 2) int64, added to: of the positives, and of those that the logits hold
    HARD: tl.constexpr,
    CELLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program writes blocks of the kinks and of the grid of one segment; each computes its search bounds."""
    segment = tl.program_id(1)
    start, stop = tl.load(ints_ptr + segment), tl.load(ints_ptr + segment + 1)
    size = stop - start
    # the tables of this segment
    positives_ptr = singles_ptr + start
    kink = start * (1 if HARD else 2)
    position_ptr = doubles_ptr + kink
    threshold_ptr = threshold_table(singles_ptr, positives_size) + kink
    owner_ptr = owner_table(ints_ptr, positives_size, segments) + kink
    lower_ptr = place_table(ints_ptr, positives_size, segments) + start
    flags_ptr = flags_table(ints_ptr, positives_size, segments) + start
    cells_ptr = cells_table(ints_ptr, positives_size, segments) + segment * (CELLS + 2)
    bounds_ptr = bounds_table(singles_ptr, positives_size) + segment * 8
    row = first_row(start, segment, HARD)
    own_ptr = tallies_ptr + row * 2
    counted_ptr = own_ptr + 2 * row_count(positives_size, segments)

    smallest, largest = tl.zeros((), tl.int32), tl.zeros((), tl.int32) - 1
    first, last = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    if size > 0:
        smallest = positives_before(-LARGEST, positives_ptr, size, AT_OR_BELOW)
        largest = positives_before(LARGEST, positives_ptr, size, BELOW) - 1
    some = smallest <= largest
    low = tl.load(positives_ptr + smallest, mask=some, other=0.0)
    high = tl.load(positives_ptr + largest, mask=some, other=0.0)
    # relative as well as absolute: the room must survive the rounding of large logits
    room = (tl.abs(low) + tl.abs(high)) * 1e-3 + room
    lowest, highest, minus, plus = low - room, high + room, low - 3 * room, high + 3 * room
    LOWER: tl.constexpr = 0 if HARD else -1  # type: ignore
    UPPER: tl.constexpr = 0 if HARD else 1  # type: ignore
    if size > 0:
        first = round_up(load_kinks(positives_ptr, 0, True, delta, minus, plus, LOWER))
        last = round_up(load_kinks(positives_ptr, size - 1, True, delta, minus, plus, UPPER))
    span = last - first
    scale = tl.where(span > LEAST_SPAN, CELLS / tl.where(span > LEAST_SPAN, span, 1.0), 0.0)

    begin = tl.program_id(0) * BLOCK
    while (begin < size) | (begin < CELLS + 2):
        index = begin + tl.arange(0, BLOCK)
        inside = index < size
        lower = load_kinks(positives_ptr, index, inside, delta, minus, plus, LOWER)
        upper = load_kinks(positives_ptr, index, inside, delta, minus, plus, UPPER)
        lower_place, upper_place = index, index
        cells = kinks_before(
            index, positives_ptr, size, delta, minus, plus, first, last, scale, LOWER, IN_EARLIER_CELLS, CELLS
        )
        # the interval of the positive itself, as if it were any logit
        logits = tl.load(positives_ptr + index, mask=inside, other=0.0)
        is_nan = logits != logits
        moved = replace_infinities(logits, lowest, highest, minus, plus)
        exact = moved.to(tl.float64)
        reached = kinks_before(
            exact, positives_ptr, size, delta, minus, plus, first, last, scale, LOWER, AT_OR_BELOW, CELLS
        )
        interval = reached
        beginning = last_kink_before(positives_ptr, reached, delta, minus, plus, LOWER)
        if not HARD:
            # where kinks are equal, the lower ones come first
            lower_place += kinks_before(
                lower, positives_ptr, size, delta, minus, plus, first, last, scale, UPPER, BELOW, CELLS
            )
            upper_place += kinks_before(
                upper, positives_ptr, size, delta, minus, plus, first, last, scale, LOWER, AT_OR_BELOW, CELLS
            )
            cells += kinks_before(
                index, positives_ptr, size, delta, minus, plus, first, last, scale, UPPER, IN_EARLIER_CELLS, CELLS
            )
            reached = kinks_before(
                exact, positives_ptr, size, delta, minus, plus, first, last, scale, UPPER, AT_OR_BELOW, CELLS
            )
            interval += reached
            ending = last_kink_before(positives_ptr, reached, delta, minus, plus, UPPER)
            beginning = tl.maximum(beginning, ending)
            tl.store(position_ptr + upper_place, upper, mask=inside)
            tl.store(threshold_ptr + upper_place, round_up(upper), mask=inside)
            tl.store(owner_ptr + upper_place, -1 - index, mask=inside)
        tl.store(position_ptr + lower_place, lower, mask=inside)
        tl.store(threshold_ptr + lower_place, round_up(lower), mask=inside)
        tl.store(owner_ptr + lower_place, index, mask=inside)
        tl.store(lower_ptr + index, lower_place, mask=inside)
        tl.store(lower_ptr + positives_size + index, upper_place, mask=inside)
        tl.store(cells_ptr + index, cells, mask=index < CELLS + 2)

        # a NaN is counted in interval 0
        interval = tl.where(is_nan, 0, interval)
        flags = tl.load(flags_ptr + index, mask=inside, other=0)
        offset = offset_units(tl.where(interval > 0, moved - round_up(beginning), 0.0), widest, units)
        wanted = inside & (is_nan | (interval > 0))
        add_to_tally(own_ptr, interval, offset, wanted & ((flags & OWN) != 0), HARD)
        add_to_tally(counted_ptr, interval, offset, wanted & ((flags & COUNTED) != 0), HARD)
        begin += tl.num_programs(0) * BLOCK
    if tl.program_id(0) == 0:
        # for a positive at minus infinity no logit is too low; without a positive every logit is
        floor = tl.where(smallest > 0, float("-inf"), tl.where(size > 0, first, float("inf")))
        tl.store(bounds_ptr, floor)
        tl.store(bounds_ptr + 1, first)
        tl.store(bounds_ptr + 2, last)
        tl.store(bounds_ptr + 3, scale)
        tl.store(bounds_ptr + 4, lowest)
        tl.store(bounds_ptr + 5, highest)
        tl.store(bounds_ptr + 6, minus)
        tl.store(bounds_ptr + 7, plus)


def cell_count(positives: int, segments: int, hard: bool) -> int:
    """G for R positives in S segments of about the same size; no result depends on it."""
    kinks = blocks_of(positives, segments) * (1 if hard else 2)
    return min(max(1 << max(CELLS_PER_KINK * kinks - 1, 0).bit_length(), LEAST_CELLS), MOST_CELLS)


def build_kinks(tables: Tables, tallies: Tensor, delta: float, units: float) -> None:
    """Writes the kinks of the sorted positives into `tables`, and adds the positives to `tallies` (2, rows, 2)."""
    programs = blocks_of(max(tables.longest, tables.cells + 2), BLOCK)
    launch(
        kinks_kernel,
        (programs, tables.segments),
        float(delta),
        max(2.0 * delta, 1.0),
        WIDEST.value / units,
        units,
        tables.singles,
        tables.doubles,
        tables.ints,
        *tables.sizes,
        tallies,
        HARD=delta == 0,
        CELLS=tables.cells,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
