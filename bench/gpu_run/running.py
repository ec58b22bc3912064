"""One part of a run: started, limited in time, logged; its outcome is kept for the next call.

A part has a folder. `outcome.json` is written into it last, in one step. So a part that was killed has none, and is
repeated.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree, which
from threading import Thread
from typing import IO, Literal

from .clocks import watched
from .source import TREE

LIMIT = 600.0  # seconds for a part
GRACE = 30.0  # of these, for a command that was asked to stop: pytest writes down what it has measured

Result = Literal["passed", "failed", "out of time", "not run"]


@dataclass(frozen=True)
class Part:
    """Commands, one after the other; "{folder}" in them stands for the part's folder."""

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    packages: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    tool: str | None = None  # a program without which the part is not run: that is no failure
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    result: Result
    note: str
    seconds: float
    key: str

    @property
    def good(self) -> bool:
        return self.result in ("passed", "not run")


def write_atomically(path: Path, text: str) -> None:
    """The whole file or none."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_outcome(folder: Path, key: str) -> Outcome | None:
    """The outcome that is kept in `folder`, if it is that of `key`: the same sources on the same device."""
    try:
        found = Outcome(**json.loads((folder / "outcome.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.key == key else None


def run_part(
    part: Part, folder: Path, key: str, environment: dict[str, str], uuid: str = "", limit: float = LIMIT
) -> Outcome:
    """Runs a part in an empty `folder` and keeps its outcome there. `KeyboardInterrupt` stops it, and keeps nothing."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if part.tool and which(part.tool) is None:
        outcome = Outcome("not run", f"{part.tool} not found", 0.0, key)
    else:
        begin = time.monotonic()
        with _interruptible(), (folder / "output.log").open("wb") as log, watched(uuid, folder / "clocks.csv"):
            result, note = _run_commands(part, folder, {**environment, **part.variables}, log, begin + limit)
        outcome = Outcome(result, note, round(time.monotonic() - begin, 1), key)
    write_atomically(folder / "outcome.json", json.dumps(asdict(outcome), indent=1))
    return outcome


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and every child would inherit that."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_commands(
    part: Part, folder: Path, environment: dict[str, str], log: IO[bytes], end: float
) -> tuple[Result, str]:
    for command in part.commands:
        words = [word.replace("{folder}", str(folder)) for word in command]
        code = _execute(words, environment, log, end)
        if code is None:
            return "out of time", "stopped at its limit"
        if code:
            return "failed", f"exit code {code}: {Path(words[0]).name} {' '.join(words[1:4])} ..."
    return "passed", ""


def _execute(command: list[str], environment: dict[str, str], log: IO[bytes], end: float) -> int | None:
    """The exit code, or None if the command had to be stopped. Its output goes to the terminal and to `log`."""
    grace = min(GRACE, (end - time.monotonic()) / 4)
    process = subprocess.Popen(
        command,
        cwd=TREE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,  # Ctrl-C reaches this process alone, which then stops the whole group
    )
    assert process.stdout is not None
    reader = Thread(target=_copy, args=(process.stdout, log), daemon=True)
    reader.start()
    try:
        return process.wait(timeout=max(end - grace - time.monotonic(), 0.01))
    except subprocess.TimeoutExpired:
        _stop(process, grace)
        return None
    except BaseException:
        _stop(process, min(grace, 5.0))
        raise
    finally:
        reader.join(timeout=5)  # something that outlives the command may hold the pipe


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Asks the whole group to stop, and kills what is left of it."""
    for number, patience in ((signal.SIGINT, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=max(patience, 0.01))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: at once
            continue


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    with source:
        while chunk := source.read1(4096):  # type: ignore[attr-defined]
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if not log.closed:
                log.write(chunk)
                log.flush()
