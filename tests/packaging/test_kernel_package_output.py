"""tools/kernel_package.py as a command: what it replaces, what it refuses, and that it leaves nothing half-written."""

import importlib.util
from pathlib import Path

import pytest
from kernel_packages import build, contents, fork_tree, run_script


@pytest.fixture
def fork(tree: Path, tmp_path: Path) -> Path:
    return fork_tree(tree, tmp_path / "fork")


def test_replaces_its_own_output(tree: Path, fork: Path, tmp_path: Path):
    output = build(tmp_path / "built", tree=tree)
    (output / "build" / "torch-cpu" / "__pycache__").mkdir()
    (fork / "kernels" / "extra.py").write_text("NEW = 1\n", encoding="utf-8")
    (fork / "kernels" / "places.py").unlink()
    build(output, tree=fork)
    assert (output / "build" / "torch-cpu" / "extra.py").is_file()
    assert list(output.rglob("places.py")) == list(output.rglob("__pycache__")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"built", "fork"}


def test_fills_an_empty_folder_and_makes_parents(tree: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert (build(tmp_path / "empty", tree=tree) / "build.toml").is_file()
    assert (build(tmp_path / "deep" / "er", tree=tree) / "build.toml").is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("out/thesis.tex", "years of work", "is not empty and was not written by this script"),
        ("out/build.toml", "[general]\nname = 'mine'\n", "is not empty and was not written by this script"),
        ("out", "a file", "is not a folder"),
    ],
)
def test_refuses_what_it_did_not_write(tree: Path, tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content, encoding="utf-8")
    before = contents(tmp_path)
    done = run_script("--output", tmp_path / "out", tree=tree)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--output {tmp_path / 'out'}: {message}" in done.stderr
    assert contents(tmp_path) == before


def test_refuses_to_drop_what_was_added_to_its_output(tree: Path, tmp_path: Path):
    (build(tmp_path / "out", tree=tree) / ".git").mkdir()
    done = run_script("--output", tmp_path / "out", tree=tree)
    assert done.returncode == 2
    assert "did not write (.git)" in done.stderr
    assert (tmp_path / "out" / ".git").is_dir()


@pytest.mark.parametrize(
    "repo_id", ["ranking-losses", "one/Ranking", "one/two/three", "one/ends-", "one/r", "a b/cd", "/x1"]
)
def test_refuses_a_repo_id_that_is_none(tree: Path, tmp_path: Path, repo_id: str):
    done = run_script("--output", tmp_path / "out", "--repo-id", repo_id, tree=tree)
    assert done.returncode == 2
    assert f"--repo-id {repo_id}: expected OWNER/NAME" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["no licence", "no public names"])
def test_a_fault_in_the_sources_leaves_the_last_package(tree: Path, fork: Path, tmp_path: Path, fault: str):
    before = contents(build(tmp_path / "out", tree=tree))
    if fault == "no licence":
        (fork / "LICENSE").unlink()
    else:
        (fork / "kernels" / "__init__.py").write_text("from .rank_sort import rank_sort\n", encoding="utf-8")
    done = run_script("--output", tmp_path / "out", tree=fork)
    assert done.returncode == 2
    assert ("LICENSE" if fault == "no licence" else "__all__") in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fork"}


def test_a_failed_replacement_puts_the_last_package_back(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = contents(build(tmp_path / "out", tree=tree))
    spec = importlib.util.spec_from_file_location("kernel_package", tree / "tools" / "kernel_package.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("disk on fire")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert script.main(["--output", str(tmp_path / "out"), "--repo-id", "one/other-name"]) == 2
    assert "disk on fire" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
