"""One ranking over several processes: the values and gradients of one process that holds all logits.

Each number of processes is started once, for all cases; see `ranking_processes`.
"""

import functools
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from rank_sort_cases import INTERPRETED
from ranking_processes import (
    ASKED,
    BATCH,
    CASES,
    LOSSES,
    REFUSING,
    SUBGROUP,
    HostReads,
    Outcome,
    halves,
    network,
    one_step,
    outcome,
    run_processes,
)

from rst.kernels import alrp, average_precision, rank_sort, ranking_loss

WORLDS = (2,) if INTERPRETED else (2, 4)
BACKENDS = ["triton tiled", "triton breakpoints"] if INTERPRETED else ["torch"]
OF_TORCH = pytest.mark.skipif(INTERPRETED, reason="asked of the torch backend, in another process")
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")


@pytest.fixture(scope="module", params=WORLDS, ids="{} processes".format)
def processes(request, tmp_path_factory) -> list[dict]:
    """The results of each process of a group, for all tests below."""
    return run_processes(request.param, tmp_path_factory.mktemp("processes"))


@functools.cache
def expected(name: str, loss: str, form: str) -> Outcome:
    """The result of one process that holds all logits, by the torch backend."""
    return outcome(loss, form, CASES[name].ranking, slice(None), backend="torch")


def assert_close(got: torch.Tensor, truth: torch.Tensor, relative: float) -> None:
    """Relative in the L1 norm, and NaN in the same places."""
    assert got.dtype == truth.dtype
    assert torch.equal(got.isnan(), truth.isnan())
    got, truth = got.nan_to_num().double(), truth.nan_to_num().double()
    assert (got - truth).abs().sum() <= relative * truth.abs().sum()


@pytest.mark.parametrize("backend", range(len(BACKENDS)), ids=BACKENDS)
@pytest.mark.parametrize(("name", "loss", "form"), ASKED)
def test_equals_one_process_that_holds_all_logits(processes, name, loss, form, backend):
    parts: list[Outcome] = [got[name, loss, form, backend] for got in processes]
    truth, world = expected(name, loss, form), len(processes)
    precise = torch.finfo(truth.gradient.dtype).eps == torch.finfo(torch.float64).eps
    for part in parts:
        assert part.values == pytest.approx(parts[0].values, rel=0, abs=0, nan_ok=True)
        assert part.values == pytest.approx(truth.values, abs=1e-14 if precise else 1e-6, nan_ok=True)
    # averaged, as in data-parallel training; the groups' sizes are powers of two, so the division is exact
    gradient = torch.cat([part.gradient for part in parts]) / world
    error_gradient = torch.cat([part.error_gradient for part in parts]) / world
    assert_close(gradient, truth.gradient, 1e-13 if precise else 1e-6)
    assert_close(error_gradient, truth.error_gradient, 1e-6)


@pytest.mark.parametrize("backend", range(len(BACKENDS)), ids=BACKENDS)
def test_segments_of_a_group(processes, backend):
    """Each segment is ranked over all processes, as if one process had its logits and no padding."""
    case, world = CASES["uneven"], len(processes)
    parts = [halves(part) for part in case.parts(world)]
    for segment in range(2):
        ranges = [each[segment] for each in parts]
        logits = torch.cat([case.ranking.logits[each] for each in ranges]).requires_grad_()
        targets = torch.cat([case.ranking.targets[each] for each in ranges])
        truth = rank_sort(logits, targets, delta=case.ranking.delta, backend="torch")
        (truth.ranking + 3 * truth.sorting).backward()
        gradients = []
        for got, each, (first, _) in zip(processes, ranges, parts, strict=True):
            values, gradient = got["segments", backend]
            assert values[:, segment].tolist() == pytest.approx([part.item() for part in truth], abs=1e-6)
            begin = each.start - first.start
            gradients.append(gradient[begin : begin + each.stop - each.start])
        assert_close(torch.cat(gradients) / world, logits.grad, 1e-6)


@OF_TORCH
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.grid])
def test_equals_to_the_last_bit_where_sums_do_not_round(processes, name, loss):
    """Dense targets keep the order of the positives; another order rounds the sums among them differently."""
    parts: list[Outcome] = [got[name, loss, "dense", 0] for got in processes]
    truth = expected(name, loss, "dense")
    assert all(part.values == truth.values for part in parts)
    assert torch.equal(torch.cat([part.gradient for part in parts]) / len(parts), truth.gradient)
    assert torch.equal(torch.cat([part.error_gradient for part in parts]) / len(parts), truth.error_gradient)


