"""A loss on Triton: about a dozen launches forward and backward, whatever the number of levels and segments.

    R  positives of all processes, with padding      P  those of this process      S  segments, the rankings of one call

Forward sorts the positives, passes over the logits, and scores; backward passes over the logits again and places the
gradients of the positives. Everything of the size of the positives stays in the tables between the two
(`triton_tables.py`): nothing is sorted or built twice. The host knows sizes only, and waits for nothing.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from . import triton_breakpoints, triton_pairs, triton_tally, triton_tiled
from .group import Group
from .passes import SortingSums
from .scores import Counts, Loss, Update
from .targets import Ranking
from .torch_step import self_pair
from .triton_kinks_merge import build_kinks, cell_count
from .triton_masses import ALONG_KINKS, FROM_TILES, GIVEN, CallerMasses, write_masses
from .triton_order import sort_positives
from .triton_pieces import pieces_of
from .triton_place import place
from .triton_scans import build_profile, integrate, units_per_logit
from .triton_scores import ERRORS, OF_NAME, UPDATE, Scored, charge_errors, score
from .triton_step import launch_context
from .triton_tables import Tables, new_tables


class Counted(NamedTuple):
    """What the passes over the logits left for the score."""

    tables: Tables
    source: int  # of the masses, see `triton_masses.py`
    units: Tensor  # int64
    along: Tensor  # int64


class Kept(NamedTuple):
    """What forward keeps beside the tensors that autograd saves."""

    positives: int  # R
    cells: int
    own_begin: int  # position of this process's first positive
    processes: int
    sorting: bool  # the second part is a sorting part, with an update of its own
    spreads: bool  # positives push positives down: by the second part, or else by the first
    error_dtype: torch.dtype | None  # the second part is a localisation part, of errors of this dtype


class TablePairs:
    """The passes over pairs of the positives in `tables`, for a score of the caller's own: in the caller's order."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def sorting_sums(self, positives: Tensor, quality: Tensor, delta: float) -> SortingSums:
        del quality
        sums = positives.new_zeros((4, len(positives)))
        sums[0] = self_pair(delta)
        with launch_context(positives):
            triton_pairs.sorting_sums(self.tables, sums, delta, caller=True)
        return SortingSums(*sums)

    def weigh_positives(self, values: Tensor, positives: Tensor, delta: float) -> Tensor:
        weighed = torch.zeros_like(positives)
        with launch_context(positives):
            triton_pairs.weigh(self.tables, values.contiguous(), weighed, delta, caller=True)
        return weighed.double()


class OnTriton:
    """The backend that runs on Triton's kernels, with one of the two algorithms."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm

    def forward(
        self, loss: Loss, ranking: Ranking, delta: float, process_group: ProcessGroup | None, errors: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Kept]:
        group = Group(process_group, len(ranking.index), ranking.index.device)
        with launch_context(ranking.index):
            counted = count(self.algorithm, ranking, group, delta)
            if loss.name is None:
                return self._score_of_caller(loss, ranking, group, counted, delta)
            if process_group is not None:
                counted = self._add_masses(counted, group, delta)
            all_errors = None if errors is None else group.gather(errors.detach()).contiguous()
            values = score_named(loss.name, counted, delta, all_errors, ranking.segments.shape)
        tables = counted.tables
        kept = Kept(
            tables.positives,
            tables.cells,
            group.own.start,
            group.size,
            loss.name == "rank_sort",
            loss.name == "rank_sort",
            None if errors is None else errors.dtype,
        )
        return values, [tables.singles, tables.doubles, tables.ints], kept

    def backward(
        self, ranking: Ranking, saved: list[Tensor], kept: Kept, upstream: list[Tensor | None], delta: float
    ) -> tuple[list[Tensor], Tensor | None]:
        singles, doubles, ints = saved
        tables = Tables(singles, doubles, ints, kept.positives, ranking.segments.number, kept.cells)
        with launch_context(ranking.index):
            return gradients_of(self.algorithm, ranking, tables, kept, upstream, delta)

    def _score_of_caller(
        self, loss: Loss, ranking: Ranking, group: Group, counted: Counted, delta: float
    ) -> tuple[list[Tensor], list[Tensor], Kept]:
        tables = counted.tables
        masses, caller, segment = masses_of(counted, delta)
        if group.process_group is not None:
            dist.all_reduce(masses, group=group.process_group)
        size = tables.positives
        segment = None if ranking.whole else segment
        false_positives, true_positives = masses[:size], masses[size : 2 * size]
        if segment is not None and group.process_group is not None:
            true_positives = torch.where(segment == tables.segments, self_pair(delta), true_positives)
        counts = Counts(
            false_positives, true_positives, caller[0], caller[1], delta, TablePairs(tables), segment, tables.segments
        )
        result = loss.score(counts) if group.total else false_positives
        assert isinstance(result, (Tensor, Update)), "a score of the caller's own"
        value = score_given(result, counted._replace(source=GIVEN, units=masses), delta, ranking.segments.shape)
        spreads = isinstance(result, Update) and result.positive_weight is not None
        kept = Kept(size, tables.cells, group.own.start, group.size, False, spreads, None)
        return [value], [tables.singles, tables.doubles, tables.ints], kept

    def _add_masses(self, counted: Counted, group: Group, delta: float) -> Counted:
        """The counts of all processes."""
        masses = masses_of(counted, delta).masses
        dist.all_reduce(masses, group=group.process_group)
        return counted._replace(source=GIVEN, units=masses)


def count(algorithm: str, ranking: Ranking, group: Group, delta: float, cells: int | None = None) -> Counted:
    """Sorts the positives and passes over the logits; `cells` sets G, on which no result depends."""
    launches = pieces_of(ranking)
    size, segments, device = group.total, ranking.segments.number, ranking.index.device
    if algorithm == "tiled":
        tables = new_tables(size, segments, 0, device)
        units = torch.empty(3 * size + segments, dtype=torch.int64, device=device)
        sort_positives(ranking, launches, group, tables, units, units.numel())
        triton_tiled.count(tables, launches, units, delta)
        return Counted(tables, FROM_TILES, units, units)
    rows = 2 * size + segments
    number = triton_tally.table_count(rows, ranking.size)
    tables = new_tables(size, segments, cells or cell_count(size, segments, delta == 0), device)
    # of the positives, of those among the logits, of the logits; then the tables in which logits are tallied
    tallies = torch.empty((6 + number) * rows, dtype=torch.int64, device=device)
    along = torch.empty(3 * rows, dtype=torch.int64, device=device)
    units = units_per_logit(delta)
    sort_positives(ranking, launches, group, tables, tallies, tallies.numel())
    build_kinks(tables, tallies, delta, units)
    total, packed = tallies[4 * rows : 6 * rows], tallies[6 * rows :]
    triton_tally.tally(tables, launches, total, packed, number, delta, units)
    integrate(tables, tallies, along, delta, units)
    return Counted(tables, ALONG_KINKS, tallies, along)


def masses_of(counted: Counted, delta: float) -> CallerMasses:
    """The masses in the caller's order."""
    return write_masses(counted.tables, counted.source, counted.units, counted.along, delta)


