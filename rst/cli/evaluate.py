"""`rst evaluate`: score a checkpoint on a data set, or any tool's detections."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rst.cli.loading import load_training
from rst.cli.outputs import checkpoint_files, refuse_inputs
from rst.cli.parsers import command_parser, wants_help
from rst.files import write_whole
from rst.training.errors import ConfigError

if TYPE_CHECKING:  # --help should not wait for torch
    from rst.evaluation import Evaluation

FIGURES = ("precision_recall.png", "olrp.png")  # see `draw_evaluation`
MOST_CLASSES = 20  # in a table that was not asked for

DESCRIPTION = """\
Score detections of any tool, or a checkpoint, by the protocol of COCO or LVIS: average precision (AP, higher is
better) and oLRP (lower is better) with its parts, localisation, false positives and false negatives; in all, by size
and by class, with the score threshold that oLRP recommends for each class.

Detections are COCO results: a JSON list of {"image_id", "category_id", "score", "bbox" [x, y, width, height] in pixels
and / or "segmentation" as compressed run lengths}."""

EPILOG = """\
often overridden, with --checkpoint:
  --data.images_per_batch N  --data.workers N  --data.test_short_side PIXELS
  --trainer.devices N  --trainer.accelerator cpu   (default: one device, a GPU if there is one)

examples:
  rst evaluate --detections results.json --annotations instances_val2017.json --output metrics.json
  rst evaluate --checkpoint runs/trees/checkpoints/best.ckpt
"""


def main(argv: list[str]) -> int:
    parser = command_parser(
        "evaluate",
        "--detections FILE --annotations FILE [--output FILE.json] [OPTION ...]\n"
        "--checkpoint FILE [--annotations FILE --images DIR] [--output DIR] [OPTION ...] [--KEY VALUE ...]",
        DESCRIPTION,
        EPILOG,
    )
    what = parser.add_argument_group("what is scored, one of").add_mutually_exclusive_group(required=True)
    what.add_argument("--detections", type=Path, metavar="FILE", help="COCO results of any tool")
    what.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a checkpoint, or the folder of a run (its best checkpoint)"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO or LVIS annotations (default with --checkpoint: the validation set of the run)",
    )
    parser.add_argument(
        "--iou-type",
        choices=("bbox", "segm"),
        help="what is compared: bbox, boxes, or segm, masks (default: boxes, or what the checkpoint's detector is for)",
    )
    parser.add_argument(
        "--protocol",
        choices=("auto", "coco", "lvis"),
        default="auto",
        help="auto is lvis if the annotations name frequencies and absent categories (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="with --detections a JSON file for every number, those of each class too (default: none); with "
        "--checkpoint a folder for detections.json, metrics.json and the plots (default: evaluation/ in the run)",
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="DIR",
        help="draw precision_recall.png and olrp.png (LRP error against the score threshold)",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help=f"print the table of classes however many there are (default: up to {MOST_CLASSES})",
    )
    only = parser.add_argument_group("with --checkpoint only")
    only.add_argument("--images", type=Path, metavar="DIR", help="the images of --annotations")
    only.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the model's and data's settings (default: those stored with the checkpoint)",
    )
    if wants_help(parser, argv):
        return 2
    options, overrides = parser.parse_known_args(argv)
    if options.checkpoint is not None:
        return _evaluate_checkpoint(options, overrides)
    return _evaluate_detections(options, overrides)


def _evaluate_detections(options: argparse.Namespace, overrides: list[str]) -> int:
    from rst.evaluation import evaluate

    given = [f"--{name}" for name in ("images", "config") if getattr(options, name) is not None]
    if given or overrides:
        raise ConfigError(f"{' '.join([*given, *overrides])}: belongs to --checkpoint, not to --detections")
    if options.annotations is None:
        raise ConfigError("--detections needs --annotations: the ground truth that they are compared with")
    target = options.output
    if target is not None and (target.is_dir() or not target.suffix):
        target = target / "metrics.json"
    files = {"--detections": options.detections, "--annotations": options.annotations}
    if target is not None:
        refuse_inputs("--output", options.output, files=files, writes=[target] if target != options.output else ())
    if options.plots is not None:
        refuse_inputs("--plots", options.plots, files=files, writes=[options.plots / name for name in FIGURES])
    evaluation = evaluate(options.annotations, options.detections, options.iou_type or "bbox", options.protocol)
    _print(evaluation, options.per_class, target)
    if target is not None:
        _write(evaluation, target)
    if options.plots is not None:
        _draw(evaluation, options.plots)
    return 0


def _evaluate_checkpoint(options: argparse.Namespace, overrides: list[str]) -> int:
    if (options.annotations is None) != (options.images is None):
        raise ConfigError("--annotations and --images belong together: give both or neither")
    _refuse_inputs(options, options.annotations, options.images)
    load_training()
    from rst.cli.config import check_trainer
    from rst.cli.trained import load_trained
    from rst.evaluation import evaluate
    from rst.evaluation.report import format_threshold
    from rst.evaluation.truth import read_ground_truth
    from rst.training import DetectionTraining
    from rst.training.callbacks import progress_bar
    from rst.training.options import make_trainer
    from rst.training.run import silence_lightning

    if options.annotations is not None:
        overrides += ["--data.val_annotations", str(options.annotations), "--data.val_images", str(options.images)]
    # All data on one device of this machine, whatever the training used, unless the command line says otherwise.
    defaults = ["accelerator=auto", "devices=1", "num_nodes=1", "strategy=auto", "limit_val_batches=null"]
    overrides = [*(f"--trainer.{default}" for default in defaults), *overrides]
    trained = load_trained(options.checkpoint, options.config, overrides, [*vars(options)])
    check_trainer(trained.settings)
    data = trained.settings.data
    output = options.output or trained.run / "evaluation"
    _refuse_inputs(argparse.Namespace(**vars(options) | {"output": output}), *data.val_files)
    data.setup("validate")
    annotations = data.val_files[0]
    if trained.class_names and data.class_names != trained.class_names:
        raise ConfigError(
            f"{annotations}: its categories ({', '.join(data.class_names[:8])}) are not those of {trained.file} "
            f"({', '.join(trained.class_names[:8])})"
        )
    # Without annotations the module gathers the detections of all processes; they are scored below.
    module = DetectionTraining(trained.model, class_names=data.class_names, category_ids=data.category_ids)
    iou_type = options.iou_type or module.iou_types[0]
    if iou_type == "segm" and iou_type not in module.iou_types:
        raise ConfigError(
            f"--iou-type segm: {type(trained.model).__name__} of {trained.file} makes no masks, only boxes"
        )
    read_ground_truth(annotations, iou_type, options.protocol)  # its faults are told before the detector works
    silence_lightning()
    chosen = ("accelerator", "strategy", "devices", "num_nodes", "precision", "limit_val_batches")
    trainer = make_trainer(
        **{key: trained.settings.trainer[key] for key in chosen},
        logger=False,
        callbacks=[progress_bar()],
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "detections.json", json.dumps(module.results).encode())
        evaluation = evaluate(annotations, module.results, iou_type, options.protocol)
        _print(evaluation, options.per_class, output / "metrics.json")
        _write(evaluation, output / "metrics.json")
        _draw(evaluation, options.plots or output)
        if evaluation.threshold is not None:
            threshold = format_threshold(evaluation.threshold)
            print(
                f"rst: to use that threshold: rst predict --checkpoint {options.checkpoint} --threshold {threshold} ..."
            )
    return 0


def _refuse_inputs(options: argparse.Namespace, annotations: Path | None, images: Path | None) -> None:
    """Refuse outputs of a checkpoint's evaluation that are inputs, or among the images."""
    files = checkpoint_files(options.checkpoint) | {"--config": options.config, "the annotations": annotations}
    for option, names in (("output", ("detections.json", "metrics.json", *FIGURES)), ("plots", FIGURES)):
        folder = getattr(options, option)
        if folder is not None:
            writes = [folder / name for name in names]
            refuse_inputs(f"--{option}", folder, files=files, writes=writes, images=[images])


