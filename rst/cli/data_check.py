"""`rst data check`: what is wrong with a data set, before the GPU hours are spent."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rst.cli.outputs import refuse_inputs
from rst.cli.parsers import command_parser, wants_help
from rst.cli.progress import bar
from rst.training.errors import ConfigError

EPILOG = """\
exit code: 1 if there are errors: training, or the evaluation after its first epoch, would refuse the data; 0 if there
are none, also with warnings; 2 for a mistake in the arguments.
  errors     malformed file, entry, box, area or LVIS entry; duplicate id; other classes; unknown image or category;
             missing or unreadable image file, or one of another size than annotated; box without area or outside the
             image; no object to learn from; with --masks also missing and malformed masks, and masks without area
  warnings   box beyond the border (it is clipped), mask and box that disagree, mask without pixels, area larger than
             the box, an object, image or class name that occurs twice, contradictory LVIS lists, crowds, annotation
             id 0, images that EXIF says to turn, if they are not turned or their size fits both ways; with --config
             also classes of which more than a quarter of the objects has no anchor, or no positives

examples:
  rst data check data/coco/annotations/instances_val2017.json data/coco/val2017 --output check.json
  rst data check my/train.json my/train --config configs/coco/rs_faster_rcnn_r50_fpn_1x.yaml --model.num_classes 3
"""


def main(argv: list[str]) -> int:
    parser = command_parser(
        "data check",
        "ANNOTATIONS IMAGES [--output FILE] [--masks] [--decode] [--config FILE] [...]",
        "Find everything that is wrong with a data set in COCO or LVIS form, in one pass, and say what is in it.",
        EPILOG,
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="COCO or LVIS file (JSON)")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="IMAGES",
        help="folder of its images, also as --images DIR; for LVIS the one that holds train2017 and val2017",
    )
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--classes-of",
        type=Path,
        metavar="FILE",
        help="another annotation file (the validation set's) that must have the same categories",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write all findings (file, id, value) and the statistics as JSON"
    )
    parser.add_argument(
        "--show", type=int, default=5, metavar="N", help="findings of each kind to print (default: %(default)s)"
    )
    training = parser.add_argument_group("judge for a training with")
    training.add_argument(
        "--masks",
        action="store_true",
        help="data.masks: true; faulty masks are errors then, warnings otherwise. With --config this and the next four "
        "are as the experiment has them",
    )
    training.add_argument(
        "--faulty-boxes",
        choices=["refuse", "leave_out"],
        default=argparse.SUPPRESS,
        help="data.faulty_boxes; with leave_out, boxes without area or outside the image are warnings",
    )
    training.add_argument(
        "--file-names",
        choices=["exact", "forgiving"],
        default=argparse.SUPPRESS,
        help="data.file_names; forgiving finds images whose names are only written in another way",
    )
    training.add_argument(
        "--exif",
        choices=["upright", "stored"],
        default=argparse.SUPPRESS,
        help="data.exif; which way up an image is read whose EXIF says to turn it and whose size fits both ways",
    )
    training.add_argument(
        "--max-pixels",
        type=_pixels,
        default=argparse.SUPPRESS,
        metavar="N",
        help="data.max_pixels; images with more are errors (null: none is)",
    )
    images = parser.add_argument_group("images")
    images.add_argument(
        "--decode",
        action="store_true",
        help="decode each image whole: finds truncated files, takes minutes on a large set",
    )
    images.add_argument("--no-headers", action="store_true", help="do not even look at the sizes of the images")
    positives = parser.add_argument_group("positives and anchors")
    positives.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the experiment; at the training's size its detector counts its positives on a sample of the images, and "
        "the objects of each class that its anchors reach; overrides follow as --KEY VALUE",
    )
    if wants_help(parser, argv):
        return 2
    options, overrides = parser.parse_known_args(argv)
    if overrides and options.config is None:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    return _check(options, overrides)


def _check(options: argparse.Namespace, overrides: list[str]) -> int:
    import orjson

    from rst.data.check import check_annotations
    from rst.data.check.text import describe
    from rst.files import write_whole

    _refuse_mistakes(options)
    report = check_annotations(
        options.annotations,
        options.images or options.folder,
        classes_of=options.classes_of,
        headers=not options.no_headers,
        decode=options.decode,
        track=bar,
        **_settings(options, overrides),
    )
    print("\n".join(describe(report, max(options.show, 0))))
    if options.output is not None:
        write_whole(options.output, orjson.dumps(report.as_dict(), default=str, option=orjson.OPT_INDENT_2))
        print(f"rst: all findings and statistics: {options.output}")
    return 1 if report.of_level("error") else 0


def _settings(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """How files are read, and with --config the experiment's way to, its model and transforms."""
    from rst.data.images import Decoding

    given = {key: getattr(options, key) for key in ("exif", "max_pixels") if hasattr(options, key)}
    names = {"file_names": options.file_names} if hasattr(options, "file_names") else {}
    if options.config is None:
        leave_out = getattr(options, "faulty_boxes", None) == "leave_out"
        return {"masks": options.masks, "leave_out": leave_out, "decoding": Decoding(**given), **names}

    from rst.cli.config import build_experiment
    from rst.cli.masks import check_masks

    built = build_experiment(overrides, options.config, [*vars(options)])
    if not hasattr(built.model, "positives"):
        name = type(built.model).__name__
        raise ConfigError(f"--config {options.config}: {name} assigns no anchors: nothing to count")
    check_masks(built.model, built.data)
    return {
        "masks": options.masks or built.data.masks,
        "model": built.model,
        "transforms": built.data.train_transforms,
        "leave_out": getattr(options, "faulty_boxes", built.data.faulty_boxes) == "leave_out",
        "min_box_side": built.data.min_box_side,
        "decoding": replace(built.data.decoding, **given),
        "file_names": built.data.file_names,
        **names,
    }


def _pixels(text: str) -> int | None:
    """A number of pixels, or None for "null"."""
    if text == "null":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of pixels, or null, got {text!r}")
    return int(text)


def _refuse_mistakes(options: argparse.Namespace) -> None:
    mistake = None
    if (options.images is None) == (options.folder is None):
        mistake = "name the folder of the images once: rst data check ANNOTATIONS IMAGES"
    elif options.decode and options.no_headers:
        mistake = "--decode looks at all of each image, --no-headers at none: give one of them"
    elif options.output is not None and not options.output.parent.is_dir():
        mistake = f"--output {options.output}: there is no folder {options.output.parent}"
    if mistake:
        raise ConfigError(mistake)
    if options.output is not None:
        files = {"ANNOTATIONS": options.annotations, "--classes-of": options.classes_of, "--config": options.config}
        refuse_inputs("--output", options.output, files=files, images=[options.images or options.folder])
