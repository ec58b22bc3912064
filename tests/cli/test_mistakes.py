"""Mistakes in a configuration, by kind: odd files, odd values for every key, options of the trainer, other names."""

import inspect

import pytest
from tiny_detection import CLASSES, prepare_data, training_arguments

from rst.cli.config import build_parser, check_trainer, dump_config, instantiate, parse_config
from rst.cli.main import main
from rst.cli.mistakes import _with_sections
from rst.cli.model_arguments import arguments as arguments_of
from rst.cli.suggestions import OTHER_NAMES, OTHER_OPTIONS, nearest
from rst.training import ConfigError

ATSS = ["--model", "rst.detectors.atss", "--model.num_classes", str(CLASSES), "--model.backbone.name", "mobilenet_v2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def arguments(data, tmp_path):
    return training_arguments(data, tmp_path / "run")[3:]


def complaint(capsys, arguments, code=2):
    assert main([str(argument) for argument in arguments]) == code
    message = capsys.readouterr().err
    assert message.startswith("rst: ")
    assert len(message.splitlines()) == 1, message
    return message.removeprefix("rst: ").strip()


# Content of a file -> what is said of it.
FILES = {
    "nothing": ("", "is empty; a configuration has sections: model, data, "),
    "a remark": ("# to be done\n", "is empty; "),
    "a list": ("- optimizer\n- data\n", "holds a list; a configuration has sections: "),
    "a number": ("42\n", "holds the single value '42'; "),
    "a text": ("train me\n", "holds the single value 'train me'; "),
    "a key twice": ("seed: 1\nema_decay: 0.5\nseed: 2\n", "key seed is given twice, in lines 1 and 3"),
    "a key twice below": ("optimizer:\n  lr: 1\n  lr: 2\n", "key lr is given twice, in lines 2 and 3"),
    "a tab": ("optimizer:\n\tlr: 0.1\n", "broken YAML at line 2, column 1: a tab where YAML wants blanks"),
    "brackets": ("trainer: {max_epochs: 1\n", "broken YAML at line 2, column 1: "),
    "two documents": ("seed: 1\n---\nseed: 2\n", "broken YAML at line 2"),
    "code": ("seed: !!python/object/apply:os.getcwd []\n", "broken YAML at line 1, column 7"),
    "a date": ("seed: 2020-99-99\n", "cannot be read as YAML: month must be in 1..12"),
    "numbers as keys": ("1: 2\n", "key 1 is no text; "),
    "an empty section": ("optimizer:\n", "section optimizer is empty"),
    "a section of a list": ("optimizer: [1]\n", "section optimizer must hold keys and values, is [1]"),
    "a section of a number": ("data: 3\n", "section data must hold keys and values, is 3"),
    "a model that is a number": ("model: 3\n", "model: "),
    "a key of a section": ("optimizer: {lrr: 1}\n", "unknown key optimizer.lrr (did you mean optimizer.lr?)"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("more", [(), ("--print_config",)], ids=["train", "print"])
def test_an_odd_file_is_described(arguments, tmp_path, capsys, kind, more):
    content, words = FILES[kind]
    (tmp_path / "mine.yaml").write_text(content)
    message = complaint(capsys, ["train", "--config", tmp_path / "mine.yaml", *arguments, *more])
    assert message.startswith(f"{tmp_path}/mine.yaml: {words}")


def test_a_file_that_is_no_text_and_one_that_is_a_folder(arguments, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_bytes("seed: 1 # é".encode("latin-1"))
    assert "is not a text file in UTF-8" in complaint(capsys, ["train", "--config", tmp_path / "mine.yaml"])
    assert f"{tmp_path}: is a folder" in complaint(capsys, ["train", "--config", tmp_path])


# Options -> what is said of them.
TRAINER = {
    "devices=gpu": "trainer.devices: must be a number of devices from 1, a list of their numbers, or auto, got gpu",
    "devices=0": "trainer.devices: must be",
    "devices=-3": "trainer.devices: must be",
    "devices=1.5": "trainer.devices: must be",
    "devices=[a]": "trainer.devices: ",
    "max_epochs=0": "trainer.max_epochs: must be at least 1, or -1 for no end, got 0",
    "max_epochs=-5": "trainer.max_epochs: must be at least 1",
    "max_epochs=1.5": "trainer.max_epochs: expected int or null, got 1.5",
    "max_steps=0": "trainer.max_steps: must be at least 1",
    "num_nodes=0": "trainer.num_nodes: must be at least 1, got 0",
    "accumulate_grad_batches=0": "trainer.accumulate_grad_batches: must be at least 1",
    "check_val_every_n_epoch=0": "trainer.check_val_every_n_epoch: must be at least 1",
    "gradient_clip_val=-1": "trainer.gradient_clip_val: must be a number above 0",
    "limit_train_batches=0": "trainer.limit_train_batches: must be a number of batches from 1",
    "limit_train_batches=2.5": "trainer.limit_train_batches: must be a number of batches from 1",
    "limit_val_batches=-1": "trainer.limit_val_batches: must be",
    "val_check_interval=0": "trainer.val_check_interval: must be",
    "fast_dev_run=true": "trainer.fast_dev_run: is not supported: ",
    "overfit_batches=1": "trainer.overfit_batches: is not supported: ",
    "strategy=ddp_notebook": "trainer.strategy: ddp_notebook does not work from a command line; take ddp, or auto",
    "strategy=ddp_fork": "trainer.strategy: ddp_fork does not work from a command line",
    "strategy=ddp_spawn_find_unused_parameters_true": "trainer.strategy: ddp_spawn",
    "strategy=dpd": "trainer.strategy: there is no dpd (did you mean ddp?)",
    "accelerator=gpux": "trainer: You selected an invalid accelerator",
    "profiler=quick": "trainer: When passing string value for the `profiler`",
    "max_time=soon": "`Timer(duration='soon')` is not a valid duration",
    **{
        f"precision={name}": f"trainer.precision: must be 32-true, bf16-mixed or 16-mixed, got {name}"
        for name in (
            "bf16-true",
            "16-true",
            "64-true",
            "64",
            "transformer-engine",
            "transformer-engine-float16",
            "fp16",
        )
    },
}


@pytest.mark.parametrize("option", TRAINER)
def test_options_that_cannot_work_are_refused_in_a_line(arguments, tmp_path, capsys, option):
    message = complaint(capsys, ["train", "--output", tmp_path / "run", *arguments, f"--trainer.{option}"])
    assert TRAINER[option] in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("given", "named"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("16", "16-mixed")])
def test_a_precision_is_on_record_by_its_full_name(arguments, given, named):
    parser, settings = parse_config([*arguments, "--trainer.precision", given])
    check_trainer(settings)
    assert f"precision: {named}\n" in dump_config(parser, settings)


def test_every_key_names_itself_when_its_value_is_odd(arguments):
    """A walk over all settings: what is no value of any of them is refused by key, in one line."""
    keys = [key for key, _ in build_parser().get_defaults().items() if key != "config"]
    keys += [f"model.{key}" for key in arguments_of("rst.detectors.atss")]
    texts = {"checkpoints.monitor", "trainer.precision", "model.backbone.name", "model.backbone.weights"}
    texts |= {f"data.{split}_{kind}" for split in ("train", "val") for kind in ("annotations", "images")}
    said = {key: _refusal([*arguments, *ATSS, f'--{key}=[{{"a": 1}}]']) for key in keys}
    silent = {key for key, message in said.items() if not message}
    groups = {"model.backbone", "model.detections"}  # refused below
    # read by Lightning, which has texts of its own
    read = "accelerator strategy devices logger model_registry gradient_clip_algorithm max_time profiler"
    assert silent <= texts | groups | {f"trainer.{name}" for name in read.split()}
    for key in keys:
        message = said[key]
        assert key in silent or (message.startswith("command line: ") and key in message), message
        assert "\n" not in message
        assert len(message) < 500


def _refusal(arguments: list[str]) -> str:
    try:
        parse_config(arguments)
    except ConfigError as error:
        return str(error)
    return ""


def test_every_argument_of_a_model_refuses_null_by_name_if_it_must_have_a_value(arguments):
    from rst.detectors import atss

    parameters = inspect.signature(atss).parameters
    for key in arguments_of("rst.detectors.atss"):
        name = key.partition(".")[0]
        nullable = parameters[name].default is None or key == "backbone.weights"
        parser, settings = parse_config([*arguments, *ATSS])
        settings.model.init_args[key] = None
        if nullable:
            continue
        with pytest.raises(ConfigError, match=rf"model.{key}: (must not be null|has keys of its own .*, got null)"):
            instantiate(parser, settings)


@pytest.mark.parametrize("value", ["null", "[1]", "3", "resnet18"])
def test_settings_inside_a_model_are_no_values(arguments, value):
    with pytest.raises(ConfigError, match=r"model.backbone: has keys of its own \(backbone.name, .*got "):
        instantiate(*parse_config([*arguments, *ATSS, f"--model.backbone={value}"]))


def test_what_a_constructor_stumbles_over_is_one_line(arguments, tmp_path, capsys):
    command = ["train", "--output", tmp_path / "run", *arguments]
    message = complaint(capsys, [*command, *ATSS, "--model.backbone.fpn_channels=-1"])
    assert message.startswith("backbone.fpn_channels=-1 is not at least 1")
    linear = ["--model=torch.nn.Linear", "--model.in_features=-1", "--model.out_features=1"]
    message = complaint(capsys, [*command, *linear])
    assert message.startswith("torch.nn.Linear cannot be made of these settings: RuntimeError: ")


def test_weights_that_cannot_be_fetched_are_one_line_without_a_traceback(arguments, tmp_path, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("<urlopen error no route>")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    command = ["train", "--output", tmp_path / "run", *arguments, *ATSS, "--model.backbone.weights=IMAGENET1K_V1"]
    message = complaint(capsys, command, code=1)
    assert message.startswith("weights='IMAGENET1K_V1' of mobilenet_v2 could not be downloaded (<urlopen error")
    assert message.endswith("give a state-dict file instead")


def test_printing_the_configuration_is_what_the_run_would_record(arguments, tmp_path, capsys):
    assert main(["train", *arguments, "--output", str(tmp_path / "run"), "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert printed == dump_config(*parse_config(arguments))
    assert not (tmp_path / "run").exists()
    for place in (0, len(arguments)):
        command = ["train", *arguments[:place], "--print_config", *arguments[place:], "--optimizer.lrr", "1"]
        assert "unknown key optimizer.lrr" in complaint(capsys, command)


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("data.batch_size", "data.images_per_batch"),
        ("batch-size", "data.images_per_batch"),
        ("learning_rate", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("epochs", "trainer.max_epochs"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("trainer.gpus", "trainer.devices"),
        ("data.num_workers", "data.workers"),
        ("schedule.warmup", "schedule.warmup_iterations"),
        ("checkpoint.monitor", "checkpoints.monitor"),
        ("optimiser", "optimizer"),
        ("data.mask", "data.masks"),
        ("foo.bar", None),
        ("model.pretrained", None),
        ("optimizer.nesterov", None),
    ],
)
def test_the_key_that_was_meant(unknown, meant):
    keys = _with_sections([key for key, _ in build_parser().get_defaults().items()])
    assert nearest(unknown, keys) == meant


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("score-threshold", "--threshold"),
        ("conf", "--threshold"),
        ("treshold", "--threshold"),
        ("batch", "--batch-size"),
        ("gpus", "--device"),
        ("nms", "--model.detections.nms_iou"),
        ("centernes", "--model.centerness"),
        ("data.exiff", "--data.exif"),
        ("foo", None),
    ],
)
def test_the_option_of_a_command_that_was_meant(tree, unknown, meant):
    """A command's own options, then the keys of its run, those of the model too."""
    options = ["checkpoint", "output", "config", "threshold", "format", "annotations", "device", "batch_size"]
    with pytest.raises(ConfigError) as refusal:
        parse_config([f"--{unknown}", "1"], tree / "configs/sample/rs_atss_mobilenetv2.yaml", options)
    suggested = f" (did you mean {meant.removeprefix('--')}?)" if meant else ""
    assert str(refusal.value) == f"command line: unknown key {unknown}{suggested}"


@pytest.mark.parametrize(("unknown", "meant"), [("ckpt", "resume"), ("outdir", "output"), ("work_dir", "output")])
def test_the_option_of_a_training_that_was_meant(tree, unknown, meant):
    with pytest.raises(ConfigError, match=rf"unknown key {unknown} \(did you mean {meant}\?\)"):
        parse_config([f"--{unknown}", "1"], tree / "configs/sample/rs_atss_mobilenetv2.yaml")


def test_names_of_others_stand_for_one_key_that_exists():
    own = [*arguments_of("rst.detectors.atss"), "output", "resume"]
    assert OTHER_NAMES.keys() <= {*own, *(key for key, _ in build_parser().get_defaults().items())}
    for others in (OTHER_NAMES, OTHER_OPTIONS):
        names = " ".join(others.values()).split()
        assert len(names) == len(set(names)), "a name stands for one key"
