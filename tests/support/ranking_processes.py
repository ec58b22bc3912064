"""Rankings spread over processes, and the program that each process runs.

    M  logits of the whole ranking      P  its positives

`run_processes` starts the processes of a gloo group. Each runs `main`: it ranks its part of every case together with
the others, and saves its results in a folder.
"""

import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from rank_sort_cases import INTERPRETED, Ranking, random_ranking
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rst.kernels import SparseTargets, alrp, average_precision, rank_sort, ranking_loss
from rst.kernels.group import Group
from rst.kernels.passes import Masses

DEADLINE = 240  # seconds for all processes to end: importing torch on a busy machine is most of what they take
LEVELS = 3
PROGRAM = "from ranking_processes import main; main()"


@dataclass(frozen=True)
class Case:
    """A ranking, and where its raveled logits are cut into the parts of the processes."""

    ranking: Ranking
    cuts: dict[int, list[float]]  # for each number of processes, as shares of M
    grid: bool = False  # every H is a multiple of 1/8: all sums over logits are exact, in whatever order

    def parts(self, world: int) -> list[slice]:
        """The part of the M logits that each process holds."""
        size = len(self.ranking.logits)
        edges = [0, *(int(cut * size) for cut in self.cuts[world]), size]
        return [slice(begin, end) for begin, end in itertools.pairwise(edges)]


UNEVEN = {2: [0.83], 4: [0.1, 0.37, 0.8]}
ONE_EMPTY = {2: [0.0], 4: [0.4, 0.4, 0.7]}
LAST_QUARTER = {2: [0.75], 4: [0.2, 0.5, 0.75]}


def _cases() -> dict[str, Case]:
    early = random_ranking(50, 800, 40)
    early = replace(early, targets=early.targets.masked_fill((early.targets > 0) & (torch.arange(800) >= 600), 0))
    grid = random_ranking(51, 700, 60, ties=0.125)
    none = random_ranking(52, 300, 0)
    infinite = random_ranking(53, 500, 30)
    infinite.logits[(infinite.targets > 0).nonzero()[[0, -1], 0]] = torch.tensor([torch.inf, -torch.inf])
    infinite.logits[(infinite.targets == 0).nonzero()[[3, -3], 0]] = torch.tensor([torch.inf, -torch.inf])
    every = {
        "uneven": Case(random_ranking(54, 901, 70), UNEVEN),
        "one without logits": Case(random_ranking(55, 500, 30), ONE_EMPTY),
        "one without positives": Case(early, LAST_QUARTER),
        "three positives": Case(random_ranking(56, 400, 3), UNEVEN),
        "one positive": Case(random_ranking(57, 400, 1), UNEVEN),
        "ties": Case(grid, UNEVEN, grid=True),
        "ties, one without logits": Case(grid, ONE_EMPTY, grid=True),
        "ties, hard step": Case(replace(grid, delta=0.0), UNEVEN, grid=True),
        "infinite logits": Case(infinite, UNEVEN),
        "hard step": Case(random_ranking(58, 500, 40, 0.0), UNEVEN),
        "float64": Case(random_ranking(59, 500, 40).to(torch.float64), UNEVEN),
        "bfloat16": Case(random_ranking(60, 500, 40).to(torch.bfloat16), UNEVEN),
        "no positives": Case(none, UNEVEN),
        "all positive": Case(random_ranking(61, 90, 90), UNEVEN),
        "NaN in one process": Case(_with_nan(random_ranking(62, 500, 30), 0), UNEVEN),
        "NaN, no positives": Case(_with_nan(none, 0), UNEVEN),
        "NaN where it is ignored": Case(_with_nan(random_ranking(63, 500, 30), -1), UNEVEN),
        "NaN for a quality": Case(_with_nan_quality(random_ranking(64, 500, 30)), UNEVEN),
    }
    if INTERPRETED:
        small = random_ranking(66, 90, 7)
        every = {"one without logits": Case(small, ONE_EMPTY), "uneven": Case(replace(small, delta=0.0), UNEVEN)}
    return every


def _with_nan(ranking: Ranking, label: float) -> Ranking:
    logits = ranking.logits.clone()
    logits[(ranking.targets == label).nonzero()[-1]] = torch.nan
    return replace(ranking, logits=logits)


