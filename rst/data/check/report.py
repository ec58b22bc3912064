"""The findings of a check: which kinds there are, which of them stop a training, and their form as JSON."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rst.coco.faults import Fault, short
from rst.coco.fields import INT64

Level = Literal["error", "warning"]
DEEPEST = 20  # of lists and objects within each other that a report repeats

# Kind of fault -> when it is an error, that is, when training, or the evaluation at the end of an epoch, refuses it:
#   always   for any setting
#   boxes    unless `faulty_boxes: leave_out`
#   masks    if the masks are trained on (`masks: true`)
#   shapes   if the masks are trained on, unless `faulty_boxes: leave_out`
#   never    a warning: training works, perhaps not as intended
KINDS: dict[str, Literal["always", "boxes", "masks", "shapes", "never"]] = {
    "malformed file": "always",
    "malformed entry": "always",
    "duplicate id": "always",
    "other classes": "always",
    "unknown image": "always",
    "unknown category": "always",
    "missing image file": "always",
    "unreadable image file": "always",
    "image file of another size": "always",
    "malformed box": "always",
    "box without area": "boxes",
    "box outside the image": "boxes",
    "malformed area": "always",
    "malformed LVIS entry": "always",
    "missing mask": "masks",
    "malformed mask": "masks",
    "mask without area": "shapes",
    "mask without pixels": "never",
    "mask and box disagree": "never",
    "malformed mask of a crowd": "never",
    "box beyond the border": "never",
    "area larger than the box": "never",
    "object annotated twice": "never",
    "image listed twice": "never",
    "class name used twice": "never",
    "contradictory LVIS entry": "never",
    "no objects": "always",
    "objects that no anchor reaches": "never",
    "crowds": "never",
    "marked to be ignored": "never",
    "annotation id 0": "never",
    "EXIF orientation not applied": "never",
    "EXIF orientation undecided": "never",
    "EXIF orientation against data.exif": "never",
}


@dataclass(frozen=True)
class Finding:
    """A fault and its level."""

    level: Level
    kind: str  # a key of KINDS
    file: str  # the annotation file, or the image
    subject: str  # "annotation", "image", "category" or "file"
    id: Any  # of the entry; None where it has none
    message: str  # names entry, key and value
    value: Any  # what is wrong, a JSON value

    def as_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


@dataclass
class Report:
    """What a check found.

    Attributes:
        annotations, images: what was checked.
        masks, leave_out: for a training with these settings.
        findings: in the order in which they were found.
        statistics: what is in the data (`rst.data.check.statistics`); empty if the file could not be read.
        notes: remarks that are no faults.
    """

    annotations: Path
    images: Path
    masks: bool = False
    leave_out: bool = False
    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, fault: Fault, file: Path | None = None) -> None:
        """A sink for faults; `file` is the image file, for the fault of an image."""
        kind, subject, entry_id, message, value = fault
        place = str(file or self.annotations)
        self.findings.append(Finding(self.level(kind), kind, place, subject, entry_id, message, value))

    def level(self, kind: str) -> Level:
        is_error = {
            "always": True,
            "boxes": not self.leave_out,
            "masks": self.masks,
            "shapes": self.masks and not self.leave_out,
            "never": False,
        }
        return "error" if is_error[KINDS[kind]] else "warning"

    def of_level(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each kind that occurs, errors first, in the order of KINDS."""
        found = Counter(finding.kind for finding in self.findings)
        kinds = [kind for kind in KINDS if kind in found]
        return {kind: found[kind] for kind in sorted(kinds, key=lambda kind: self.level(kind) != "error")}

    def as_dict(self) -> dict[str, Any]:
        """JSON values that every writer takes: see `as_json`."""
        content = {
            "annotations": str(self.annotations),
            "images": str(self.images),
            "settings": {"masks": self.masks, "faulty_boxes": "leave_out" if self.leave_out else "refuse"},
            "errors": len(self.of_level("error")),
            "warnings": len(self.of_level("warning")),
            "counts": self.counts,
            "findings": [finding.as_dict() for finding in self.findings],
            "notes": self.notes,
            "statistics": self.statistics,
        }
        return {key: as_json(value) for key, value in content.items()}


def as_json(value: Any, depth: int = 0) -> Any:
    """A value of an annotation file without what some writers refuse: long integers, half characters, deep nesting."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if type(value) is int and value not in INT64:
        return str(value)
    if isinstance(value, list | tuple | dict) and depth == DEEPEST:
        return short(value)
    if isinstance(value, dict):
        return {as_json(str(key)): as_json(item, depth + 1) for key, item in value.items()}
    return [as_json(item, depth + 1) for item in value] if isinstance(value, list | tuple) else value
