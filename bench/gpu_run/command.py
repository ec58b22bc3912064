"""The command behind `make gpu`: checks what is needed, runs the parts that are not done yet, writes the report.

Exit codes: 0 every part passed; 1 a part failed, or there is no report; 2 nothing was run, something is missing;
130 interrupted.
"""

import argparse
import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .clocks import settings
from .parts import DATA_REMEDY, dry_parts, gpu_parts
from .requirements import Device, find_device, missing_device, missing_files, missing_packages
from .running import LIMIT, Outcome, Part, read_outcome, run_part, write_atomically
from .source import TREE, commit, environment, link_packages, slug, sources

LAST = ("Goals", "Parts")  # printed at the very end, where they are seen


@dataclass(frozen=True)
class Run:
    """What one call does, and where."""

    every: list[Part]
    chosen: list[Part]
    device: Device
    commit: str
    sources: str
    folder: Path  # what parts leave behind
    report: Path
    command: str

    @property
    def key(self) -> str:
        """A part that is done for this key is not repeated."""
        return f"{self.commit} {self.sources} {self.device.name}"


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    given = _parse(arguments)
    every = dry_parts() if given.dry_run else gpu_parts()
    if given.list:
        print("\n".join(f"{part.name:<20} {part.title}" for part in every))
        return 0
    unknown = set(given.parts or ()) - {part.name for part in every}
    if unknown:
        return _refuse([f"no such part: {part}" for part in sorted(unknown)])
    chosen = [part for part in every if not given.parts or part.name in given.parts]
    device = _check(chosen, given.dry_run)
    if not isinstance(device, Device):
        return _refuse(device)
    state = given.state or TREE / "build" / ("gpu-dry-run" if given.dry_run else "gpu")
    folder = state / (slug(device.name) if device.on_gpu else f"cpu-{slug(device.name)}")
    results = given.results or (folder if given.dry_run else TREE / "bench" / "results")
    command = "make gpu, a dry run: no figure means anything" if given.dry_run else "make gpu"
    report = results / f"{folder.name}.md"
    with _alone(folder) as alone:
        if not alone:
            return _refuse([f"another run is under way in {folder}"])
        name = given.commit or commit()
        return _run(Run(every, chosen, device, name, sources(), folder, report, command), given.fresh, given.limit)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_run", description="What `make gpu` runs. Done parts are skipped.")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="these parts alone (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    parser.add_argument("--fresh", action="store_true", help="run parts again that are done")
    parser.add_argument("--dry-run", action="store_true", help="the same way with tiny sizes; no GPU is needed")
    parser.add_argument("--commit", metavar="NAME", help="of a tree that was copied without its history")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="S", help="seconds for a part (default: 600)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="what parts leave behind (default: build/gpu)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the report goes (default: bench/results)")
    given = parser.parse_args(arguments)
    for name in ("state", "results"):
        if path := getattr(given, name):
            setattr(given, name, path.absolute())
    return given


def _refuse(lines: list[str]) -> int:
    print("\n".join(["make gpu: nothing was run.", *(f"  {line}" for line in lines)]), file=sys.stderr)
    return 2


def _check(parts: list[Part], dry_run: bool) -> Device | list[str]:
    """The device, or a line for everything that is missing."""
    lacking = missing_packages(package for part in parts for package in part.packages)
    torch_is_there = not any("package torch " in line for line in lacking)
    lacking += missing_files((file for part in parts for file in part.files), DATA_REMEDY)
    if not torch_is_there:
        return lacking
    device = find_device(environment(on_cpu=dry_run))
    if isinstance(device, str):
        return [*lacking, device]
    lacking += [] if dry_run else missing_device(device)
    return lacking or device


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other run works in `folder`. The lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(run: Run, fresh: bool, limit: float) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's end of the job, a lost terminal
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    variables = environment(link_packages(run.folder / "packages"), on_cpu=not run.device.on_gpu)
    print(f"{run.device.name}; commit {run.commit}; {len(run.chosen)} parts, each within {limit:.0f} s; {run.folder}")
    for part in run.chosen:
        folder = run.folder / part.name
        before = None if fresh else read_outcome(folder, run.key)
        if before and before.result == "passed":
            print(f"\n======== {part.name}: done before, in {before.seconds:.0f} s", flush=True)
            continue
        print(f"\n======== {part.name}: {part.title}", flush=True)
        try:
            outcome = run_part(part, folder, run.key, variables, run.device.uuid, limit)
        except KeyboardInterrupt:
            print(f"\nmake gpu: interrupted in {part.name}; the same command goes on there", file=sys.stderr)
            return 130
        print(f"======== {part.name}: {outcome.result} {outcome.note}".rstrip(), flush=True)
    outcomes = {part.name: read_outcome(run.folder / part.name, run.key) for part in run.every}
    written = _report(run, outcomes, variables)
    failed = [part.name for part in run.chosen if not (found := outcomes[part.name]) or not found.good]
    if failed:
        print(f"make gpu: not passed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or not written else 0


def _report(run: Run, outcomes: dict[str, Outcome | None], variables: dict[str, str]) -> bool:
    """Writes the report in a process of its own, which may import everything, and prints its tables."""
    rows = []
    for part in run.every:
        found = outcomes[part.name]
        row = {"result": found.result, "note": found.note, "seconds": found.seconds} if found else {}
        rows.append({"name": part.name, "title": part.title, "result": "not run", "note": "", "seconds": 0} | row)
        if not found:  # what lies there belongs to other sources, and must not be in the report
            shutil.rmtree(run.folder / part.name, ignore_errors=True)
    facts = {"device": run.device.name, "commit": run.commit, "sources": run.sources, "command": run.command}
    facts |= {"parts": rows, "clocks": settings(run.device.uuid)}
    write_atomically(run.folder / "run.json", json.dumps(facts, indent=1))
    command = [sys.executable, "-m", "gpu_run.results", str(run.folder), str(run.report)]
    if subprocess.run(command, cwd=TREE, env=variables, check=False).returncode:
        print("make gpu: the report could not be written", file=sys.stderr)
        return False
    print(f"\n{'=' * 40}\n{ordered(run.report.read_text(encoding='utf-8'))}\n\nreport: {run.report}", flush=True)
    return True


def ordered(text: str) -> str:
    """A report for the terminal: without plots, and with the sections `LAST` at its end."""
    opening, *sections = ("\n" + text).split("\n## ")
    rank = {name: number for number, name in enumerate(LAST, 1)}
    sections.sort(key=lambda section: rank.get(section.splitlines()[0], 0))
    lines = "\n\n## ".join(section.strip() for section in [opening, *sections]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))
