"""What `make gpu` looks at before and beside its parts: packages, device, data, the tree, the clocks."""

import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError

from gpu_run import clocks
from gpu_run.parts import HEADS, dry_parts, gpu_parts
from gpu_run.requirements import Device, bounds, dependencies, missing_device, missing_files, missing_packages
from gpu_run.source import TREE, environment, link_packages, slug, sources

# ---- what is missing ----


def test_packages_that_are_absent_old_or_new_have_a_line_each():
    def installed(name: str) -> str:
        if name == "pycocotools":
            raise PackageNotFoundError
        return {"torch": "2.9.1+cu130", "triton": "3.6.0", "jsonargparse": "5.1", "lightning": "2.6.6.dev1"}[name]

    assert missing_packages(["torch", "triton", "pycocotools", "jsonargparse", "lightning", "torch"], installed) == [
        f"the package torch is too old, 2.9.1+cu130; needed is {bounds()['torch']}",
        f"the package pycocotools is missing; needed is {bounds()['pycocotools']}",
        f"the package jsonargparse is too new, 5.1; needed is {bounds()['jsonargparse']}",
    ]


def test_every_part_names_packages_that_exist_here():
    for each in [*gpu_parts(), *dry_parts()]:
        assert missing_packages(each.packages) == []
    assert {"torch", "lightning", "pycocotools", "jsonargparse"} <= set(dependencies())


def test_a_device_that_is_missing_has_a_line():
    assert missing_device(Device("A GPU", True, "13.0", "")) == []
    assert missing_device(Device("A processor", False, None, "")) == ["no GPU: this torch is built for CPUs alone"]
    (line,) = missing_device(Device("A processor", False, "13.0", ""))
    assert line.startswith("no GPU: torch, built for CUDA 13.0, sees none")


def test_files_that_are_missing_have_a_line_with_the_remedy():
    assert missing_files([TREE / "pyproject.toml"], "make it") == []
    assert missing_files([TREE / "data" / "none.json"], "make it") == ["missing: data/none.json; make it"]


def test_an_environment_without_packages_is_told_so_at_once():
    """The real command in an interpreter that sees no installed package at all."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE / "bench")}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "gpu_run"], cwd=TREE, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "make gpu: nothing was run."
    for name in ("torch", "triton", "pytest", "pytest-benchmark", "pycocotools", "jsonargparse", "lightning"):
        assert sum(f"the package {name} is missing" in line for line in lines) == 1
    assert "Traceback" not in done.stderr


def test_an_old_python_is_told_so():
    code = "import runpy, sys; sys.version_info = (3, 9, 1); runpy.run_module('gpu_run', run_name='__main__')"
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE / "bench")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "make gpu: rst needs Python 3.11 or newer; this is 3.9\n"


# ---- the tree, the parts, the clocks ----


def test_the_tree_is_importable_without_an_installation(tmp_path):
    """As in an environment that has never seen the project, whatever folder the process is started in."""
    packages = link_packages(link_packages(tmp_path / "packages"))  # twice
    names = ("rst.kernels", "rst.detectors", "rst.cli.main")
    code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {names}))"
    for folder in (TREE, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment(packages),
            capture_output=True,
            text=True,
            check=False,
        )
        files = ("kernels/__init__.py", "detectors/__init__.py", "cli/main.py")
        assert done.stdout.split() == [str(packages / "rst" / file) for file in files], done.stderr
    assert not list(packages.rglob("*.pyi"))


def test_processes_compile_kernels_and_see_the_caller_s_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", "/carried")
    found = environment(tmp_path)
    assert "TRITON_INTERPRET" not in found
    assert found["PYTHONPATH"].split(os.pathsep) == [
        str(tmp_path),
        str(TREE / "bench"),
        str(TREE / "tests" / "support"),
        "/carried",
    ]
    assert environment(on_cpu=True)["CUDA_VISIBLE_DEVICES"] == ""


def test_the_hash_of_the_sources_is_one_of_contents():
    assert sources() == sources()
    assert len(sources()) == 16
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_parts_of_the_heads_are_all_heads_once():
    first, second, third = HEADS.values()
    others = second.partition(" and not ")[0]
    assert second == f"{others} and not ({first})"
    assert third == f"not ({first}) and not {others}"


def test_parts_have_names_of_their_own_and_a_pytest_that_exists():
    for every in (gpu_parts(), dry_parts()):
        names = [each.name for each in every]
        assert len(set(names)) == len(names)
    words = [word for each in gpu_parts() for line in each.commands for word in line]
    assert all((TREE / word).exists() for word in words if word.startswith(("bench/", "tests/", "configs/")))
    measured = {word for word in words if word.startswith("bench/test_")} | {"bench/test_memory.py"}  # for a CPU
    assert measured == {f"bench/{path.name}" for path in (TREE / "bench").glob("test_*.py")}


NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *--loop*) printf '1980, 2619, 650.10, 55\\n345, 2619, [N/A], 41\\n1755, 26'; exec sleep 60;;
  *) echo "580.1, Disabled, 700.00, 1980, 2619, 1980, 2619, Default"; echo "$*" > "$(dirname "$0")/asked";;
esac
"""


def test_clocks_are_read_where_nvidia_smi_is(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = clocks.settings("12-34")
    assert (found["driver_version"], found["power.limit"], found["compute_mode"]) == ("580.1", "700.00", "Default")
    assert "--id=GPU-12-34" in (tmp_path / "asked").read_text()
    with clocks.watched("12-34", tmp_path / "clocks.csv"):
        deadline = time.monotonic() + 10
        while not (tmp_path / "clocks.csv").stat().st_size and time.monotonic() < deadline:
            time.sleep(0.02)
    assert clocks.ranges(tmp_path / "clocks.csv") == ["345 to 1980", "26 to 2619", "650.1", "41 to 55"]
    tool.write_text("#!/bin/sh\necho 'Unable to determine the device handle'; exit 9\n")
    assert clocks.settings("") == {"nvidia-smi": "failed: Unable to determine the device handle"}


def test_without_nvidia_smi_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clocks.settings("12-34") == {"nvidia-smi": "not found"}
    with clocks.watched("12-34", tmp_path / "clocks.csv"):
        pass
    assert clocks.ranges(tmp_path / "clocks.csv") == []
