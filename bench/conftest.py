"""What a session stores beside its timings, and the report at its end."""

import os
import sys
from pathlib import Path

import pytest
import torch
from contenders import CONTENDERS, HERE, PORTABLE
from device import ON_GPU, copy_bandwidth, device_name
from gpu_run.source import commit, slug
from measure import Facts
from report import write_report

BENCH = Path(__file__).parent
FACTS = pytest.StashKey[Facts]()
PARTIAL = pytest.StashKey[bool]()


def pytest_configure(config) -> None:
    absent = {} if ON_GPU else {name: "needs a GPU" for name in CONTENDERS if name not in (*HERE, PORTABLE)}
    config.stash[FACTS] = {"left_out": [], "refused": [], "cross_checks": [], "not_measured": absent}
    config.stash[PARTIAL] = [Path(argument).resolve() for argument in config.args] != [BENCH.resolve()]


def pytest_collection_modifyitems(items) -> None:
    """CUDA graphs last: a capture that fails may leave the process without a usable device."""
    items.sort(key=lambda item: item.path.name == "test_cuda_graph.py")


def pytest_deselected(items) -> None:
    if items:
        items[0].config.stash[PARTIAL] = True


@pytest.fixture
def facts(pytestconfig) -> Facts:
    """The part of the session's JSON that tests add to."""
    return pytestconfig.stash[FACTS]


def pytest_benchmark_update_machine_info(config, machine_info) -> None:
    """Device, versions and threads. The machine's name is private and left out."""
    del config
    machine_info.pop("node", None)
    machine_info["device"] = device_name()
    machine_info["device_type"] = "cuda" if ON_GPU else "cpu"
    machine_info["torch"] = torch.__version__
    machine_info["triton"] = _version("triton")
    machine_info["cuda"] = torch.version.cuda if ON_GPU else None
    machine_info["torchvision"] = _version("torchvision")
    machine_info["threads"] = torch.get_num_threads()
    machine_info["copy_bandwidth"] = copy_bandwidth()


def pytest_benchmark_update_json(config, benchmarks, output_json) -> None:
    del benchmarks
    output_json["facts"] = config.stash[FACTS]
    output_json["commit"] = commit()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config) -> None:
    """Writes the report of this device (`make bench`). The report of a part goes beside its JSON.

    None with BENCH_REPORT=no in the environment.
    """
    given = config.getoption("benchmark_json")
    if given is None or os.environ.get("BENCH_REPORT") == "no":
        return
    source = given if isinstance(given, Path) else Path(given.name)  # an open file in older pytest-benchmark
    if not source.exists():
        return
    kept = BENCH / "results" / f"{slug(device_name())}.md"
    target = source.with_suffix(".md") if config.stash[PARTIAL] else kept
    write_report(source, target)
    terminalreporter.write_line(f"report: {os.path.relpath(target)}")


def _version(package: str) -> str | None:
    module = sys.modules.get(package)
    return getattr(module, "__version__", None)
