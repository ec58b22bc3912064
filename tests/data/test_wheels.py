"""Fetching pinned wheels: cache, damage, faults. pip is replaced by a function; nothing here uses the network."""

import hashlib
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rst.data.samples.wheels import FetchError, PinnedWheel, cache_folder, fetch

CONTENT = {"pkg/data/one.txt": b"first", "pkg/data/two.bin": b"second" * 1000}


class FakePip:
    """Stands for `subprocess.run`: drops a wheel into the --dest folder of the command."""

    def __init__(self, archive: Path, status: int = 0, words: str = ""):
        self.archive, self.status, self.words = archive, status, words
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.commands.append(list(command))
        if self.status == 0:
            destination = Path(command[command.index("--dest") + 1])
            (destination / self.archive.name).write_bytes(self.archive.read_bytes())
        return subprocess.CompletedProcess(command, self.status, "", self.words)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in (CONTENT | {"../escaped.txt": b"out", "pkg/code.py": b"never wanted"}).items():
            wheel.writestr(name, data)
    return path


@pytest.fixture
def wheel(archive: Path) -> PinnedWheel:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    return PinnedWheel("pkg==1.0", hashlib.sha256(archive.read_bytes()).hexdigest(), digests)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_wanted_members_arrive_and_the_second_time_nothing_is_run(tmp_path, archive, wheel):
    pip = FakePip(archive)
    paths = fetch(wheel, tmp_path / "cache", pip)
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        "one.txt": CONTENT["pkg/data/one.txt"],
        "two.bin": CONTENT["pkg/data/two.bin"],
    }
    assert set(files_in(tmp_path / "cache")) == {"pkg-1.0/one.txt", "pkg-1.0/two.bin"}
    assert not list(tmp_path.rglob("escaped.txt"))
    assert fetch(wheel, tmp_path / "cache", pip) == paths
    assert len(pip.commands) == 1
    assert pip.commands[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in pip.commands[0]
    assert pip.commands[0][-1] == "pkg==1.0"


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(b"firsT"), lambda p: p.unlink(), lambda p: p.write_bytes(b"")]
)
def test_a_damaged_or_missing_cached_file_is_fetched_again(tmp_path, archive, wheel, damage):
    pip = FakePip(archive)
    damage(fetch(wheel, tmp_path / "cache", pip)["one.txt"])
    assert fetch(wheel, tmp_path / "cache", pip)["one.txt"].read_bytes() == b"first"
    assert len(pip.commands) == 2


def test_a_wheel_with_another_digest_is_refused_and_nothing_is_kept(tmp_path, archive, wheel):
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(FetchError, match=rf"pinned is {wheel.sha256}; not used"):
        fetch(wheel, tmp_path / "cache", FakePip(archive))
    assert files_in(tmp_path / "cache") == {}
    assert list((tmp_path / "cache" / "pkg-1.0").iterdir()) == []


def test_a_member_with_another_digest_is_refused(tmp_path, archive, wheel):
    other = PinnedWheel(wheel.requirement, wheel.sha256, dict.fromkeys(wheel.members, "0" * 64))
    with pytest.raises(FetchError, match=r"pkg/data/one.txt has SHA-256 [0-9a-f]{64}, pinned is 0{64}"):
        fetch(other, tmp_path / "cache", FakePip(archive))
    assert files_in(tmp_path / "cache") == {}


def test_without_network_the_error_says_what_was_tried(tmp_path, archive, wheel):
    words = (
        "\n".join(f"WARNING: Retrying {n}" for n in range(20)) + "\nERROR: No matching distribution found for pkg==1.0"
    )
    with pytest.raises(FetchError) as raised:
        fetch(wheel, tmp_path / "cache", FakePip(archive, 1, words))
    message = str(raised.value)
    assert "-m pip download --no-deps" in message
    assert "pkg==1.0 is not in the cache" in message
    assert str(tmp_path / "cache" / "pkg-1.0") in message
    assert "pip ended with status 1" in message
    assert "ERROR: No matching distribution found for pkg==1.0" in message
    assert "RST_CACHE" in message
    assert "Retrying 3" not in message  # the end of pip's words is enough
    assert isinstance(raised.value, OSError)


def test_a_download_that_hangs_is_given_up(tmp_path, wheel):
    def hang(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        raise subprocess.TimeoutExpired(list(command), 900)

    with pytest.raises(FetchError, match=r"Gave up after 900 s"):
        fetch(wheel, tmp_path / "cache", hang)


def test_an_interrupted_download_leaves_no_trace(tmp_path, archive, wheel):
    def interrupted(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        FakePip(archive)(command)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(wheel, tmp_path / "cache", interrupted)
    assert files_in(tmp_path / "cache") == {}


def test_the_cache_folder_follows_argument_then_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("RST_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "rst"
    monkeypatch.setenv("RST_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("RST_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "rst"
