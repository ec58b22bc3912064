"""The command line as a person meets it: help, mistakes, exit codes."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from jsonargparse import ArgumentError
from tiny_detection import prepare_data, training_arguments

from rst.cli.config import build_parser, parse_config
from rst.cli.main import COMMANDS, main
from rst.cli.mistakes import summarise


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


def complaint(capsys, arguments, code=2):
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.startswith("rst: ")
    return captured.err.removeprefix("rst: ").strip()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "check"], ["data", "show"]])
def test_help_fits_a_screen_or_two_and_shows_how(capsys, command):
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: rst {' '.join(command)}")
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from rst.cli.main import main\n"
        "for command in ('', 'train', 'evaluate', 'predict', 'plot', 'data check', 'data show'):\n"
        "    main([*command.split(), '--help'])\n"
        "sys.exit(bool({'torch', 'lightning', 'jsonargparse', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_mistake_does_not_wait_for_torch(tmp_path):
    none = tmp_path / "none"
    commands = [
        ["data", "check", str(none), str(none)],
        ["evaluate", "--detections", str(none), "--annotations", str(none)],
        ["predict", "--checkpoint", str(none), str(none), "--output", str(tmp_path / "out")],
        ["plot", str(none)],
    ]
    code = (
        "import sys; from rst.cli.main import main\n"
        f"codes = {{main(command) for command in {commands!r}}}\n"
        "sys.exit(codes != {2} or bool({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def test_every_setting_is_listed_on_demand(capsys):
    assert main(["train", "--help-all"]) == 0
    text = capsys.readouterr().out
    for option in ("--optimizer.lr", "--data.short_sides", "--trainer.devices", "--trainer.limit_train_batches"):
        assert option in text


def test_no_arguments_are_a_mistake(capsys):
    assert main([]) == 2
    assert "usage: rst COMMAND" in capsys.readouterr().out
    assert main(["train"]) == 2


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rst 0.")


def test_unknown_command(capsys):
    assert "no such command: tarin (did you mean train?)" in complaint(capsys, ["tarin"])


MISTAKES = {
    "misspelt override": ("--optimizer.lrr=1", "command line: unknown key optimizer.lrr (did you mean optimizer.lr?)"),
    "misspelt section": ("--optimiser.lr=1", "command line: unknown key optimiser.lr (did you mean optimizer.lr?)"),
    "misspelt model key": (
        "--model.num_clases=1",
        "command line: unknown key model.num_clases of tiny_detection.tiny_detector (did you mean num_classes?)",
    ),
    "misspelt option": ("--ouput=x", "unknown key ouput (did you mean output?)"),
    "abbreviated key": ("--trainer.max_epoch=1", "(did you mean trainer.max_epochs?)"),
    "wrong type": ("--optimizer.lr=fast", "command line: optimizer.lr: expected float, got fast"),
    "wrong type in the model": ("--model.num_classes=many", "model.num_classes: expected int, got many"),
    "wrong number of classes": ("--model.num_classes=3", "model.num_classes is 3, but the annotations have 6"),
    "no such model": ("--model=nowhere.net", "model.class_path: cannot use nowhere.net: No module named 'nowhere'"),
    "a value the model refuses": ("--model.weights=w.pt", "weights='w.pt' are not there"),
    "a value the schedule refuses": ("--schedule.milestones=[9,8]", "milestones must ascend, got [9.0, 8.0]"),
    "an average without decay": ("--ema_decay=1.5", "ema_decay must lie between 0 and 1 or be null, got 1.5"),
    "no such annotations": ("--data.train_annotations=none.json", "none.json: no such file"),
    "no such configuration": ("--config=none.yaml", "none.yaml: no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(data, tmp_path, capsys, mistake):
    override, message = MISTAKES[mistake]
    assert message in complaint(capsys, training_arguments(data, tmp_path / "run", override))
    assert not (tmp_path / "run").exists(), "a refused run leaves no folder that would stand in its own way"


def test_a_mistake_in_a_file_is_named_with_the_file(data, tmp_path, capsys):
    for name, content, message in [
        ("key.yaml", "optimizer: {lrr: 1}", "unknown key optimizer.lrr (did you mean optimizer.lr?)"),
        ("section.yaml", "schedul: {gamma: 1}", "unknown key schedul.gamma (did you mean schedule.gamma?)"),
        ("type.yaml", "trainer: {max_epochs: some}", "trainer.max_epochs: expected int or null, got some"),
        ("syntax.yaml", "trainer: {max_epochs: 1\noptimizer: x:", "broken YAML at line 2, column 10: expected"),
        (
            "model.yaml",
            "model: {class_path: tiny_detection.tiny_detector, init_args: {num_clases: 1}}",
            "unknown key model.num_clases of tiny_detection.tiny_detector (did you mean num_classes?)",
        ),
    ]:
        (tmp_path / name).write_text(content)
        text = complaint(capsys, training_arguments(data, tmp_path / "run", "--config", str(tmp_path / name)))
        assert text.startswith(f"{tmp_path / name}: "), text
        assert message in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--model.backbone.nam=x",
            "unknown key model.backbone.nam of rst.detectors.atss (did you mean backbone.name?)",
        ),
        ("--model.score_threshold=0.1", "unknown key model.score_threshold of rst.detectors.atss (did you mean detec"),
        (
            "--model.backbone=resnet18",
            "model.backbone: has keys of its own (backbone.name, backbone.weights, backbone.",
        ),
        ("--model.backbone.name=vgg", "backbone.name='vgg' is not one of resnet18, resnet34"),
        ("--model.detections.limit=many", "model.detections.limit: expected int, got many"),
    ],
)
def test_a_mistake_in_the_settings_inside_a_model(data, tmp_path, capsys, override, message):
    model = ("--model", "rst.detectors.atss", "--model.num_classes", "6")
    assert message in complaint(capsys, training_arguments(data, tmp_path / "run", *model, override))


def test_null_in_the_settings_inside_a_model(tree):
    config = tree / "configs/sample/rs_faster_rcnn_mobilenetv2.yaml"
    _, settings = parse_config(["--model.backbone.weights", "null", "--model.delta", "null"], config)
    assert settings.model.init_args.backbone.weights is None
    assert settings.model.init_args.backbone.name == "mobilenet_v2"
    assert settings.model.init_args.delta is None


def test_whole_batches_are_not_taken_for_shares(data, tmp_path, capsys):
    assert main(training_arguments(data, tmp_path, "--trainer.limit_train_batches", "1", "--print_config")) == 0
    assert "limit_train_batches: 1\n" in capsys.readouterr().out


def test_a_run_is_named_after_its_configuration(data, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("trainer: {max_epochs: 1, limit_val_batches: 0}")
    monkeypatch.chdir(tmp_path)
    arguments = training_arguments(data, tmp_path)
    arguments = [arguments[0], "--config", "mine.yaml", *arguments[3:], "--trainer.max_epochs", "1"]
    assert main(arguments) == 0
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "runs" / "mine" / "checkpoints" / "best.ckpt").exists(), "nothing was validated"


def test_a_device_that_is_not_there_is_a_mistake(data, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "gpu" in complaint(capsys, training_arguments(data, tmp_path / "run", "--trainer.accelerator=gpu")).lower()


def test_what_lies_in_the_way_is_not_overwritten(data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    message = complaint(capsys, training_arguments(data, tmp_path / "run"))
    assert f"{tmp_path / 'run'} is not empty" in message
    assert "--resume" in message
    assert "is a file" in complaint(capsys, training_arguments(data, tmp_path / "run" / "notes.txt"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_stops_an_epoch_is_named(data, tmp_path, capsys, workers):
    broken = shutil.copytree(data, tmp_path / "broken")
    image = sorted((broken / "train").iterdir())[0]
    image.write_bytes(image.read_bytes()[:300])
    message = complaint(capsys, training_arguments(broken, tmp_path / "run", f"--data.workers={workers}"))
    assert message.startswith(f"{image}: ")
    assert len(message.splitlines()) == 1


def test_resume_wants_a_run(tmp_path, capsys):
    assert "no such run or checkpoint" in complaint(capsys, ["train", "--resume", tmp_path / "none"])
    assert "last.ckpt: no such checkpoint" in complaint(capsys, ["train", "--resume", tmp_path])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    assert "config.yaml: no such file" in complaint(capsys, ["train", "--resume", tmp_path])
    (tmp_path / "config.yaml").touch()
    assert "last.ckpt: not a readable checkpoint" in complaint(capsys, ["train", "--resume", tmp_path])
    both = ["train", "--resume", tmp_path, "--config", "other.yaml"]
    assert "leave --config and --output out" in complaint(capsys, both)


def test_debug_shows_where(data, tmp_path, capsys):
    assert main([*training_arguments(data, tmp_path / "run", "--optimizer.lrr", "1"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_message_that_is_not_understood_is_passed_on():
    assert summarise("Something\n  entirely   new", []) == "Something entirely   new"


# The sentences of jsonargparse that `summarise` reads; each is made by the installed version. A new version that words
# them otherwise fails here.
SENTENCES = {
    "--optimiser.lr=1": r"unrecognized arguments: --optimiser\.lr",
    "--config={optimizer: {lrr: 1}}": r"Group 'optimizer' does not accept option 'lrr'",
    "--config={schedul: {gamma: 1}}": r"Option 'schedul(\.gamma)?' is not accepted",
    "--optimizer.lr=fast": r'Parser key "optimizer\.lr".*Expected a .*float.*Got value: fast',
    "--model=nowhere.net": r"(?s)Parser key \"model\".*class_path 'nowhere\.net'.*No module named 'nowhere'",
    "--config=none.yaml": r"File does not exist: '.*none\.yaml'",
}


@pytest.mark.parametrize("argument", SENTENCES)
def test_jsonargparse_words_its_mistakes_as_we_read_them(argument):
    with pytest.raises(ArgumentError) as raised:
        build_parser().parse_args([argument])
    assert re.search(SENTENCES[argument], str(raised.value), re.DOTALL), str(raised.value)


def test_training_says_at_once_that_it_loads(monkeypatch, capsys):
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rst.cli.train.load_training", stop)
    assert main(["train", "--config", "any.yaml"]) == 130
    assert capsys.readouterr().out == "rst: loading torch and Lightning\n"
    assert main(["train", "--config", "any.yaml", "--print_config"]) == 130
    assert capsys.readouterr().out == "", "of a configuration alone"
