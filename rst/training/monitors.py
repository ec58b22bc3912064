"""Names of metrics that the settings ask for, compared with those there will be, before anything is trained."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from rst.coco.faults import refuse
from rst.coco.fields import load_json, section_entries
from rst.coco.lvis import is_lvis
from rst.evaluation.evaluator import metric_names
from rst.evaluation.protocol import IouType
from rst.training.errors import ConfigError

PREFIXES: dict[IouType, str] = {"bbox": "", "segm": "segm_"}  # of a metric's name: "val/AP", "val/segm_AP"
LOWER_IS_BETTER = "oLRP"


def is_error(metric: str) -> bool:
    """Whether a metric of the validation is better the lower it is."""
    return LOWER_IS_BETTER in metric


def validation_metrics(iou_types: Iterable[IouType], annotations: Path | str) -> list[str]:
    """The names under which the metrics of a validation set are logged."""
    content = load_json(Path(annotations))
    images, categories = (section_entries(content, key, refuse(Path(annotations))) for key in ("images", "categories"))
    names = metric_names("lvis" if is_lvis(images, categories) else "coco")
    return [f"val/{PREFIXES[kind]}{name}" for kind in iou_types for name in names]


def check_monitors(
    monitor: str | None,
    callbacks: Any,
    iou_types: Sequence[IouType],
    annotations: Path | str,
    *,
    validates: bool,
) -> None:
    """Refuse a monitored metric that no validation will have.

    Args:
        monitor: `checkpoints.monitor`.
        callbacks: those of `trainer.callbacks`: a list, one, or None.
        iou_types: what is validated.
        annotations: the validation set's file.
        validates: whether anything is validated.

    Raises:
        ConfigError: names the key and the metrics there are.
    """
    asked = {"checkpoints.monitor": monitor} if monitor is not None else {}
    asked |= {place: name for place, name in monitored(listed(callbacks)).items() if name.startswith("val/")}
    if not asked:
        return
    if not validates:
        place, name = next(iter(asked.items()))
        raise ConfigError(f"{place}: {name} needs a validation, but trainer.limit_val_batches is 0")
    known = validation_metrics(iou_types, annotations)
    for place, name in asked.items():
        require_known(place, name, known)


def require_known(place: str, name: str, known: Sequence[str]) -> None:
    """Refuse a metric that is not among the known ones, with the nearest and a list."""
    if name in known:
        return
    by_leaf = {key.rpartition("/")[2].lower(): key for key in reversed(known)}
    close = get_close_matches(name, known, n=1) or [
        by_leaf[leaf] for leaf in get_close_matches(name.rpartition("/")[2].lower(), by_leaf, n=1)
    ]
    meant = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{place}: there is no metric {name}{meant}; there are {', '.join(known)}")


def listed(value: Any) -> list[Any]:
    """A value that may be None, one thing or several, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def monitored(callbacks: Sequence[Any]) -> dict[str, str]:
    """Place in the settings -> metric, of Lightning's callbacks; of none if others, which may log more, are there."""
    if not all(type(callback).__module__.startswith("lightning.") for callback in callbacks):
        return {}
    found = {}
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(callback, Callback) and isinstance(name, str):
            found[f"trainer.callbacks: {type(callback).__name__}.monitor"] = name
    return found