def score_named(
    name: str, counted: Counted, delta: float, errors: Tensor | None, shape: tuple[int, ...]
) -> list[Tensor]:
    """The values of a loss that has a name, its updates written into the tables; `errors` (R,) are those of aLRP."""
    tables = counted.tables
    device = tables.ints.device
    parts = 1 if name == "average_precision" else 2
    values = [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(parts)]
    sums = below = None
    if name == "rank_sort":
        sums = torch.empty(4 * tables.positives, dtype=torch.float32, device=device)
        triton_pairs.sorting_sums(tables, sums, delta)
    if errors is not None:
        sums = torch.empty(tables.positives, dtype=torch.float32, device=device)
        below = torch.empty(tables.positives, dtype=torch.int64, device=device)
        triton_pairs.weigh(tables, errors, sums, delta)
    scored = Scored(OF_NAME[name], values, sums, errors, below)
    score(tables, scored, counted.source, counted.units, counted.along, delta)
    if errors is not None and below is not None:
        charge_errors(tables, values[1], errors, below)
    return values


def score_given(result: Tensor | Update, counted: Counted, delta: float, shape: tuple[int, ...]) -> Tensor:
    """The value of a score of the caller's own: from its errors (R,), or a whole update."""
    value = torch.empty(shape, dtype=torch.float32, device=counted.tables.ints.device)
    if isinstance(result, Tensor):
        scored = Scored(ERRORS, [value], None, result.detach().contiguous())
    else:
        tables = [None if table is None else table.detach().contiguous() for table in result]
        scored = Scored(UPDATE, [value], None, tables[0], None, tables[1:])
    score(counted.tables, scored, counted.source, counted.units, counted.along, delta)
    return value


def gradients_of(
    algorithm: str, ranking: Ranking, tables: Tables, kept: Kept, upstream: list[Tensor | None], delta: float
) -> tuple[list[Tensor], Tensor | None]:
    """The gradient (n,) of each level, and that of the localisation errors (P,)."""
    launches = pieces_of(ranking)
    first, second = (*upstream, None)[:2]
    weight = tables.singles.new_zeros(()) if first is None else first  # without it, negatives get none
    gradients = [torch.empty_like(level) for level in ranking.levels]
    if algorithm == "tiled":
        triton_tiled.scatter(tables, launches, weight, kept.processes, gradients, delta)
    else:
        rows = 2 * tables.positives + tables.segments
        profile = torch.empty(4 * rows, dtype=torch.float32, device=weight.device)
        build_profile(tables, weight, kept.processes, profile, delta)
        triton_breakpoints.scatter(tables, launches, profile, gradients, delta)
    error_gradient = None
    if kept.error_dtype is not None and second is not None:
        error_gradient = torch.empty(len(ranking.index), dtype=kept.error_dtype, device=weight.device)
    pusher = second if kept.sorting else first
    place(
        tables,
        launches,
        gradients,
        ranking.index,
        kept.own_begin,
        kept.processes,
        (first, second),
        error_gradient,
        delta,
        sorts=kept.sorting and second is not None,
        demotes=kept.spreads and pusher is not None,
    )
    return gradients, error_gradient
