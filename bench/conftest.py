"""What a report needs to say where it was measured, and the report itself at the end of a session."""

import os
import platform
import re
import subprocess
from pathlib import Path

import torch
from report import write_report

TREE = Path(__file__).parent.parent


def device_name() -> str:
    """The GPU if there is one, else the processor, with its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def pytest_benchmark_update_machine_info(config, machine_info) -> None:
    """Device, versions and threads; not the machine's name, which is nobody's business."""
    del config
    machine_info.pop("node", None)
    machine_info["device"] = device_name()
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()


def pytest_benchmark_update_json(config, benchmarks, output_json) -> None:
    """Writes the Markdown report of this device, where a JSON was asked for too (`make bench`)."""
    del config, benchmarks
    name = re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")
    report = TREE / "bench" / "results" / f"{name}.md"
    report.parent.mkdir(exist_ok=True)
    write_report(output_json, report, _commit())
    print(f"\nreport: {report.relative_to(TREE)}")


def _commit() -> str:
    command = ["git", "-C", str(TREE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