def _with_nan_quality(ranking: Ranking) -> Ranking:
    targets = ranking.targets.clone()
    targets[(targets > 0).nonzero()[0]] = torch.nan
    return replace(ranking, targets=targets)


CASES = _cases()
# interpreted, every kernel takes seconds: there the two losses that call all of the passes are enough
LOSSES = ("rank_sort", "alrp") if INTERPRETED else ("rank_sort", "average_precision", "alrp", "ranking_loss")
REFUSING = ("rank_sort", "average_precision", "alrp")  # a group, where the equations are dense


def _asked() -> list[tuple[str, str, str]]:
    """(case, loss, form of the targets): half of the cases in either form, some in both."""
    forms = {name: ("sparse",) if number % 2 or INTERPRETED else ("dense",) for number, name in enumerate(CASES)}
    if not INTERPRETED:
        forms |= {name: ("dense", "sparse") for name, case in CASES.items() if case.grid or name == "uneven"}
    return [(name, loss, form) for name in CASES for loss in LOSSES for form in forms[name]]


ASKED = _asked()


@dataclass(frozen=True)
class Outcome:
    """The results of one loss in one process."""

    values: list[float]
    gradient: Tensor  # of its raveled logits
    error_gradient: Tensor  # of the localisation errors, one for every logit, 0 where there is no positive


def outcome(loss: str, form: str, ranking: Ranking, part: slice, group=None, **named: str) -> Outcome:
    """The loss of this process's `part` of a ranking, in levels, ranked together with the rest of the `group`."""
    logits = ranking.logits[part].clone().requires_grad_()
    targets = ranking.targets[part]
    errors = torch.rand(len(ranking.logits), generator=torch.Generator().manual_seed(1))[part].requires_grad_()
    levels = logits.tensor_split(LEVELS)
    places = torch.logical_not(targets <= 0).nonzero().squeeze(1)
    what: SparseTargets | list[Tensor] = list(targets.tensor_split(LEVELS))
    if form == "sparse":
        places = places.flip(0)
        what = SparseTargets(places, targets[places], list((targets < 0).tensor_split(LEVELS)))
    more = {"delta": ranking.delta, "group": group, **named}
    if loss == "rank_sort":
        values = list(rank_sort(levels, what, **more))
    elif loss == "average_precision":
        values = [average_precision(levels, what, **more)]
    elif loss == "alrp":
        values = list(alrp(levels, what, errors[places], **more))
    else:
        values = [ranking_loss(squared_precision_error, levels, what, **more)]
    sum(weight * value for weight, value in zip((1, 3), values, strict=False)).backward()
    assert logits.grad is not None
    error_gradient = torch.zeros_like(errors) if errors.grad is None else errors.grad
    return Outcome([value.item() for value in values], logits.grad, error_gradient)


def halves(part: slice) -> list[slice]:
    """The two segments that a process's part is cut into."""
    middle = (part.start + part.stop) // 2
    return [slice(part.start, middle), slice(middle, part.stop)]


def segmented_outcome(ranking: Ranking, part: slice, group=None, **named: str) -> tuple[Tensor, Tensor]:
    """Rank & Sort of both halves of a process's `part` in one call, with padding: values (2, 2), gradient."""
    logits = ranking.logits[part].clone().requires_grad_()
    targets = ranking.targets[part]
    places = (targets > 0).nonzero().squeeze(1).flip(0)
    what = SparseTargets(places, targets[places], targets < 0).padded(len(places) + 3)
    lengths = [half.stop - half.start for half in halves(part)]
    loss = rank_sort(logits, what, delta=ranking.delta, group=group, segments=lengths, **named)
    (loss.ranking.sum() + 3 * loss.sorting.sum()).backward()
    assert logits.grad is not None
    return torch.stack(list(loss)).detach(), logits.grad


def squared_precision_error(counts) -> Tensor:
    """A score that reads every field of `Counts`."""
    error = counts.false_positives / (counts.true_positives + counts.false_positives)
    return error.square() * (1 + counts.quality) + 1e-3 * counts.weigh(counts.quality)


