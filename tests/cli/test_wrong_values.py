"""A wrong value or key of any setting: the message names key and value, and says what would be valid."""

import inspect
import re
import sys
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from tiny_detection import prepare_data, training_arguments

from rst.cli.config import build_parser, instantiate, parse_config
from rst.cli.main import main
from rst.cli.mistakes import summarise
from rst.cli.model_arguments import arguments, groups, never_null
from rst.training import ConfigError

DETECTORS = ["faster_rcnn", "mask_rcnn", "cascade_rcnn", "atss"]
MODELS = [*(f"rst.detectors.{name}" for name in DETECTORS), "passing_detector.fine_faster_rcnn"]
OPTIONAL = {  # of all two-stage detectors; wrong values and what would be right
    "delta": ("foo", "float or null"),
    "sorting_error": ("foo", "bool or null"),
    "score_weighting": ("1.5", "bool or null"),
    "task_balance": ("foo", "one of 'value', 'magnitude' or float or null"),
    "self_balance_window": ("1.5", "int or null"),
    "truths_in_box_loss": ("foo", "bool or null"),
    "rpn_sampling": ("foo", "one of 'random', 'all' or null"),
    "roi_sampling": ("[all]", "one of 'random', 'all' or null"),
    "loss": ("foo", "one of 'rank_sort', 'alrp', 'cross_entropy', 'cross_entropy_giou'"),
    "anchor_ratios": ("foo", "a list"),
    "backbone.fpn_upsampling": ("foo", "one of 'nearest', 'bilinear', 'carafe'"),
    "backbone.deformable": ("foo", "bool"),
    "masks.limit": ("foo", "int or null"),
    "detections.limit": ("foo", "int"),
}
TEXTS = {"backbone.name", "backbone.weights"}  # any text is one; the constructor knows which there are


@pytest.fixture(scope="module")
def parser():
    return build_parser()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data") / "shapes")


def said(parser: Any, *options: str) -> str:
    """What is said of options; "" if nothing is, but for the settings that are missing here."""
    try:
        parser.parse_args(list(options))
    except ArgumentError as error:
        message = summarise(str(error), [*parser.get_defaults().keys()])
        return "" if message.startswith("missing: ") else message
    return ""


def written(tmp_path: Any, path: str, key: str, value: Any) -> str:
    """A configuration file in which the model has the value, as an option."""
    for part in reversed(key.split(".")):
        value = {part: value}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"model": {"class_path": path, "init_args": value}}))
    return f"--config={tmp_path / 'mine.yaml'}"


def shown(value: str) -> str:
    """A value as the message has it."""
    return str(yaml.safe_load(value))


@pytest.mark.parametrize("path", [f"rst.detectors.{name}" for name in DETECTORS[:3]] + MODELS[-1:])
def test_optional_values_and_those_of_a_list_of_names(parser, tmp_path, path):
    for key, (value, valid) in OPTIONAL.items():
        expected = f"model.{key}: expected {valid}, got {shown(value)}"
        assert said(parser, "--model", path, f"--model.{key}={value}") == expected
        assert said(parser, written(tmp_path, path, key, yaml.safe_load(value))) == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, "foo") for path in (*MODELS, "rst.detectors.solov2")),
        (MODELS[0], '[{"a": 1}]'),
        (MODELS[-1], '{"a": 1}'),
    ],
)
def test_every_argument_of_every_detector(parser, tmp_path, path, value):
    """Each names its key and the value, in a line; what takes any text is refused by the constructor."""
    silent = set()
    for key in arguments(path):
        for options in (
            ["--model", path, f"--model.{key}={value}"],
            [written(tmp_path, path, key, yaml.safe_load(value))],
        ):
            message = said(parser, *options)
            check_message(message, f"model.{key}", shown(value))
            silent |= {key} if not message else set()
    left = set(groups(path)) if value.startswith("[") else set()  # refused when the model is made, see below
    assert silent <= TEXTS | left


