"""The run of `make gpu` in parts: resumed, limited, interrupted; nothing starts where something is missing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_run import command
from gpu_run.requirements import Device
from gpu_run.running import Outcome, Part, read_outcome, run_part
from gpu_run.source import environment

KEY = "abc1234 0123 A device"
A_CPU = Device("A processor, 2 cores", False, "13.0", "")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def part(*codes: str, **more) -> Part:
    return Part("one", "a part", tuple(python(code) for code in codes), **more)


def run(what: Part, folder: Path, **more) -> Outcome:
    return run_part(what, folder, KEY, dict(os.environ), **more)


def test_a_part_runs_its_commands_in_its_own_empty_folder(tmp_path, capfd):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "left over").touch()
    wrote = "import sys, pathlib; pathlib.Path(r'{folder}', 'made').write_text('x'); print('said')"
    outcome = run(part(wrote, "import os; print(os.environ['MARK'])", variables={"MARK": "marked"}), folder)
    assert (outcome.result, outcome.note) == ("passed", "")
    assert (folder / "made").exists()
    assert not (folder / "left over").exists()
    assert (folder / "output.log").read_text() == "said\nmarked\n"
    assert capfd.readouterr().out == "said\nmarked\n"
    assert read_outcome(folder, KEY) == outcome
    assert read_outcome(folder, "other sources") is None


def test_a_failure_ends_the_part_and_is_kept(tmp_path):
    outcome = run(part("raise SystemExit(3)", "open(r'{folder}/second', 'w')"), tmp_path / "one")
    assert outcome.result == "failed"
    assert outcome.note.startswith("exit code 3: python")
    assert not outcome.good
    assert not (tmp_path / "one" / "second").exists()


def test_a_part_stops_at_its_limit_with_all_it_started(tmp_path):
    """Asked first, so that pytest can write down what it has; a grandchild that ignores that is killed."""
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    code = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(r"{{folder}}", "child").write_text(str(child.pid))
try:
    child.wait()
except KeyboardInterrupt:
    pathlib.Path(r"{{folder}}", "asked").touch()
"""
    begin = time.monotonic()
    outcome = run(part(code), tmp_path / "one", limit=20)  # two interpreters must have started by its end
    assert time.monotonic() - begin < 40
    assert outcome.result == "out of time"
    assert (tmp_path / "one" / "asked").exists()
    child_process = int((tmp_path / "one" / "child").read_text())
    state = Path(f"/proc/{child_process}/stat")
    if sys.platform == "linux":
        deadline = time.monotonic() + 5
        while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_part_can_be_interrupted_also_where_a_shell_has_signals_ignored(tmp_path):
    """As for what a shell starts in the background: the part would go on until it is killed."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = run(part("import signal; raise SystemExit(signal.getsignal(2) is signal.SIG_IGN)"), tmp_path / "one")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.result == "passed"


def test_without_its_tool_a_part_is_not_run_and_that_is_no_failure(tmp_path):
    outcome = run(part("raise SystemExit(1)", tool="no-such-sanitizer"), tmp_path / "one")
    assert (outcome.result, outcome.note, outcome.good) == ("not run", "no-such-sanitizer not found", True)


@pytest.mark.parametrize("written", ["", "{", '{"result": "passed"}', "[]"])
def test_an_outcome_that_is_cut_off_is_none(tmp_path, written):
    (tmp_path / "outcome.json").write_text(written)
    assert read_outcome(tmp_path, KEY) is None


# ---- the command, with parts of the test's own ----


@pytest.fixture
def parts(monkeypatch, tmp_path) -> list[Part]:
    """Three parts; each appends its name to a file, and the second fails while there is a file `broken`."""

    def appending(name: str, more: str = "") -> Part:
        code = f"import pathlib; open(r'{tmp_path}/log', 'a').write('{name} '); {more}"
        return Part(name, f"part {name}", (python(code),))

    broken = f"raise SystemExit(pathlib.Path(r'{tmp_path}/broken').exists())"
    made = [appending("first"), appending("second", broken), appending("third")]
    monkeypatch.setattr(command, "dry_parts", lambda: made)
    monkeypatch.setattr(command, "find_device", lambda environment: A_CPU)
    monkeypatch.setattr(command, "commit", lambda: "abc1234")
    monkeypatch.setattr(command, "sources", lambda: "0123")
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    return made


def call(tmp_path: Path, *more: str) -> int:
    return command.main(["--dry-run", "--state", str(tmp_path / "state"), "--results", str(tmp_path), *more])


def log(tmp_path: Path) -> list[str]:
    names = (tmp_path / "log").read_text().split()
    (tmp_path / "log").write_text("")
    return names


@pytest.mark.usefixtures("parts")
def test_done_parts_are_skipped_and_a_failed_one_is_repeated(tmp_path, capfd, monkeypatch):
    (tmp_path / "broken").touch()
    assert call(tmp_path) == 1
    assert log(tmp_path) == ["first", "second", "third"], "a failure does not stop what follows"
    printed = capfd.readouterr()
    assert "make gpu: not passed: second" in printed.err
    report = (tmp_path / "cpu-a-processor-2-cores.md").read_text()
    assert "| second | part second | **failed: exit code 1" in report
    assert "No benchmark has ended." in report
    assert printed.out.rstrip().splitlines()[-1].startswith("report: ")

    (tmp_path / "broken").unlink()
    assert call(tmp_path) == 0
    assert log(tmp_path) == ["second"]
    assert "first: done before" in capfd.readouterr().out
    assert call(tmp_path, "--parts", "third", "--fresh") == 0
    assert log(tmp_path) == ["third"]
    assert call(tmp_path, "--parts", "third", "--commit", "def5678") == 0
    assert log(tmp_path) == ["third"], "of another commit"
    assert "Commit def5678." in (tmp_path / "cpu-a-processor-2-cores.md").read_text()
    monkeypatch.setattr(command, "sources", lambda: "4567")
    assert call(tmp_path, "--parts", "first") == 0
    assert log(tmp_path) == ["first"], "of other sources"
    assert "| second | part second | not run |" in (tmp_path / "cpu-a-processor-2-cores.md").read_text()


def test_an_interrupted_part_is_repeated(tmp_path, parts, capfd, monkeypatch):
    def interrupt(part, *more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "run_part", interrupt)
        assert call(tmp_path) == 130
    assert "interrupted in first; the same command goes on there" in capfd.readouterr().err
    assert call(tmp_path, "--parts", "first") == 0
    assert log(tmp_path) == ["first"]


@pytest.mark.usefixtures("parts")
def test_two_runs_at_once_are_refused(tmp_path, capfd):
    with command._alone(tmp_path / "state" / "cpu-a-processor-2-cores") as alone:
        assert alone
        assert call(tmp_path) == 2
    assert "another run is under way" in capfd.readouterr().err
    assert not (tmp_path / "log").exists()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--parts", "fourth"], "no such part: fourth"), ([], "the package no-such-package is missing")],
)
def test_nothing_runs_where_something_is_missing(tmp_path, capfd, parts, arguments, said):
    parts.append(Part("last", "needs too much", (), packages=("no-such-package",)))
    assert call(tmp_path, *arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["make gpu: nothing was run.", f"  {said}"]
    assert not (tmp_path / "log").exists()


def test_the_end_of_a_job_stops_the_command_and_its_part(tmp_path):
    """A real process, ended by a scheduler's SIGTERM in the middle of a part."""
    code = f"""
import sys
from pathlib import Path
from gpu_run import command
from gpu_run.requirements import Device
from gpu_run.running import Part
sleeping = (sys.executable, "-c", "import time; open(r'{{folder}}/up', 'w'); time.sleep(60)")
command.dry_parts = lambda: [Part("sleep", "sleeps", (sleeping,))]
command.find_device = lambda environment: Device("A processor", False, None, "")
sys.exit(command.main(["--dry-run", "--state", r"{tmp_path}"]))
"""
    folder = tmp_path / "cpu-a-processor" / "sleep"
    with subprocess.Popen(python(code), env=environment(), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (folder / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted in sleep" in said
    assert not (folder / "outcome.json").exists()


def test_a_report_of_the_terminal_ends_with_goals_and_parts():
    text = "# Title\n\n## Parts\n\nrows\n\n## Goals\n\ngoals\n\n## Heads\n\n![a plot](plot.png)\nheads\n"
    assert command.ordered(text) == "# Title\n\n## Heads\n\nheads\n\n## Goals\n\ngoals\n\n## Parts\n\nrows"
