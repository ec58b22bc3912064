"""The file of a study: the runs it stands for, and what is refused."""

from pathlib import Path

import pytest
import study_tool

from rst.cli.config import parse_config

plan = study_tool.load("plan")

STUDY = """
config: CONFIG
seeds: [0, 3]
settings: {trainer.max_epochs: 6, data.short_sides: [96], ema_decay: null}
grid: {optimizer.lr: [0.005, 0.01], model.init_args.delta: [0.5, null]}
variants:
  rank_sort:
  twin: {settings: {model.init_args.loss: cross_entropy, trainer.max_epochs: 3}}
"""


def test_each_seed_has_all_points_in_all_variants(tmp_path: Path):
    runs = plan.read_study(study_tool.write_study(tmp_path, STUDY), ["trainer.max_epochs=1", "trainer.accelerator=gpu"])
    assert len(runs) == 2 * 4 * 2
    assert [run.name for run in runs[:3]] == [
        "rank_sort lr=0.005 delta=0.5 seed 0",
        "twin lr=0.005 delta=0.5 seed 0",
        "rank_sort lr=0.005 delta=null seed 0",
    ]
    assert runs[-1].folder(tmp_path) == tmp_path / "twin" / "lr_0.01" / "delta_null" / "seed_3"
    assert runs[1].arguments == [
        *("--config", str(tmp_path / "config.yaml")),
        *("--trainer.max_epochs=1", "--data.short_sides=[96]", "--ema_decay=null"),
        *("--model.init_args.loss=cross_entropy", "--trainer.accelerator=gpu"),
        *("--optimizer.lr=0.005", "--model.init_args.delta=0.5", "--seed=0"),
    ]


def test_keys_with_the_same_last_word_keep_their_names(tmp_path: Path):
    text = "config: CONFIG\nseeds: [0]\ngrid: {a.lr: [1], b.lr: [2], c.d: [x/y]}\nvariants: {one: }\n"
    [run] = plan.read_study(study_tool.write_study(tmp_path, text))
    assert run.group == "one a.lr=1 b.lr=2 d=x/y"
    assert run.folder(Path()) == Path("one", "a.lr_1", "b.lr_2", "d_x_y", "seed_0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seeds:", "seed:"), "there is no key seed; the keys are"),
        (("config: CONFIG\n", ""), "variants.rank_sort.config: is missing"),
        (("CONFIG", "nowhere.yaml"), "there is no configuration nowhere.yaml"),
        (("[0, 3]", "[]"), "seeds: is missing or empty"),
        (("[0, 3]", "[0, 0]"), "seeds: must be different integers from 0"),
        (("[0, 3]", "[true]"), "seeds: must be different integers from 0"),
        (("[0, 3]", "3"), "seeds: must be a list, got 3"),
        (("[0.005, 0.01]", "0.005"), "grid.optimizer.lr: must be a list of different values, got 0.005"),
        (("[0.005, 0.01]", "[x/y, x y]"), "would have the same folder"),
        (("rank_sort:", "../rank_sort:"), "cannot be a folder's name"),
        (("{settings:", "{setting:"), "variants.twin: may have config and settings"),
        (("{model.init_args.loss: cross_entropy, ", "{optimizer.lr: 1, "), "optimizer.lr is in the grid already"),
        (("{trainer.max_epochs: 6", "{seed: 6"), "seed is no setting here"),
        (("variants:", "variants: ["), "is no YAML"),
        ((STUDY, "- config"), "must be a mapping with the keys"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, change: tuple[str, str], said: str):
    assert change[0] in STUDY
    file = study_tool.write_study(tmp_path, STUDY.replace(*change))
    with pytest.raises(ValueError, match=r"study\.yaml: ") as refused:
        plan.read_study(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("extra", ["trainer.devices", "=3", "optimizer.lr=0.1", "seed=3"])
def test_a_setting_of_the_command_line_is_checked_too(tmp_path: Path, extra: str):
    with pytest.raises(ValueError, match="--set"):
        plan.read_study(study_tool.write_study(tmp_path, STUDY), [extra])


@pytest.mark.parametrize("file", sorted((study_tool.TREE / "tools" / "studies").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_studies_of_the_tree_are_taken_by_rst_train(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(study_tool.TREE)
    runs = plan.read_study(file)
    for run in {run.group: run for run in runs}.values():
        _, settings = parse_config(run.arguments)
        assert settings.seed == run.seed
        assert all(settings.optimizer.lr == value for label, value in run.point if label == "lr")