def check_message(message: str, key: str, value: str) -> None:
    """One short line with the key and, beside a fault of a value, the value and what would be valid."""
    assert "\n" not in message
    assert len(message) < 300, message
    assert not re.search(r"class_path|Parser key|<class|typing\.|NestedArg|NoneType", message), message
    if message.startswith("unknown key "):
        assert key in message
    elif message:
        assert message.startswith(f"{key}: "), message
        inside = value.strip("[]")  # of a list its element may be named
        assert message.endswith((f", got {value}", f", got {inside}")), message
        assert re.search(r": (expected .+|has keys of its own \(.+\)|must be .+), got ", message), message


@pytest.mark.parametrize("value", ["foo", '[{"a": 1}]'])
def test_every_setting_outside_the_model(parser, tmp_path, value):
    keys = [key for key, _ in parser.get_defaults().items() if key != "config" and not key.startswith("model")]
    silent = set()
    for key in keys:
        message = said(parser, f"--{key}={value}")
        if "did you mean" not in message:  # Lightning's names are checked behind the parser
            check_message(message, key, shown(value))
        silent |= {key} if not message else set()
    names = {key.rpartition(".")[2] for key in silent if key.startswith("trainer.")}
    hints = inspect.signature(Trainer).parameters
    for name in names - {"precision"}:
        assert re.search(r"str|Any|Accelerator|Strategy|Logger|Profiler|timedelta", str(hints[name].annotation)), name
    own = {key for key in silent if not key.startswith("trainer.")}
    texts = {f"data.{part}_{kind}" for part in ("train", "val") for kind in ("annotations", "images")}
    assert own <= texts | {"checkpoints.monitor"}


@pytest.mark.parametrize("path", MODELS[1:])
def test_unknown_keys_of_what_is_passed_on(parser, path):
    own = "octave_base_scale" if path.endswith("atss") else "roi_sampling"
    message = said(parser, "--model", path, f"--model.{own[:-1]}=3")
    assert message == f"unknown key model.{own[:-1]} of {path} (did you mean {own}?)"
    message = said(parser, "--model", path, "--model.backbone.fpn_channel=3")
    assert message == f"unknown key model.backbone.fpn_channel of {path} (did you mean backbone.fpn_channels?)"


def test_what_is_passed_on_is_known_like_an_argument_of_its_own():
    direct, passing = (set(arguments(path)) for path in ("rst.detectors.faster_rcnn", MODELS[-1]))
    assert passing == direct - {"anchor_scale"} | {"finest"}
    assert groups(MODELS[-1]) == groups("rst.detectors.faster_rcnn")
    assert {"masks.limit", "masks"}.isdisjoint(never_null("rst.detectors.faster_rcnn"))
    assert {"masks", "num_classes", "backbone", "backbone.name"} <= set(never_null("rst.detectors.mask_rcnn"))


def test_without_the_resolver_the_own_arguments_are_known(monkeypatch):
    expected = arguments("rst.detectors.atss"), groups("rst.detectors.atss"), never_null("rst.detectors.atss")
    monkeypatch.setitem(sys.modules, "jsonargparse._parameter_resolvers", None)
    path = "rst.detectors.atss"
    assert (arguments(path), groups(path), never_null(path)) == expected
    assert "settings" not in arguments(MODELS[-1])


@pytest.mark.parametrize("value", ["null", "[1]", "3"])
def test_settings_of_a_detector_that_passes_on_are_no_values(data, tmp_path, value):
    options = training_arguments(data, tmp_path / "run")[3:]
    path = ["--model", "rst.detectors.mask_rcnn", "--model.num_classes", "6"]
    with pytest.raises(ConfigError, match=r"model.masks: has keys of its own \(masks.channels, .*got "):
        instantiate(*parse_config([*options, *path, f"--model.masks={value}"]))


def test_the_command_line_ends_with_code_2_and_one_line(data, tmp_path, capsys):
    options = training_arguments(data, tmp_path / "run", "--model", "rst.detectors.mask_rcnn", "--model.delta", "foo")
    assert main(options) == 2
    assert capsys.readouterr().err == "rst: command line: model.delta: expected float or null, got foo\n"
    assert not (tmp_path / "run").exists()
