"""The state of an NVIDIA GPU as nvidia-smi shows it. Only read, never set."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOL = "nvidia-smi"
SETTINGS = (
    "driver_version",
    "persistence_mode",
    "power.limit",
    "clocks.max.sm",
    "clocks.max.mem",
    "clocks.applications.graphics",
    "clocks.applications.memory",
    "compute_mode",
)
READINGS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")  # MHz, MHz, W, degrees Celsius
EVERY = 10  # seconds between two readings: seldom enough not to disturb what is timed
FORMAT = "--format=csv,noheader,nounits"


def settings(uuid: str) -> dict[str, str]:
    """Name and value of each setting; one entry "nvidia-smi" where the tool is absent or refuses."""
    if shutil.which(TOOL) is None:
        return {TOOL: "not found"}
    command = [TOOL, *_which(uuid), f"--query-gpu={','.join(SETTINGS)}", FORMAT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {TOOL: f"failed: {error}"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {TOOL: f"failed: {(lines or done.stderr.strip().splitlines() or ['no output'])[0]}"}
    return dict(zip(SETTINGS, (value.strip() for value in lines[0].split(",")), strict=False))


@contextmanager
def watched(uuid: str, file: Path) -> Iterator[None]:
    """Writes the readings to `file` while the block runs, where the tool is there."""
    if not uuid or shutil.which(TOOL) is None:
        yield
        return
    command = [TOOL, *_which(uuid), f"--query-gpu={','.join(READINGS)}", FORMAT, f"--loop={EVERY}"]
    with file.open("wb") as out:
        tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            tool.kill()
            tool.wait()


def ranges(file: Path) -> list[str]:
    """ "low to high" of each reading in `file`; empty where there is none."""
    if not file.exists():
        return []
    rows = [line.split(",") for line in file.read_text(errors="replace").splitlines()]
    columns: list[list[float]] = [[] for _ in READINGS]
    for row in rows:
        for column, text in zip(columns, row, strict=False):
            try:
                column.append(float(text))
            except ValueError:  # "[N/A]", or a line that the end of the tool cut
                continue
    spans = [(min(column), max(column)) if column else None for column in columns]
    if not any(spans):
        return []
    return ["–" if span is None else f"{span[0]:g}" + f" to {span[1]:g}" * (span[0] != span[1]) for span in spans]


def _which(uuid: str) -> list[str]:
    return [f"--id=GPU-{uuid.removeprefix('GPU-')}"] if uuid else []
