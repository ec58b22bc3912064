"""The experiments in configs/: complete, loadable, and labelled."""

import re
from pathlib import Path

import pytest
import yaml

from rst.cli.config import instantiate, parse_config, without_pretraining

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
LABELS = ("Data", "Command", "Hardware", "Expected")
DIFFERENCE = re.compile(r"^# Differs from (\S+) in: ((?:.*\n(?:#  +)?)+?)\n", re.MULTILINE)
TWINS = [(file, found) for file in FILES if (found := DIFFERENCE.search(file.read_text()))]


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
    assert built.trainer.max_epochs >= max(built.schedule.milestones, default=0)


def test_every_row_of_tables_2_and_9_has_its_file():
    """The loss of each, its auxiliary head, and what else is switched (ATSS half of table 2; table 9)."""
    rows = {}
    for file in (CONFIGS / "coco").glob("*atss*.yaml"):
        arguments = yaml.safe_load(file.read_text())["model"]["init_args"]
        switches = {key: arguments.get(key) for key in ("centerness", "score_weighting", "task_balance")}
        rows[(arguments["loss"], *switches.values())] = file
    none = (None, None, None)
    assert rows.keys() == {
        *((loss, *none) for loss in ("rank_sort", "average_precision", "alrp", "focal", "qfl")),
        ("focal", True, None, None),
        ("average_precision", True, None, None),
        ("rank_sort", None, False, 2.0),
        ("rank_sort", None, None, 2.0),
    }


def test_every_row_of_table_1_has_its_file():
    """Of Faster R-CNN with ResNet-50: the loss and the upsampling of the pyramid; samplers are table 10's."""
    rows = set()
    for file in (CONFIGS / "coco").glob("*faster_rcnn_r50*.yaml"):
        arguments = yaml.safe_load(file.read_text())["model"]["init_args"]
        if not any(key.endswith("_sampling") for key in arguments):
            rows.add((arguments["loss"], arguments["backbone"].get("fpn_upsampling", "nearest")))
    plain = {(loss, "nearest") for loss in ("rank_sort", "alrp", "cross_entropy", "cross_entropy_giou")}
    assert rows == plain | {("rank_sort", "carafe"), ("cross_entropy", "carafe")}


@pytest.mark.parametrize("file", sorted((CONFIGS / "coco").glob("*faster_rcnn_r50_fpn*1x*.yaml")), ids=name_of)
def test_a_row_of_table_1_has_all_its_numbers(file):
    """AP, AP50, AP75, oLRP and its three parts; a row of table 10 has AP and the negatives per positive."""
    header = " ".join(re.match(r"(?:#.*\n)+", file.read_text()).group().replace("#", "").split())
    if "sampled" in file.name:
        assert re.search(
            r"box AP [\d.]+ on val2017; negatives per positive \d+ in the RPN, \d+ in the R-CNN head", header
        )
    else:
        parts = r"oLRP [\d.]+ \(localisation [\d.]+, false positives [\d.]+, false negatives [\d.]+\)"
        assert re.search(rf"box AP [\d.]+ \(AP50 [\d.]+, AP75 [\d.]+\), {parts} on val2017", header)


def test_every_row_of_the_paa_half_of_table_2_has_its_file():
    rows = [
        yaml.safe_load(file.read_text())["model"]["init_args"]
        for file in (CONFIGS / "coco").glob("*paa_r50_fpn_1x*.yaml")
    ]
    assert sorted((row["loss"], row.get("iou_head", False)) for row in rows) == [
        ("alrp", False),
        ("average_precision", False),
        ("average_precision", True),
        ("focal", False),
        ("focal", True),
        ("qfl", False),
        ("rank_sort", False),
    ]