def network() -> nn.Module:
    """The same tiny model in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def one_step(model: nn.Module, part: slice, group=None) -> Tensor:
    """Every parameter after one step on the `part` of a batch of 300 examples."""
    generator = torch.Generator().manual_seed(2)
    features, targets = torch.randn(300, 4, generator=generator), random_ranking(65, 300, 25).targets
    loss = rank_sort(model(features[part])[:, 0], targets[part], group=group)
    (loss.ranking + 2 * loss.sorting).backward()
    return torch.cat([(parameter - 0.5 * parameter.grad).detach().flatten() for parameter in model.parameters()])


BATCH = {2: [slice(0, 210), slice(210, 300)], 4: [slice(0, 80), slice(80, 81), slice(81, 200), slice(200, 300)]}
SUBGROUP = {2: [1], 4: [1, 3]}


class HostReads(TorchFunctionMode):
    """Keeps the names of the functions by which Python reads a tensor's values."""

    NAMES = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "nonzero", "numpy", "cpu")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def reads_of_a_group(group) -> list[str]:
    """The reads of values that a `Group` needs for its construction, for gathering and for adding."""
    with HostReads() as reads:
        processes = Group(group, 2, torch.device("cpu"))
        positives = processes.gather(torch.ones(2)).double()
        processes.add(Masses(positives, positives, torch.zeros(1, dtype=torch.float64)))
    return reads.seen


def refusal(loss: str, **more) -> str:
    """The message of the ValueError that these arguments raise."""
    try:
        outcome(loss, "dense", CASES["ties"].ranking, slice(None), **more)
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def run(rank: int, world: int, backends: list[dict[str, str]]) -> dict:
    """All results of this process, in an initialised group."""
    world_group = dist.group.WORLD
    got: dict = {}
    for name, loss, form in ASKED:
        part = CASES[name].parts(world)[rank]
        for number, backend in enumerate(backends):
            got[name, loss, form, number] = outcome(loss, form, CASES[name].ranking, part, world_group, **backend)
    part = CASES["uneven"].parts(world)[rank]
    for number, backend in enumerate(backends):
        got["segments", number] = segmented_outcome(CASES["uneven"].ranking, part, world_group, **backend)
    if INTERPRETED:
        return got
    case = CASES["ties"]
    part = case.parts(world)[rank]
    subgroup = dist.new_group(SUBGROUP[world])
    if rank in SUBGROUP[world]:
        got["subgroup"] = outcome("rank_sort", "dense", case.ranking, part, subgroup)
    got["not a member"] = None if rank in SUBGROUP[world] else refusal("rank_sort", group=subgroup)
    alone = [dist.new_group([other]) for other in range(world)][rank]
    for loss in LOSSES:
        got["a group of one", loss] = outcome(loss, "dense", case.ranking, part, alone)
        got["no group", loss] = outcome(loss, "dense", case.ranking, part)
    for loss in REFUSING:
        got["reference", loss] = refusal(loss, group=world_group, backend="reference")
    got["reads"] = reads_of_a_group(world_group)
    model = nn.parallel.DistributedDataParallel(network())
    got["step"] = one_step(model, BATCH[world][rank], world_group)
    return got


def run_processes(world: int, folder: Path) -> list[dict]:
    """The results of `run` in each of `world` processes, which all end with this call."""
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    if sys.platform != "linux":
        del environment["GLOO_SOCKET_IFNAME"]
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    logs = [folder / f"{rank}.log" for rank in range(world)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-c", PROGRAM, str(rank), str(world), str(folder)]
            with log.open("w") as output:
                processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        until = time.monotonic() + DEADLINE
        while any(process.poll() is None for process in processes):
            failed = [rank for rank, process in enumerate(processes) if process.poll()]
            if failed or time.monotonic() > until:
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if codes != [0] * world:
        raise RuntimeError(f"exit codes {codes}:\n" + "\n".join(log.read_text()[-3000:] for log in logs))
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    backends = [{"backend": "torch"}]
    if INTERPRETED:
        backends = [{"backend": "triton", "algorithm": algorithm} for algorithm in ("tiled", "breakpoints")]
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=DEADLINE)
    )
    torch.save(run(rank, world, backends), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
