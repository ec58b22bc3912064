"""Going on with a run: which settings may differ from the checkpoint's, and how those that may are put into force.

A checkpoint restores parameters, the optimiser with its hyper-parameters, the schedule, callbacks and counters. Where
it brings back a former setting, today's is put in its place; where that cannot be, the change is refused.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import yaml
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rst.training.errors import ConfigError

SHOWN = 5  # changes quoted in a message
# Of the model, what takes no part in training: it may change at any time.
FREE_OF_THE_MODEL = "detections"
_PLAIN = (bool, int, float, str, type(None))


def refuse_changes(former: str, now: str, source: str) -> dict[str, tuple[Any, Any]]:
    """Refuse settings that a resumed run cannot take on.

    Args:
        former: the configuration stored in the checkpoint, YAML.
        now: the configuration of the resumed run, YAML.
        source: the checkpoint's name in the message.

    Returns:
        the other changes, which are put into force: key -> (before, now).

    Raises:
        ConfigError: names each key with both values.
    """
    before, after = (dict(_leaves(yaml.safe_load(text) or {})) for text in (former, now))
    # a key that only today's configuration has is an argument that the former version did not know
    changed = {key: (value, after.get(key)) for key, value in before.items() if after.get(key) != value}
    refused = {key: values for key, values in changed.items() if _is_fixed(key, *values)}
    if "model.class_path" in refused:
        refused = {"model.class_path": refused["model.class_path"]}
    if refused:
        listed = [f"{_shown(key)} was {_said(a)}, now {_said(b)}" for key, (a, b) in list(refused.items())[:SHOWN]]
        more = f", and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise ConfigError(
            f"{source}: a run goes on with the model, the loss and the average that it began with: "
            f"{'; '.join(listed)}{more}. Leave them as they were, or start a new run"
        )
    return changed


def _is_fixed(key: str, before: Any, now: Any) -> bool:
    if key == "ema_decay":  # an average can begin or change its pace; to go on without one, there are two models
        return before is not None and now is None
    return key.startswith("model.") and not key.startswith(f"model.init_args.{FREE_OF_THE_MODEL}.")


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree of mappings; a list is a value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _shown(key: str) -> str:
    return key.replace("model.init_args.", "model.")


def _said(value: Any) -> str:
    return "null" if value is None else str(value)


def apply_optimizer(optimizer: Optimizer, settings: Optimizer, scheduler: LambdaLR) -> None:
    """Put the hyper-parameters of a freshly made optimiser, and today's schedule, in place of the restored ones.

    Args:
        optimizer: restored from a checkpoint.
        settings: made from today's settings, for the same parameters.
        scheduler: of `optimizer`, restored.
    """
    for number, (group, wanted) in enumerate(zip(optimizer.param_groups, settings.param_groups, strict=True)):
        group.update({key: value for key, value in wanted.items() if key != "params"})
        group["initial_lr"] = scheduler.base_lrs[number] = wanted["lr"]
        group["lr"] = wanted["lr"] * scheduler.lr_lambdas[number](scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def arguments_of(callbacks: list[Any]) -> list[dict[str, Any]]:
    """Of each callback the attributes that are named like arguments of its constructor and hold plain values."""
    found = []
    for callback in callbacks:
        names = inspect.signature(type(callback).__init__).parameters
        own = {name: value for name, value in vars(callback).items() if name in names and isinstance(value, _PLAIN)}
        found.append(own)
    return found


def apply_arguments(callbacks: list[Any], arguments: list[dict[str, Any]]) -> None:
    """Put back what `arguments_of` found, where a checkpoint brought back former settings (a patience, say)."""
    for callback, own in zip(callbacks, arguments, strict=True):
        vars(callback).update(own)