@OF_TORCH
@pytest.mark.parametrize("name", [name for name in CASES if "NaN" in name and "ignored" not in name])
def test_a_nan_in_one_process_reaches_all(processes, name):
    """Every gradient is NaN except those of ignored logits, also in the processes without the NaN."""
    case = CASES[name]
    for got, part in zip(processes, case.parts(len(processes)), strict=True):
        for loss, form in [(loss, form) for asked, loss, form in ASKED if asked == name]:
            gradient = got[name, loss, form, 0].gradient
            assert torch.equal(gradient.isnan(), ~(case.ranking.targets[part] < 0)), loss


@OF_TORCH
def test_a_group_inside_the_world(processes):
    """Its processes rank their logits together; in another process the error names the argument."""
    case, world = CASES["ties"], len(processes)
    members = SUBGROUP[world]
    held = torch.cat([torch.arange(len(case.ranking.logits))[case.parts(world)[rank]] for rank in members])
    ranking = replace(case.ranking, logits=case.ranking.logits[held], targets=case.ranking.targets[held])
    truth = outcome("rank_sort", "dense", ranking, slice(None))
    got: list[Outcome] = [processes[rank]["subgroup"] for rank in members]
    assert all(part.values == pytest.approx(truth.values, abs=1e-6) for part in got)
    assert_close(torch.cat([part.gradient for part in got]) / len(members), truth.gradient, 1e-6)
    message = "group: expected a torch.distributed.ProcessGroup that this process is in, got "
    for rank in set(range(world)) - set(members):
        assert processes[rank]["not a member"].startswith(message)


@OF_TORCH
@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_group_each_process_ranks_its_own(processes, loss):
    """Also inside a process group; and a group of one process changes no bit."""
    case = CASES["ties"]
    for got, part in zip(processes, case.parts(len(processes)), strict=True):
        truth = outcome(loss, "dense", case.ranking, part)
        for way in ("no group", "a group of one"):
            assert got[way, loss].values == truth.values
            assert torch.equal(got[way, loss].gradient, truth.gradient)
            assert torch.equal(got[way, loss].error_gradient, truth.error_gradient)


@OF_TORCH
def test_data_parallel_training_takes_the_step_of_one_process(processes):
    before = torch.cat([parameter.detach().flatten() for parameter in network().parameters()])
    truth = one_step(network(), slice(None))
    assert sum(part.stop - part.start for part in BATCH[len(processes)]) == 300
    for got in processes:
        assert torch.equal(got["step"], processes[0]["step"])
        assert_close(got["step"] - before, truth - before, 1e-5)  # a difference of parameters a hundred times larger
    assert (truth - before).abs().max() > 0.01


@OF_TORCH
def test_the_host_waits_once(processes):
    """For the number of positives of each process."""
    for got in processes:
        assert got["reads"] == ["tolist"]


@OF_TORCH
def test_reads_by_the_host_are_seen():
    with HostReads() as reads:
        value = torch.ones(1)
        bool(value > 0)
        value.tolist()
        float(value)
        value.nonzero()
    assert reads.seen == ["__bool__", "tolist", "__float__", "nonzero"]


@OF_TORCH
def test_the_dense_equations_refuse_a_group(processes):
    for got in processes:
        for loss in REFUSING:
            assert got["reference", loss] == "group: backend 'reference' ranks the logits of one process alone"


@OF_TORCH
@pytest.mark.parametrize("group", ["world", 0, dist.GroupMember.NON_GROUP_MEMBER, dist.group])
def test_a_group_of_another_type(group):
    logits, targets = torch.zeros(3), torch.tensor([1.0, 0, 0])
    for loss in (
        rank_sort,
        average_precision,
        functools.partial(alrp, localisation_error=torch.zeros(1)),
        functools.partial(ranking_loss, lambda counts: counts.false_positives),
    ):
        with pytest.raises(ValueError, match=r"group: expected a torch.distributed.ProcessGroup that this process is"):
            loss(logits, targets, group=group)
