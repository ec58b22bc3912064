"""The benchmark harness: what is wrong is refused, what is too large is left out, and clocks count what they should."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contenders
import cuda_graph
import device
import measure
import pytest
import torch
from contenders import COMPILED_FOCAL, CONTENDERS, FOCAL, GRAPH, HERE, LOOP, MATRIX, OURS, Contender
from device import Instant
from peers import pointwise
from shapes import STAGES, Shape, sample
from stopwatch import Stopwatch

from rst.kernels import RankSortLoss, SparseTargets, rank_sort

SMALL = Shape(20, 2000)
ALL_SMALL = [name for name in HERE if not name.startswith("rst") and name != COMPILED_FOCAL] + [OURS]


class Benchmark:
    """As much of pytest-benchmark's fixture as the harness uses."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""
        self.skipped = False
        self.stats = None
        self.rounds = 0

    def pedantic(self, function, args, setup, rounds) -> None:
        setup()
        function(*args)
        self.rounds = rounds
        self.stats = SimpleNamespace(stats=SimpleNamespace(median=1e-3))


@pytest.fixture
def facts() -> dict[str, Any]:
    return {"left_out": [], "refused": [], "cross_checks": []}


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch):
    monkeypatch.setattr(measure, "copy_bandwidth", lambda: 1e9)


def run(benchmark, facts, name) -> None:
    measure.measure(benchmark, facts, "head", "small", SMALL, "early", name)


@pytest.mark.parametrize("name", ALL_SMALL)
def test_every_contender_is_checked_and_timed(facts, name):
    benchmark = Benchmark()
    run(benchmark, facts, name)
    extra = benchmark.extra_info
    assert benchmark.rounds >= 1
    assert (extra["contender"], extra["logits"], extra["positives"]) == (name, 2020, 20)
    assert extra["bytes"] == 12 * 2020
    assert extra["bandwidth_share"] == pytest.approx(12 * 2020 / 1e-3 / 1e9)
    kind = CONTENDERS[name].kind
    assert ("error" in extra) == (kind != "pointwise")
    if kind == "exact":
        assert extra["error"] <= 1e-5
    if kind == "approximate":
        assert extra["error"] > 1e-3
    assert [case["contender"] for case in facts["cross_checks"]] == ([LOOP] if name == LOOP else [])


@pytest.mark.parametrize("part", ["ranking", "sorting", "gradient"])
@pytest.mark.parametrize("fault", [1.001, float("nan")])
def test_exact_contender_that_is_wrong_is_not_timed(monkeypatch, facts, part, fault):
    def wrong(data):
        outcome = CONTENDERS[OURS].run(data)
        return outcome._replace(**{part: getattr(outcome, part) * fault})

    monkeypatch.setitem(measure.CONTENDERS, "wrong", Contender("exact", wrong))
    benchmark = Benchmark()
    with pytest.raises(pytest.fail.Exception, match="wrong is not reported"):
        run(benchmark, facts, "wrong")
    assert benchmark.rounds == 0
    assert facts["refused"][0]["contender"] == "wrong"


def test_on_a_gpu_memory_and_the_host_s_clock_are_read_too(monkeypatch, facts):
    monkeypatch.setattr(measure, "ON_GPU", True)
    monkeypatch.setattr(measure, "peak_bytes", lambda run: 3 * 2**20 if len(run()) == 2020 else 0)
    monkeypatch.setattr(measure, "wall_seconds", lambda run: 0.5 if len(run().gradient) == 2020 else 0)
    monkeypatch.setattr(measure, "host_seconds", lambda run: 0.1 if len(run().gradient) == 2020 else 0)
    benchmark = Benchmark()
    run(benchmark, facts, OURS)
    extra = benchmark.extra_info
    assert (extra["peak_mib"], extra["wall"], extra["host"]) == (3, 0.5, 0.1)
    assert benchmark.rounds == 3, "of half a second each"


def test_host_time_ends_where_the_last_launch_is_queued(monkeypatch):
    """A device that takes a second for what the host queues in none."""
    log: list[str] = []
    now = [0.0]

    def synchronize() -> None:
        log.append("waited")
        now[0] += 1

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now[0])

    def queue() -> None:
        assert log[-1] == "waited", "the device is idle"
        log.append("queued")
        now[0] += 0.25

    assert device.host_seconds(queue) == 0.25
    assert log[-1] == "waited"
    assert log.count("queued") == 8, "of a quarter of a second each, in two seconds"


@pytest.mark.slow  # Inductor compiles for two sizes
def test_compiled_focal_loss_is_the_same_loss(facts):
    data = sample(SMALL, "early")
    if reason := CONTENDERS[COMPILED_FOCAL].obstacle(data):
        pytest.skip(reason)
    for shape in (SMALL, Shape(30, 3001)):
        data = sample(shape, "early")
        eager, compiled = (CONTENDERS[name].run(data) for name in (FOCAL, COMPILED_FOCAL))
        torch.testing.assert_close(compiled.ranking, eager.ranking)
        torch.testing.assert_close(compiled.gradient, eager.gradient)
    benchmark = Benchmark()
    run(benchmark, facts, COMPILED_FOCAL)
    assert benchmark.rounds > 1, "the seconds of the compiler are not in the time"


