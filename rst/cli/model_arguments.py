"""The arguments of a model, also those that it passes on as `**settings` to the function that it calls."""

import importlib
import inspect
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints


def arguments(class_path: str) -> list[str]:
    """The arguments of a model, and the fields of those that are settings objects, as `backbone.name`.

    Args:
        class_path: import path of a function or class, as rst.detectors.atss.
    """
    inner = [f"{group}.{field}" for group, own in groups(class_path).items() for field in own]
    return [parameter.name for parameter in _parameters(class_path)] + inner


def groups(class_path: str) -> dict[str, list[str]]:
    """The arguments of a model that are settings objects, or may be one, and the fields of each."""
    return {name: [field.name for field in fields(kind)] for name, kind in _settings(class_path).items()}


def never_null(class_path: str) -> list[str]:
    """The arguments of a model, and the fields of its settings objects, whose types do not allow None."""
    hints = {p.name: p.annotation for p in _parameters(class_path) if p.annotation is not inspect.Parameter.empty}
    for name, kind in _settings(class_path).items():
        hints |= {f"{name}.{field}": hint for field, hint in _hints(kind).items()}
    return [name for name, hint in hints.items() if not _allows_none(hint)]


def _settings(class_path: str) -> dict[str, Any]:
    """The class of each argument that is a settings object, or may be one."""
    found = {}
    for parameter in _parameters(class_path):
        for kind in (parameter.annotation, *get_args(parameter.annotation)):
            if isinstance(kind, type) and is_dataclass(kind):
                found[parameter.name] = kind
    return found


def _parameters(class_path: str) -> list[Any]:
    """The parameters, each with name, annotation, default and kind, in the order of the signatures."""
    module, _, name = class_path.rpartition(".")
    model = getattr(importlib.import_module(module), name)
    try:  # it reads the source to find what takes **settings; it is not public, so that it may move
        from jsonargparse._parameter_resolvers import get_signature_parameters
    except ImportError:
        hints = _hints(model.__init__ if inspect.isclass(model) else model)
        own = inspect.signature(model).parameters.values()
        return [p.replace(annotation=hints.get(p.name, p.annotation)) for p in own if p.kind != p.VAR_KEYWORD]
    return get_signature_parameters(model, "__init__" if inspect.isclass(model) else None)


def _hints(hinted: Any) -> dict[str, Any]:
    """The types of a function's arguments or of a class's fields; none, where one is for type checkers alone."""
    try:
        return {name: hint for name, hint in get_type_hints(hinted).items() if name != "return"}
    except (NameError, TypeError):
        return {}


def _allows_none(hint: Any) -> bool:
    return isinstance(hint, str) or hint in (Any, None, type(None)) or type(None) in get_args(hint)
