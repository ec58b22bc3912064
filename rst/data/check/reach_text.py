"""What the anchors of a detector reach, as text for a terminal."""

from typing import Any

MOST_ROWS = 12  # classes with a row of their own; where there are more, as in LVIS,
WORST_ROWS = 5  # so many that are missed most have one
NAMED = 3  # classes named in a warning
INDENT = 8 * " "


def describe_reach(reach: dict[str, Any]) -> list[str]:
    """For each head a table: of all objects, and of each class, the shares by the IoU with the best anchor."""
    lines = []
    for head in reach["heads"].values():
        name = head["title"] + (f" at a scale of {head['scale']:g}" if head["scale"] else "")
        if head["by"] == "iou":
            lines.append(f"anchors    {name}; {_objects(reach)}; the IoU of their best anchor:")
            columns = {"iou_0.5": ">= 0.5", "iou_0.3": ">= 0.3", "none": "none"}
        else:
            lines.append(f"anchors    {name}; objects of {head['images']:,} images without positives:")
            columns = {"none": "none"}
        lines.append(INDENT + "".join(f"{title:>10}" for title in columns.values()))
        classes = head["classes"]
        shown = classes if len(classes) <= MOST_ROWS else classes[:WORST_ROWS]
        for entry in [head, *shown] if len(classes) > 1 else shown:
            shares = "".join(f"{_percent(entry[key]):>10}" for key in columns)
            lines.append(f"{INDENT}{shares}   {entry.get('name', 'all classes')}")
        if len(shown) < len(classes):
            most = _percent(max(entry["none"] for entry in classes[len(shown) :]))
            lines.append(f"{INDENT}   {len(classes) - len(shown):,} more classes: none, at most {most}")
    return lines


def warn_of_reach(reach: dict[str, Any]) -> list[tuple[str, str]]:
    """For each head that misses classes: what it misses; and what is set, with what would serve."""
    said = []
    for head in reach["heads"].values():
        missed = [entry for entry in head["classes"] if entry["missed"]]
        if not missed:
            continue
        lack = "no anchor with an IoU of 0.3 or more" if head["by"] == "iou" else "no positives"
        names = ", ".join(f"{entry['name']} {_percent(entry['none'])}" for entry in missed[:NAMED])
        names += f" and {len(missed) - NAMED:,} more classes" * (len(missed) > NAMED)
        said.append((f"in the {head['title']} many objects have {lack}: {names}", _advise(head)))
    return said


def _advise(head: dict[str, Any]) -> str:
    """What is set, and what would serve."""
    remedy = head["remedy"]
    now = {head["scale_key"]: head["scale"]} if head["scale"] else {}
    if remedy is None:
        none = "no other scale, further ratio or larger image alone serves them"
        return "; ".join([*_settings(now), none if head["by"] == "iou" else "rst data show draws their positives"])
    given = " ".join(
        f"--{key} {_value(value)}" if key else f"a scale of {_value(value)}"
        for key, value in remedy["settings"].items()
    )
    set_now = ", ".join(_settings(now | remedy["now"]))
    return f"{set_now}; with {given} {_percent(remedy['none'])} of these objects would have none"


def _settings(settings: dict[str, Any]) -> list[str]:
    return [f"{key or 'the scale of the anchors'} is {_value(value)}" for key, value in settings.items()]


def _objects(reach: dict[str, Any]) -> str:
    sides, total, looked_at = reach["short_sides"], reach["objects"], reach["looked_at"]
    drawn = f"{looked_at:,} drawn of " * (looked_at < total)
    size = f"at a short side of {sides[0]}{f' to {sides[-1]}' * (len(sides) > 1)}" if sides else "cropped and expanded"
    return f"{drawn}{total:,} objects {size}"


def _value(value: Any) -> str:
    return f"[{','.join(map(_value, value))}]" if isinstance(value, list | tuple) else f"{value:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