def test_every_row_of_table_6_has_its_file_and_its_recipe():
    """The loss, and which heuristics are left out; squares of 550 pixels, augmented as SSD has it, and a cosine."""
    rows = []
    for file in (CONFIGS / "coco").glob("*yolact_r50_fpn_55e*.yaml"):
        settings = yaml.safe_load(file.read_text())
        arguments, data, schedule = settings["model"]["init_args"], settings["data"], settings["schedule"]
        names = ("hard_negatives", "size_normalisation", "semantic_head")
        rows.append((arguments["loss"], tuple(name for name in names if name in arguments)))
        assert not any(arguments.get(name) for name in names)
        assert (data["short_sides"], data["keep_ratio"], arguments["image_side"]) == ([550], False, 550)
        assert (data["photometric"], data["expand"], data["iou_crop"], data["min_box_side"]) == (True, 4.0, True, 4.0)
        assert arguments["backbone"]["frozen_stages"] == -1
        assert settings["trainer"]["max_epochs"] == schedule.get("cosine_epochs", 55) == 55
    assert sorted(rows) == [
        ("cross_entropy", ()),
        ("cross_entropy", ("hard_negatives",)),
        ("cross_entropy", ("hard_negatives", "size_normalisation", "semantic_head")),
        ("cross_entropy", ("semantic_head",)),
        ("cross_entropy", ("size_normalisation",)),
        ("rank_sort", ()),
    ]


def test_every_row_of_table_7_has_its_file():
    """SOLOv2, light (ResNet-34) and full (ResNet-101): the loss, and what the paper and its code have for each."""
    rows = {}
    for file in (CONFIGS / "coco").glob("*solov2*.yaml"):
        settings = yaml.safe_load(file.read_text())
        model, lr = settings["model"]["init_args"], settings["optimizer"]["lr"]
        parts = (model["head_channels"], model["head_convolutions"], model["kernel_channels"])
        rows[(model["backbone"]["name"], model["loss"])] = (*parts, lr, model["detections"]["score_threshold"])
        assert settings["trainer"]["max_epochs"] == 36
        assert settings["data"]["masks"]
    assert rows == {
        ("resnet34", "rank_sort"): (256, 2, 128, 0.012, 0.2),
        ("resnet34", "focal"): (256, 2, 128, 0.02, 0.1),
        ("resnet101", "rank_sort"): (512, 4, 256, 0.006, 0.2),
        ("resnet101", "focal"): (512, 4, 256, 0.01, 0.1),
    }


def test_every_row_of_table_10_has_its_file():
    """Random or no samplers in the RPN and in the R-CNN head of RS R-CNN; by default it has none."""
    rows = set()
    for file in (CONFIGS / "coco").glob("rs_faster_rcnn_r50_fpn_1x*.yaml"):
        arguments = yaml.safe_load(file.read_text())["model"]["init_args"]
        rows.add(tuple(arguments.get(f"{head}_sampling", "all") for head in ("rpn", "roi")))
    assert rows == {("random", "random"), ("all", "random"), ("all", "all")}


def test_every_row_of_tables_4_5_8_and_of_the_cascade_has_its_file():
    """Detector and data, loss, mask scoring; backbone, deformable convolutions, CARAFE; epochs."""
    rows = set()
    for file in FILES:
        settings = yaml.safe_load(file.read_text())
        detector = settings["model"]["class_path"].removeprefix("rst.detectors.")
        if detector in ("mask_rcnn", "cascade_rcnn") and file.parent.name != "sample":
            arguments = settings["model"]["init_args"]
            backbone, scoring = arguments["backbone"], arguments.get("masks", {}).get("scoring", False)
            parts = backbone["name"], backbone.get("deformable", False), backbone.get("fpn_upsampling") == "carafe"
            key = (detector, file.parent.name, arguments["loss"], scoring)
            rows.add((*key, *parts, settings["trainer"]["max_epochs"]))
    plain, ranked = ("resnet50", False, False), ("mask_rcnn", "coco", "rank_sort", False)
    assert rows == {
        (*ranked, *plain, 12),
        ("mask_rcnn", "coco", "cross_entropy", False, *plain, 12),
        ("mask_rcnn", "coco", "cross_entropy", True, *plain, 12),
        (*ranked, "resnet50", False, True, 12),
        (*ranked, "resnet101", False, False, 36),
        (*ranked, "resnet101", False, True, 36),
        (*ranked, "resnet101", True, True, 36),
        (*ranked, "resnext101_64x4d", True, True, 36),
        ("mask_rcnn", "lvis", "rank_sort", False, *plain, 12),
        ("mask_rcnn", "lvis", "cross_entropy", False, *plain, 12),
        ("cascade_rcnn", "coco", "rank_sort", False, *plain, 12),
        ("cascade_rcnn", "coco", "cross_entropy", False, *plain, 12),
    }