def _print(evaluation: "Evaluation", per_class: bool, target: Path | None) -> None:
    from rst.evaluation import report

    print(report.headline(evaluation))
    print(report.format_table(evaluation.metrics))
    shown = per_class or len(evaluation.classes) <= MOST_CLASSES
    if shown:
        print(f"\n{report.format_classes(evaluation)}")
    print()
    for note in report.notes(evaluation):
        print(f"rst: note: {note}")
    if evaluation.threshold is not None:
        where = "in the table" if shown else f"in {target}" if target else "with --per-class or in --output FILE.json"
        of_each = (
            f" where one must serve all classes; one for each class {where}" if len(evaluation.classes) > 1 else ""
        )
        print(f"rst: score threshold that oLRP recommends: {report.format_threshold(evaluation.threshold)}{of_each}")


def _write(evaluation: "Evaluation", target: Path) -> None:
    from rst.evaluation import report

    target.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = report.as_json(evaluation)
    write_whole(target, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    print(f"rst: every number, those of each class too: {target}")


def _draw(evaluation: "Evaluation", folder: Path) -> None:
    from rst.evaluation.fonts import font_note
    from rst.evaluation.plots import draw_evaluation

    files = draw_evaluation(evaluation, folder)
    if note := font_note([entry["name"] for entry in evaluation.classes]):
        print(f"rst: note: {note}")
    print(f"rst: plots: {', '.join(map(str, files))}" if files else "rst: no plots: there is no object to detect")
