"""`rst data check`: what is wrong with a data set, before the GPU hours are spent."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help should not wait for torch
    from rst.data.check import Report

HELP = """\
usage: rst data check ANNOTATIONS IMAGES [--output FILE] [--masks] [--decode] [...]

Find everything that is wrong with a data set in COCO or LVIS form, in one pass, and say what is in it.

where:
  ANNOTATIONS          COCO or LVIS file (JSON)
  IMAGES               folder of its pictures, also as --images DIR; for LVIS the one that holds train2017 and val2017
  --classes-of FILE    another annotation file (the validation set's) that must have the same categories
  --output FILE        write all findings (file, id, value) and the statistics as JSON
  --show N             findings of each kind to print (default: 5)

judge for a training with:
  --masks              data.masks: true; faulty masks are errors then, warnings otherwise
  --faulty-boxes leave_out    data.faulty_boxes: leave_out; boxes without area or outside are warnings then

pictures:
  --decode             decode each picture whole: finds truncated files, takes minutes on a large set
  --no-headers         do not even look at the pictures' sizes

positives per pyramid level, estimated for:
  --short-side PX  --max-side PX    size of the pictures in training (default: 800, 1333)
  --anchor-scale X     side of a square anchor in strides (default: 8)

exit code: 1 if there are errors: training, or the evaluation after its first epoch, would refuse the data; 0 if there
are none, also with warnings; 2 for a mistake in the arguments.
  errors     malformed file, entry, box, area or LVIS entry; duplicate id; other classes; unknown image or category;
             missing or unreadable picture, or one of another size than annotated; box without area or outside the
             picture; with --masks also missing and malformed masks, and masks without area
  warnings   box beyond the border (it is clipped), mask and box that disagree, mask without pixels, area larger than
             the box, an object, picture or class name that occurs twice, contradictory LVIS lists, no objects at all

example:
  rst data check data/coco/annotations/instances_val2017.json data/coco/val2017 --output check.json
"""

# What there is to do about errors beside mending the file, by the value of `rst.data.check.KINDS`.
REMEDIES = {
    "boxes": ", or train without them: --data.faulty_boxes leave_out",
    "shapes": ", or train without them: --data.faulty_boxes leave_out",
}


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(
        prog="rst data check", usage=HELP.splitlines()[0][7:], add_help=False, allow_abbrev=False
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS")
    parser.add_argument("folder", type=Path, nargs="?", metavar="IMAGES")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--classes-of", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--show", type=int, default=5)
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--faulty-boxes", choices=["refuse", "leave_out"], default="refuse")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--no-headers", action="store_true")
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--max-side", type=int, default=1333)
    parser.add_argument("--anchor-scale", type=float, default=8.0)
    return _check(parser.parse_args(argv))


def _check(options: argparse.Namespace) -> int:
    import orjson

    from rst.data.check import check_annotations

    _refuse_mistakes(options)
    report = check_annotations(
        options.annotations,
        options.images or options.folder,
        classes_of=options.classes_of,
        masks=options.masks,
        leave_out=options.faulty_boxes == "leave_out",
        headers=not options.no_headers,
        decode=options.decode,
        track=_bar,
        short_side=options.short_side,
        max_side=options.max_side,
        anchor_scale=options.anchor_scale,
    )
    print("\n".join(describe(report, max(options.show, 0))))
    if options.output is not None:
        options.output.write_bytes(orjson.dumps(report.as_dict(), default=str, option=orjson.OPT_INDENT_2))
        print(f"rst: all findings and statistics: {options.output}")
    return 1 if report.of_level("error") else 0


def _refuse_mistakes(options: argparse.Namespace) -> None:
    mistake = None
    if (options.images is None) == (options.folder is None):
        mistake = "name the folder of the pictures once: rst data check ANNOTATIONS IMAGES"
    elif options.decode and options.no_headers:
        mistake = "--decode looks at all of each picture, --no-headers at none: give one of them"
    elif not 1 <= options.short_side <= options.max_side:
        mistake = f"--short-side must lie in [1, --max-side {options.max_side}], got {options.short_side}"
    elif not 0 < options.anchor_scale < math.inf:
        mistake = f"--anchor-scale must be positive, got {options.anchor_scale}"
    elif options.output is not None and not options.output.parent.is_dir():
        mistake = f"--output {options.output}: there is no folder {options.output.parent}"
    if mistake:
        from rst.training.errors import ConfigError  # takes seconds to import

        raise ConfigError(mistake)


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal, nothing elsewhere; without a total, the name alone."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]" if total else "{desc} ..."
    columns, rows = get_terminal_size()  # never 0, as which some terminals give their size: tqdm would show nothing
    options: dict[str, Any] = {"bar_format": layout, "ncols": columns, "nrows": rows, "leave": False, "disable": None}
    with tqdm(total=total or None, desc=name, file=sys.stderr, **options) as bar:
        yield bar.update


def describe(report: "Report", show: int) -> list[str]:
    """The report for a terminal: what is in the data, the notes, the findings by kind, the verdict."""
    from rst.data.check import KINDS

    lines = [f"{report.annotations} with {report.images}", ""]
    if report.statistics:
        lines += [*_describe_statistics(report.statistics), ""]
    if report.notes:
        lines += [*(f"note: {note}" for note in report.notes), ""]
    for kind, count in report.counts.items():
        remedy = REMEDIES.get(KINDS[kind], "") if report.level(kind) == "error" else ""
        lines.append(f"{report.level(kind)}: {kind} ({count:,}){remedy}")
        of_kind = [finding for finding in report.findings if finding.kind == kind]
        lines += [f"    {finding.message}" for finding in of_kind[:show]]
        if count > show:
            lines.append(f"    ... and {count - show:,} more (--show {count}, or --output FILE)")
    errors, warnings = len(report.of_level("error")), len(report.of_level("warning"))
    if not (errors or warnings):
        verdict = "no faults found"
    else:
        verdict = f"{_number(errors, 'error')}, {_number(warnings, 'warning')}: training " + (
            "would fail" if errors else "would work"
        )
    return [*lines, *([""] if report.findings else []), f"rst: {verdict}"]


def _describe_statistics(statistics: dict[str, Any]) -> list[str]:
    pictures, objects, classes = (statistics[key] for key in ("pictures", "objects", "classes"))
    lines = [
        f"pictures   {pictures['count']:,}: {pictures['with_objects']:,} with objects, "
        f"{pictures['without_objects']:,} without; {pictures['wide']:,} wide, {pictures['upright']:,} upright"
    ]
    if pictures["median"]:
        sizes = (f"{pictures[key][1]}x{pictures[key][0]}" for key in ("smallest", "median", "largest"))
        lines.append(
            "           width x height: "
            + ", ".join(f"{k} {v}" for k, v in zip(("least", "median", "most"), sizes, strict=True))
        )
    lines.append(
        f"objects    {objects['count']:,}: {objects['small']:,} small (below 32 x 32 pixels), {objects['medium']:,} "
        f"medium, {objects['large']:,} large (above 96 x 96); {objects['crowds_and_ignored']:,} crowds or ignored"
    )
    if objects["count"]:
        sides = objects["root_of_area_percentiles"]
        lines.append(
            f"           {objects['per_picture_with_objects']} in a picture that has any, at most "
            f"{objects['most_in_a_picture']}; side (root of the area): 5 % below {sides['5']:.0f}, half below "
            f"{sides['50']:.0f}, 95 % below {sides['95']:.0f} pixels"
        )
    lines += _describe_classes(classes)
    levels = statistics["levels"]
    lines.append(
        f"anchors    expected positives of the RPN per picture, at a short side of {levels['short_side']} pixels and "
        f"an anchor scale of {levels['anchor_scale']:g}:"
    )
    each = levels["positive_anchors_per_picture"]
    lines.append(
        "           " + ", ".join(f"{name} ({v['anchor_side']:g} px) {v['positives']:.1f}" for name, v in each.items())
    )
    if levels["share_of_objects_without"]:
        share = f"{100 * levels['share_of_objects_without']:.1f} %"
        lines.append(f"           {share} of the objects overlap no anchor by an IoU of 0.3: they have no positive")
    return lines


def _describe_classes(classes: dict[str, Any]) -> list[str]:
    entries = [entry for entry in classes["by_frequency"] if entry["objects"]]

    def named(some: list[dict[str, Any]]) -> str:
        return ", ".join(f"{entry['name']} {entry['objects']:,}" for entry in some)

    lines = [f"classes    {classes['count']:,}"]
    if entries:
        lines[0] += (
            f": half of the objects are of {_number(classes['classes_with_half_of_the_objects'], 'class', 'classes')}; "
            f"{classes['with_few_objects']:,} have fewer than 10 objects, {classes['without_objects']:,} none; "
            f"most to least {classes['most_to_least']:,}"
        )
        shown = named(entries) if len(entries) <= 12 else f"{named(entries[:6])}, ..., {named(entries[-4:])}"
        lines.append(f"           {shown}")
    if "lvis_frequencies" in classes:
        counts = classes["lvis_frequencies"]
        lines.append(f"           LVIS: {counts['r']:,} rare, {counts['c']:,} common, {counts['f']:,} frequent")
    return lines


def _number(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
