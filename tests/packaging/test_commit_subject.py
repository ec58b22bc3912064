"""The hook that checks the first line of a commit message."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("message", "code"),
    [(f"{'ü' * 72}\n\n{'b' * 100}\n", 0), (f"{'s' * 73}\n", 1), ("", 0)],
    ids=["72 and a long body", "73", "empty"],
)
def test_the_first_line_has_at_most_72_characters(tree: Path, tmp_path: Path, message: str, code: int):
    file = tmp_path / "message"
    file.write_text(message, encoding="utf-8")
    command = [sys.executable, str(tree / "tools" / "commit_subject.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("73 characters" in done.stderr) == bool(code)
