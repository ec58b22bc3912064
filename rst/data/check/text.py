"""A report of a check as text for a terminal."""

from typing import Any

from rst.data.check.report import KINDS, Report
from rst.data.check.statistics import FEW

SIZES = {"small": " (below 32 x 32 pixels)", "medium": "", "large": " (above 96 x 96)"}

# What to do about errors, other than to correct the file, by the value of `rst.data.check.KINDS`.
REMEDIES = {
    "boxes": ", or train without them: --data.faulty_boxes leave_out",
    "shapes": ", or train without them: --data.faulty_boxes leave_out",
}


def describe(report: Report, show: int) -> list[str]:
    """The report for a terminal: what is in the data, the notes, the findings by kind, the verdict."""
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
    images, objects = statistics["images"], statistics["objects"]
    of_form = [f"{images[form]:,} {form}" for form in ("wide", "upright", "square") if images[form]]
    lines = [f"images     {images['count']:,}: {images['with_objects']:,} with objects"]
    if images["without_objects"]:
        lines[0] += f", {images['without_objects']:,} without"
    lines[0] += f"; {', '.join(of_form)}" if of_form else ""
    if images["median"]:
        sizes = {key: f"{images[key][1]}x{images[key][0]}" for key in ("smallest", "median", "largest")}
        named = [f"{key} {size}" for key, size in sizes.items()]
        same = len(set(sizes.values())) == 1
        lines.append(f"           width x height: {sizes['median'] if same else ', '.join(named)} pixels")
    sized = [f"{objects[size]:,} {size}{SIZES[size]}" for size in SIZES if objects[size]]
    ignored = objects["crowds_and_ignored"]
    lines.append(
        f"objects    {objects['count']:,}"
        + (f": {', '.join(sized)}" if sized else "")
        + (f"; {ignored:,} crowd or ignored" if ignored == 1 else f"; {ignored:,} crowds or ignored" if ignored else "")
    )
    if objects["count"] > 1:
        sides = objects["root_of_area_percentiles"]
        lines.append(
            f"           {objects['per_image_with_objects']:g} per image with objects, at most "
            f"{objects['most_in_an_image']}; side (root of the area): 5 % below {sides['5']:.0f}, half below "
            f"{sides['50']:.0f}, 95 % below {sides['95']:.0f} pixels"
        )
    lines += [*_describe_classes(statistics["classes"]), *_describe_positives(statistics.get("positives"))]
    if not statistics.get("anchors"):
        return lines
    from rst.data.check.reach_text import describe_reach  # the detector is there, and so is torch

    return [*lines, *describe_reach(statistics["anchors"])]


def _describe_classes(classes: dict[str, Any]) -> list[str]:
    count, half = classes["count"], classes["classes_with_half_of_the_objects"]
    entries = [entry for entry in classes["by_frequency"] if entry["objects"]]

    def named(some: list[dict[str, Any]]) -> str:
        return ", ".join(f"{entry['name']} {entry['objects']:,}" for entry in some)

    said = []
    if half and count > 1:
        said.append(f"{_of_classes(half, count)} half of the objects")
    for key, amount in (("with_few_objects", f"fewer than {FEW} objects"), ("without_objects", "no object")):
        if classes[key]:
            said.append(f"{_of_classes(classes[key], count)} {amount}")
    if len(entries) > 1:
        said.append(f"most to least {classes['most_to_least']:,}")
    lines = [f"classes    {count:,}" + (f": {'; '.join(said)}" if said else "")]
    if entries:
        shown = named(entries) if len(entries) <= 12 else f"{named(entries[:6])}, ..., {named(entries[-4:])}"
        lines.append(f"           {shown}")
    if "lvis_frequencies" in classes:
        counts = classes["lvis_frequencies"]
        lines.append(f"           LVIS: {counts['r']:,} rare, {counts['c']:,} common, {counts['f']:,} frequent")
    return lines


def _describe_positives(positives: dict[str, Any] | None) -> list[str]:
    if positives is None:
        return ["positives  not counted; with --config FILE the detector of that experiment counts its own"]
    if positives.get("picked_by_predictions"):
        return ["positives  not counted: this detector picks them by its predictions, which it has yet to learn"]
    looked_at = f"{_number(positives['images'], 'image')} with {_number(positives['objects'], 'object')}"
    lines = [f"positives  per image, of {looked_at}, at the size of the training:"]
    if not positives["heads"]:
        return ["positives  none to count: no head of the detector assigns anchors"]
    for head in positives["heads"].values():
        levels = ", ".join(f"{level} {mean:g}" for level, mean in head["per_image"].items()) or "none"
        share = 100 * head["share_of_objects_without"]
        lines.append(f"           {head['title']}: {levels}; {share:.1f} % of the objects have none")
    return lines


def _of_classes(some: int, count: int) -> str:
    return f"{some:,} of {count:,} classes {'has' if some == 1 < count else 'have'}"


def _number(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
