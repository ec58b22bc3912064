"""An output is never an input: every command, every way to name a file; and a written file is whole or as before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_detection import prepare_data, training_arguments

from rst.cli.main import main
from rst.cli.outputs import refuse_inputs
from rst.cli.predictions import GrowingFile
from rst.files import write_whole
from rst.training import ConfigError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def place(shapes: Path, tmp_path: Path) -> Path:
    """A folder with data/, results.json, run/ (metrics, settings and a file that looks like a checkpoint)."""
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "results.json").write_text("[]\n")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_text("weights\n")
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "metrics.csv").write_text("loss,step\n1.0,0\n0.5,1\n")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


ANNOTATIONS, IMAGES = "data/annotations/val.json", "data/val"
CHECK = f"data check {ANNOTATIONS} {IMAGES}"
SCORE = f"evaluate --detections results.json --annotations {ANNOTATIONS}"
SCORE_RUN = f"evaluate --checkpoint run --annotations {ANNOTATIONS} --images {IMAGES}"
REFUSED = [
    (f"{CHECK} --output {ANNOTATIONS}", ANNOTATIONS),
    (f"{CHECK} --output {IMAGES}/report.json", IMAGES),
    (f"{CHECK} --output {IMAGES}/000000.png", IMAGES),
    (f"{CHECK} --classes-of data/annotations/train.json --output data/annotations/train.json", "--classes-of"),
    (f"{CHECK} --config run/config.yaml --output run/config.yaml", "--config"),
    (f"{SCORE} --output results.json", "--detections"),
    (f"{SCORE} --output {ANNOTATIONS}", "--annotations"),
    (f"{SCORE_RUN} --output {IMAGES}", IMAGES),
    (f"{SCORE_RUN} --output {IMAGES}/scores", IMAGES),
    (f"{SCORE_RUN} --output scores --plots {IMAGES}", IMAGES),
    (f"{SCORE_RUN} --output run", "--checkpoint run"),
    (f"{SCORE_RUN} --output run/checkpoints", "the checkpoints"),
    (f"predict --checkpoint run {IMAGES} --output {IMAGES}", IMAGES),
    (f"predict --checkpoint run {IMAGES} --output {IMAGES}/drawings/of/today", IMAGES),
    (f"predict --checkpoint run data --output {IMAGES}", "data"),
    (f"predict --checkpoint run {IMAGES}/000000.png --output {IMAGES}", f"{IMAGES}/000000.png"),
    (f"predict --checkpoint run {IMAGES} --output run", "--checkpoint run"),
    ("plot run --output run/metrics.csv", "metrics.csv"),
    ("plot run --output run/config.yaml", "config.yaml"),
    ("plot run --output run/checkpoints/best.ckpt", "best.ckpt"),
    ("plot run --output run", "run"),
]


@pytest.mark.parametrize(("command", "named"), REFUSED, ids=[command for command, _ in REFUSED])
def test_an_output_that_is_an_input_is_refused(
    command: str, named: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = content(place)
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    option = "--plots" if "--plots" in command else "--output"
    assert f"{option} {command.split()[-1]}" in line
    assert named in line
    assert content(place) == before


def test_what_needs_the_settings_is_refused_before_anything_is_written(place: Path, capsys) -> None:
    data, before = place / "data", content(place)
    experiment = training_arguments(data, data / "train")[3:]  # without the command and its output
    config = place / "run" / "config.yaml"
    for command in (
        ["train", *experiment, "--output", f"{data / 'train' / 'run'}"],
        ["data", "show", "--config", f"{config}", "--output", f"{data / 'train'}", *experiment],
        ["data", "show", "--config", f"{config}", "--output", f"{data / 'val'}", *experiment],
    ):
        assert main(command) == 2
        assert "lies among the images of" in capsys.readouterr().err
    assert content(place) == before


def test_refusals_load_nothing_heavy(place: Path) -> None:
    light = [command.split() for command, _ in REFUSED]
    code = (
        "import json, sys; from rst.cli.main import main\n"
        "codes = {main(command) for command in json.loads(sys.argv[1])}\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if codes != {2} or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(light)], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["same.json", "./same.json", "below/../same.json", "absolute", "symbolic", "hard", "folder/same.json"]
)
def test_one_file_under_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("same.json").touch()
    Path("below").mkdir()
    Path("symbolic").symlink_to("same.json")
    os.link("same.json", "hard")
    Path("folder").symlink_to(".")
    output = tmp_path / "same.json" if name == "absolute" else Path(name)
    with pytest.raises(ConfigError, match=r"would replace --detections same\.json"):
        refuse_inputs("--output", output, files={"--detections": Path("same.json")})
    refuse_inputs("--output", Path("other.json"), files={"--detections": Path("same.json")})


def test_other_case_is_left_to_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "same.json").touch()
    other = tmp_path / "SAME.json"
    if other.exists():
        with pytest.raises(ConfigError, match="would replace"):
            refuse_inputs("--output", other, files={"A": tmp_path / "same.json"})
    else:
        refuse_inputs("--output", other, files={"A": tmp_path / "same.json"})


@pytest.mark.parametrize("name", ["photos", "photos/new/deep", "link", "link/new", "new/../photos/x", "photos/below"])
def test_nothing_is_written_below_a_searched_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/below").mkdir(parents=True)
    Path("link").symlink_to("photos")
    output = Path(name)
    with pytest.raises(ConfigError, match="lies in photos, which is searched for images"):
        refuse_inputs("--output", output, files={}, writes=[output / "a.png"], searched=[Path("photos")])
    for apart in ("photos_new", "new/photos", "."):
        output = Path(apart)
        refuse_inputs("--output", output, files={}, writes=[output / "a.png"], searched=[Path("photos")])


def test_the_folder_of_a_data_set_may_hold_results(tmp_path: Path) -> None:
    """LVIS's images are found from the folder that holds train2017/ and val2017/."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "1.JPG").touch()
    refuse_inputs("--output", tmp_path / "report.json", files={}, images=[tmp_path])
    with pytest.raises(ConfigError, match="lies among the images"):
        refuse_inputs("--output", tmp_path / "val2017" / "report.json", files={}, images=[tmp_path])


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "file.json", tmp_path / "link.json"
    link.symlink_to(file)
    write_whole(link, b"first")
    assert link.is_symlink()
    assert file.read_bytes() == b"first"
    longest = tmp_path / ("ä" * 125 + ".json")  # 255 bytes
    write_whole(longest, b"")
    longest.unlink()

    def full_disk(path: Path, data: bytes) -> int:
        with path.open("wb") as half:
            half.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(file, b"second")
    assert file.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == [file, link], "nothing half-written stays"


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no such device")
def test_a_device_is_written_to() -> None:
    code = "from pathlib import Path; from rst.files import write_whole; write_whole(Path('/dev/stdout'), b'ok')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"ok"


def test_a_file_of_many_entries_is_written_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, writes = [0.0], []

    def write(file: Path, content: bytes) -> None:
        writes.append(len(json.loads(content)))
        clock[0] += len(content) / 1000  # seconds

    monkeypatch.setattr("rst.cli.predictions.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("rst.cli.predictions.write_whole", write)
    file = GrowingFile(tmp_path / "file.json")
    for number in range(2000):
        file.add([{"number": number}])
        file.write()
        clock[0] += 1.0
    spent = clock[0] - 2000
    file.write(now=True)
    assert writes[-1] == 2000
    assert spent < 0.06 * clock[0]
