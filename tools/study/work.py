"""Trains the runs of a study, several at once, each in a process of its own."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from .plan import Run
from .records import State, last_checkpoint, read_begun, write_state

# Works where rst is on PYTHONPATH only. -P: not this tree's rst/, which lacks the mapped rst.kernels and rst.detectors.
TRAIN = (sys.executable, "-P", "-m", "rst.cli.main", "train")
PATIENCE = 20.0  # seconds that an interrupted run has to end
LOOKING = 0.2  # seconds between two looks at the processes


class Busy(Exception):
    """Another study, or a run that one left behind, is at work in the folder."""


@contextlib.contextmanager
def locked(output: Path) -> Iterator[IO[str]]:
    """Holds the folder of a study; the lock goes when this process and all that inherited the file are gone.

    Raises:
        Busy: where somebody else holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{output}: another study, or a run of one, is at work in it") from error
        yield file


@dataclass
class _Process:
    run: Run
    folder: Path
    state: State
    process: subprocess.Popen[bytes]
    start: float
    logged_before: int  # bytes of train.log

    def finished(self) -> State:
        """The state now that its process has ended."""
        return self.state.after(self.process.returncode, time.monotonic() - self.start, self._last_line())

    def _last_line(self) -> str:
        with (self.folder / "train.log").open("rb") as file:
            file.seek(self.logged_before)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")


def train(
    runs: Sequence[Run],
    output: Path,
    jobs: int,
    lock: IO[str],
    report: Callable[[Run, State], None],
) -> None:
    """Train runs that are not done: new ones, and stopped ones from their last checkpoint.

    Args:
        runs: in the order in which they start.
        output: the folder of the study.
        jobs: how many train at once.
        lock: see `locked`; the processes hold it too.
        report: called when a run has ended, with its new state.

    Raises:
        KeyboardInterrupt: all processes are then stopped, their runs can be resumed.
    """
    waiting, at_work = list(runs), list[_Process]()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(threads_each(jobs)))
    try:
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                at_work.append(_start(waiting.pop(0), output, environment, lock))
            time.sleep(LOOKING)
            for one in [one for one in at_work if one.process.poll() is not None]:
                at_work.remove(one)
                state = one.finished()
                write_state(one.folder, state)
                report(one.run, state)
    finally:
        _stop(at_work)


def threads_each(jobs: int) -> int:
    """The share of each of `jobs` processes in the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def _start(run: Run, output: Path, environment: dict[str, str], lock: IO[str]) -> _Process:
    folder = run.folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    state = replace(read_begun(folder) or State.of_new(run), status="started", last_line="")
    write_state(folder, state)
    place = folder / "run"
    if last_checkpoint(folder).is_file():
        arguments = ["--resume", str(place)]
    else:
        shutil.rmtree(place, ignore_errors=True)  # stopped before its first checkpoint
        arguments = ["--output", str(place), *run.arguments]
    with (folder / "train.log").open("ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            [*TRAIN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others
            pass_fds=[lock.fileno()],
        )
    return _Process(run, folder, state, process, time.monotonic(), before)


def _stop(at_work: Sequence[_Process]) -> None:
    """Interrupt what still runs, and end with all it started what does not stop in time; the second Ctrl-C ends it."""
    try:
        for one in at_work:
            one.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for one in at_work:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for one in at_work:
            if one.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
            write_state(one.folder, replace(one.state, seconds=one.state.seconds + time.monotonic() - one.start))
