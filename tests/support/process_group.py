"""Runs a script of this folder as the processes of a group: python SCRIPT RANK COUNT FOLDER, one for each rank."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 240


@contextmanager
def process_group(script: str | None, count: int, folder: Path) -> Iterator[None]:
    """The processes run beside the body, and have ended well after it."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(count), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    try:
        yield
        for process in processes:
            _, complaint = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, complaint.decode()
    finally:
        for process in processes:
            process.kill()