def test_the_recipe_of_lvis():
    """1,203 classes, repeats as the published code counts them, six short sides, 300 detections (table 5)."""
    settings = yaml.safe_load((CONFIGS / "lvis/rs_mask_rcnn_r50_fpn_1x.yaml").read_text())
    data, model = settings["data"], settings["model"]["init_args"]
    assert (data["repeat_threshold"], data["repeat_rounding"], data["masks"]) == (0.001, "up", True)
    assert data["short_sides"] == list(range(640, 801, 32))
    assert (model["num_classes"], model["detections"]) == (1203, {"score_threshold": 0.6, "limit": 300})


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_its_header_is_a_label(file):
    header = re.match(r"(?:#.*\n)+", file.read_text()).group()
    for label in LABELS:
        assert re.search(rf"^# {label}  +\S", header, re.MULTILINE), f"{file}: no {label}"
    assert f"--config configs/{file.relative_to(CONFIGS)}" in header


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_it_is_listed_in_the_readme(file):
    assert f"({file.relative_to(CONFIGS)})" in (CONFIGS / "README.md").read_text()


def test_every_baseline_says_from_what_it_differs():
    with_difference = {file for file, _ in TWINS}
    assert {file for file in FILES if not file.name.startswith("rs_")} <= with_difference


@pytest.mark.parametrize(("variant", "difference"), TWINS, ids=name_of)
def test_a_variant_differs_only_in_what_its_header_says(variant, difference):
    files = (variant.parent / difference[1], variant)
    first, second = (dict(flat(yaml.safe_load(file.read_text()))) for file in files)
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    assert differing
    assert ("model.init_args.loss" in differing) == (not variant.name.startswith("rs_"))
    assert differing == {key for key in first.keys() | second.keys() if key in difference[2]}


@pytest.mark.parametrize("more", [{}, {"fpn_upsampling": "carafe"}], ids=["RS-R-CNN", "RS-R-CNN+"])
def test_the_papers_long_schedule(more):
    """36 epochs, a tenth after 27 and after 33, one of seven short sides an image; DCNv2 on ResNet-101 (table 3)."""
    name = f"rs_faster_rcnn_r101_dcn_fpn_{'carafe_' if more else ''}3x"
    settings = yaml.safe_load((CONFIGS / f"coco/{name}.yaml").read_text())
    assert (settings["trainer"]["max_epochs"], settings["schedule"]["milestones"]) == (36, [27, 33])
    assert (settings["data"]["short_sides"], settings["data"]["max_side"]) == (list(range(480, 961, 80)), 1333)
    backbone = settings["model"]["init_args"]["backbone"]
    assert backbone == {"name": "resnet101", "weights": "IMAGENET1K_V1", "deformable": True} | more


@pytest.mark.parametrize(
    ("name", "lr"), [("rs_faster_rcnn_r50_fpn_1x", 0.012), ("rs_atss_r50_fpn_1x", 0.008), ("rs_paa_r50_fpn_1x", 0.008)]
)
def test_the_papers_schedule(name, lr):
    """12 epochs of 16 images: the rate, 500 iterations of warm-up, a tenth after 8 and after 11 epochs (section 5)."""
    settings = yaml.safe_load((CONFIGS / "coco" / f"{name}.yaml").read_text())
    assert settings["trainer"]["devices"] * settings["data"]["images_per_batch"] == 16
    assert settings["optimizer"] == {"lr": lr, "momentum": 0.9, "weight_decay": 1e-4}
    assert settings["schedule"] == {
        "warmup_iterations": 500,
        "warmup_factor": 0.001,
        "milestones": [8, 11],
        "gamma": 0.1,
    }
    assert settings["trainer"]["max_epochs"] == 12
    assert (settings["data"]["short_sides"], settings["data"]["max_side"]) == ([800], 1333)
    assert settings["data"]["keep_empty"] is False
