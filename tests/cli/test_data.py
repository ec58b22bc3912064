"""`rst data`: what it makes, prints and refuses."""

import inspect
import subprocess

import pytest

from rst.cli.data import main
from rst.data import DataError
from rst.data.samples import shapes, trees


def test_shapes_are_made_and_counted(tmp_path, capsys):
    assert main(["shapes", "--output", str(tmp_path / "set"), "--train", "4", "--val", "2", "--side", "64"]) == 0
    assert len(list((tmp_path / "set/train").iterdir())) == 4
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'set/train'}: 4 images, " in printed
    assert f"{tmp_path / 'set/val'}: 2 images, " in printed


@pytest.mark.parametrize(("name", "prepare"), [("trees", trees.prepare), ("shapes", shapes.prepare)])
def test_options_and_their_defaults_are_those_of_the_function(monkeypatch, tmp_path, name, prepare):
    given = {}
    monkeypatch.setattr(f"rst.data.samples.{name}.prepare", lambda **arguments: given.update(arguments) or {})
    main([name, "--output", str(tmp_path)])
    parameters = inspect.signature(prepare).parameters
    defaults = {key: parameters[key].default for key in given if key != "output"}
    assert given == {"output": tmp_path} | defaults
    assert set(parameters) - set(given) <= {"cache", "run"}


def test_trees_passes_its_options_on(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr("rst.data.samples.trees.prepare", lambda **arguments: given.update(arguments) or {})
    options = ["--tile", "320", "--overlap", "0", "--validation-share", "0.5", "--cache", str(tmp_path / "cache")]
    main(["trees", "--output", str(tmp_path), *options])
    assert given == {
        "output": tmp_path, "tile": 320, "overlap": 0, "validation_share": 0.5, "cache": tmp_path / "cache"
    }  # fmt: skip


def test_without_network_and_cache_the_error_reaches_the_caller(monkeypatch, tmp_path):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: Could not find a version")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(
        OSError, match=r"deepforest==2.1.0 is not in the cache .*\n(.*\n)*  ERROR: Could not find a version"
    ):
        main(["trees", "--output", str(tmp_path / "trees"), "--cache", str(tmp_path / "cache")])
    assert not (tmp_path / "trees").exists()


def test_faults_are_raised_for_the_dispatcher(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DataError, match=r"is not empty"):
        main(["shapes", "--output", str(tmp_path)])
    with pytest.raises(ValueError, match=r"side must be at least 64 pixels, got 8"):
        main(["shapes", "--output", str(tmp_path / "set"), "--side", "8"])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file"):
        main(["shapes", "--output", str(tmp_path / "file" / "set"), "--train", "1", "--val", "1", "--side", "64"])


@pytest.mark.parametrize("arguments", [[], ["trees"], ["shapes", "--output"], ["cats", "--output", "x"]])
def test_mistakes_in_the_arguments_end_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: rst data" in capsys.readouterr().err
