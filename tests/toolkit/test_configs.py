"""The experiments in configs/: complete, loadable, and labelled."""

import re
from pathlib import Path

import pytest
import yaml

from rst.cli.config import instantiate, parse_config, without_pretraining

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
LABELS = ("Data", "Command", "Hardware", "Expected")
TWINS = [(file.with_name(f"rs_{file.name}"), file) for file in FILES if not file.name.startswith("rs_")]


def name_of(value) -> str:
    return str(value.relative_to(CONFIGS)) if isinstance(value, Path) else ""


def flat(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_there_are_experiments():
    assert len(FILES) >= 4


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_its_keys_are_known_and_its_model_builds(file):
    parser, settings = parse_config([], file)
    built = instantiate(parser, without_pretraining(settings))
    assert built.model.num_classes == settings.model.init_args.num_classes
    assert built.trainer.max_epochs >= max(built.schedule.milestones)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_its_header_is_a_label(file):
    header = re.match(r"(?:#.*\n)+", file.read_text()).group()
    for label in LABELS:
        assert re.search(rf"^# {label}  +\S", header, re.MULTILINE), f"{file}: no {label}"
    assert f"--config configs/{file.relative_to(CONFIGS)}" in header


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_it_is_listed_in_the_readme(file):
    assert f"({file.relative_to(CONFIGS)})" in (CONFIGS / "README.md").read_text()


@pytest.mark.parametrize(("ranking", "baseline"), TWINS, ids=name_of)
def test_a_baseline_differs_only_in_what_its_header_says(ranking, baseline):
    first, second = (dict(flat(yaml.safe_load(file.read_text()))) for file in (ranking, baseline))
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    said = re.search(r"Differs from .* in: ((?:.*\n(?:#  +)?)+?)\n", baseline.read_text()).group(1)
    assert "model.init_args.loss" in differing
    assert differing == {key for key in first.keys() | second.keys() if key in said}


def test_the_papers_schedule():
    """12 epochs of 16 images: 0.012, 500 iterations of warm-up, a tenth after 8 and after 11 epochs (section 5)."""
    settings = yaml.safe_load((CONFIGS / "coco" / "rs_faster_rcnn_r50_fpn_1x.yaml").read_text())
    assert settings["trainer"]["devices"] * settings["data"]["images_per_batch"] == 16
    assert settings["optimizer"] == {"lr": 0.012, "momentum": 0.9, "weight_decay": 1e-4}
    assert settings["schedule"] == {
        "warmup_iterations": 500,
        "warmup_factor": 0.001,
        "milestones": [8, 11],
        "gamma": 0.1,
    }
    assert settings["trainer"]["max_epochs"] == 12
    assert (settings["data"]["short_sides"], settings["data"]["max_side"]) == ([800], 1333)
    assert settings["data"]["keep_empty"] is False