def test_a_compiler_that_fails_is_a_reason(monkeypatch):
    def refuse(size):
        raise RuntimeError("no such target\nand a long listing")

    monkeypatch.setattr(pointwise, "_compiled_for", refuse)
    monkeypatch.setattr(pointwise.shutil, "which", lambda name: f"/usr/bin/{name}")
    obstacle = CONTENDERS[COMPILED_FOCAL].obstacle
    assert obstacle(sample(SMALL, "early")) == "not compiled: RuntimeError: no such target"
    monkeypatch.setattr(pointwise.shutil, "which", lambda name: None)
    assert obstacle(sample(SMALL, "early")) == "not compiled: no C++ compiler"


def test_a_capture_that_fails_is_a_row_with_its_reason(monkeypatch, facts):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graph, "_capture", refuse)
    with pytest.raises(pytest.skip.Exception, match="not captured: RuntimeError: operation not permitted"):
        run(Benchmark(), facts, GRAPH)
    assert facts["left_out"][0]["contender"] == GRAPH


def test_a_graph_is_captured_once_for_each_sample(monkeypatch, facts):
    log = []

    def capture(run):
        log.append("captured")
        return SimpleNamespace(replay=lambda: log.append("replayed")), run()

    monkeypatch.setattr(cuda_graph, "_capture", capture)
    monkeypatch.setattr(cuda_graph, "_captured", [])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    benchmark = Benchmark()
    run(benchmark, facts, GRAPH)
    assert log == ["captured", *["replayed"] * 3], "the capture, the check, one round of this test's benchmark"
    assert benchmark.extra_info["error"] <= 1e-5
    CONTENDERS[GRAPH].run(sample(SMALL, "late"))
    assert log.count("captured") == 2


def test_contender_that_is_too_large_is_left_out(monkeypatch, facts):
    monkeypatch.setattr(contenders, "matrix_bound", lambda: 1000)
    benchmark = Benchmark()
    with pytest.raises(pytest.skip.Exception, match="dense matrix left out"):
        run(benchmark, facts, MATRIX)
    (case,) = facts["left_out"]
    assert case["shape"] == "small"
    assert "GiB" in case["reason"]


@pytest.mark.parametrize("stage", STAGES)
def test_samples_repeat_and_have_their_targets_in_every_form(stage):
    one, other = (sample(SMALL, stage, seed=3) for _ in range(2))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.dense.nonzero()[:, 0], one.sparse.index)
    assert torch.equal(one.dense[one.sparse.index], one.sparse.quality)
    assert torch.equal(one.labels, (one.dense > 0).float())
    assert len(one.sparse.index.unique()) == 20
    assert not torch.equal(one.logits, sample(SMALL, stage, seed=4).logits)


def test_the_difference_of_instants_is_the_device_s_time_in_seconds(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("recorded")

        def synchronize(self):
            log.append("waited")

        def elapsed_time(self, end):
            assert end is not self
            return 2.5  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    begin = device.device_clock()
    end = device.device_clock()
    assert log == ["recorded", "recorded"], "a clock that is read does not make the host wait"
    assert end - begin == 0.0025
    assert log[-1] == "waited"
    assert isinstance(end, Instant)


def test_stopwatch_sees_forward_and_backward_of_the_loss_alone():
    """A clock that counts what happens: the box branch, on the same logits' features, is not the loss's."""
    events: list[str] = []

    def clock() -> int:
        events.append("clock")
        return len(events)

    def loss(levels, targets, **arguments) -> RankSortLoss:
        events.append("forward")
        result = rank_sort(levels, targets, **arguments)
        result.ranking.grad_fn.register_hook(lambda *_: events.append("backward"))
        return result

    watch = Stopwatch(loss, clock)
    features = torch.randn(30, requires_grad=True)
    logits = features * 2
    boxes = features * 3
    boxes.grad_fn.register_hook(lambda *_: events.append("boxes"))
    logits.grad_fn.register_hook(lambda *_: events.append("head"))
    ranking, sorting = watch([logits[:10], logits[10:]], SparseTargets(torch.tensor([2, 20]), torch.tensor([0.5, 0.8])))
    (0.2 * ranking + 0.2 * sorting + boxes.square().sum()).backward()
    assert [event for event in events if event != "clock"] == ["forward", "backward", "boxes", "head"]
    spans = watch.take()
    assert len(spans) == 2
    inside = [events[begin : end - 1] for begin, end in spans]
    assert inside == [["forward"], ["backward"]]
    assert watch.take() == []


def test_stopwatch_does_not_change_the_gradient():
    targets = SparseTargets(torch.tensor([2, 20]), torch.tensor([0.5, 0.8]))
    found = []
    for function in (rank_sort, Stopwatch(rank_sort, lambda: 0)):
        logits = torch.linspace(-1, 1, 30).requires_grad_()
        sum(function(logits, targets)).backward()
        found.append(logits.grad)
    assert torch.equal(*found)


def test_a_session_of_one_case_leaves_json_and_report(tree, tmp_path):
    """The command of `make bench`, on a part: its report goes beside the JSON and not over the kept one."""
    kept = {path: path.stat().st_mtime_ns for path in (tree / "bench" / "results").iterdir()}
    source = tmp_path / "results.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench",
        "-q",
        "-k",
        "DETR and early and head and (sparse or bucketed)",
        "-p",
        "no:cacheprovider",
    ]
    # a session of its own, whatever runs this one: pytest-benchmark refuses to time next to other workers
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    environment["OMP_NUM_THREADS"] = "1"
    run = subprocess.run(
        [*command, "--benchmark-json", str(source)], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    text = Path(source.with_suffix(".md")).read_text()
    assert "### DETR decoder: 96,030 logits, 30 positives" in text
    assert "1.0e-05" not in text
    assert {path: path.stat().st_mtime_ns for path in (tree / "bench" / "results").iterdir()} == kept
