"""What a study keeps beside each run: how often it was started, how it ended, and with which settings.

OUTPUT/VARIANT/VALUES/seed_N/run/         the folder of the run, as `rst train` makes it
OUTPUT/VARIANT/VALUES/seed_N/train.log    what it printed
OUTPUT/VARIANT/VALUES/seed_N/state.json   `State`
"""

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from .plan import Run

NOT_FINITE = re.compile(r"= (nan|-?inf)\b.* at step \d|is no longer finite after step")  # of `rst train`'s last line
ENDED = ("done", "not finite")  # states of a run that has its result


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        arguments: of `rst train`.
        config: hash of the configuration file.
        commit: of the source, "" where it is not known.
        status: "started" (and perhaps stopped), "done", "failed" or "not finite".
        seconds: of all its processes together.
        last_line: of what a failed run printed.
    """

    arguments: list[str]
    config: str
    commit: str
    status: str = "started"
    seconds: float = 0.0
    last_line: str = ""

    @classmethod
    def of_new(cls, run: Run) -> "State":
        return cls(run.arguments, sha256(Path(run.config).read_bytes()).hexdigest(), commit())

    def after(self, code: int, seconds: float, last_line: str) -> "State":
        """The state after a process of the run ended."""
        status = "done" if code == 0 else "not finite" if NOT_FINITE.search(last_line) else "failed"
        return replace(self, status=status, seconds=self.seconds + seconds, last_line=last_line if code else "")


def read_state(folder: Path) -> State | None:
    """The state of the run in a folder of a study, None where it was not started."""
    file = folder / "state.json"
    return State(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint from which the run in a folder of a study goes on."""
    return folder / "run" / "checkpoints" / "last.ckpt"


def read_begun(folder: Path) -> State | None:
    """The state of a run that has a result or goes on; None for one that starts anew, whatever it was to be before."""
    state = read_state(folder)
    return state if state and (state.status in ENDED or last_checkpoint(folder).is_file()) else None


def write_state(folder: Path, state: State) -> None:
    write_whole(folder / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def check_same(run: Run, output: Path) -> None:
    """ValueError where the folder of a run has one with other settings: its results would be taken for this one's."""
    folder = run.folder(output)
    before, now = read_begun(folder), State.of_new(run)
    if before is None or (before.arguments, before.config) == (now.arguments, now.config):
        return
    changed = sorted(set(before.arguments) ^ set(now.arguments)) or [f"the content of {run.config}"]
    raise ValueError(f"{folder}: was trained with other settings ({', '.join(changed)}); take another --output")


def write_whole(file: Path, content: str) -> None:
    """Write a file; at any moment it holds what it held before, or all of the new content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(file)


@cache
def commit() -> str:
    """Of the tree, with "-dirty" where it has changes; "" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
