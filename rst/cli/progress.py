"""Progress of a command: a bar on a terminal, little or nothing in a file or pipe."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import Any

LINES_EVERY = 60  # seconds, in a file or pipe


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal, nothing in a file or pipe; without a total, only the name.

    Gives a function to call with the number of parts done since the last call.
    """
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]" if total else "{desc} ..."
    columns, rows = get_terminal_size()  # never 0: some terminals say 0, and tqdm would show nothing
    options: dict[str, Any] = {"bar_format": layout, "ncols": columns, "nrows": rows, "leave": False, "disable": None}
    with tqdm(total=total or None, desc=name, file=sys.stderr, **options) as shown:
        yield shown.update


@contextmanager
def bar_or_lines(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """The same for a command that may take hours: a line a minute in a file or pipe."""
    with bar(name, total) as advance:
        if sys.stderr.isatty():
            yield advance
            return
        done, last = 0, time.monotonic()

        def count(parts: int) -> None:
            nonlocal done, last
            done += parts
            if time.monotonic() - last >= LINES_EVERY:
                last = time.monotonic()
                print(f"rst: {name}: {done} of {total}", file=sys.stderr, flush=True)

        yield count
