"""jsonargparse's messages in one line: the key, what is wrong with it, what was probably meant."""

import re
from collections.abc import Iterable
from traceback import walk_tb

from rst.cli.model_arguments import arguments, groups
from rst.cli.suggestions import nearest, nearest_option


def summarise(text: str, known_keys: Iterable[str], options: Iterable[str] = ()) -> str:
    """A message of jsonargparse, shortened to the key, the fault and a suggestion.

    Args:
        text: the message of its ArgumentError.
        known_keys: the keys of the configuration, dotted.
        options: names of the command's own options, with underscores.
    """
    path = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    class_path = _first(r"class_path '([^']+)'", text)
    if problem := re.search(r"^( *- )Problem with given class_path", text, re.MULTILINE):
        # the rest of that list only says that the model is not null either
        text = text.split(f"\n{problem[1]}Expected a <class 'NoneType'>")[0]
    text = re.sub(r"Group '([^']+)' does not accept option '([^']+)'", r"Option '\1.\2' is not accepted", text)
    unknown = _first(r"Option '([^']+)' is not accepted", text) or _first(r"unrecognized arguments: --([^\s=]+)", text)
    if unknown:
        key = f"{path}.{unknown}" if path else unknown
        of = f" of {class_path}" if class_path else ""
        if class_path:
            close = nearest(unknown, arguments(class_path))
        else:
            options = list(options)
            close = nearest_option(unknown, options) or nearest(unknown, [*_with_sections(known_keys), *options])
            close = close.replace("_", "-") if close in options else close
        return f"unknown key {key}{of}" + (f" (did you mean {close}?)" if close else "")
    if section := _first(r"""^\s*Parser key "(\w+)":\s+Unable to load config ['"]""", text):
        return f"{section}: is a section; set its keys, as --{section}.KEY VALUE"
    if missing := _first(r"arguments are required: ([^\n]+)", text):
        return f"missing: {missing}"
    if missing := _first(r"File does not exist: '([^']+)'", text):
        return f"no such file: {missing}"
    expected = [_readable(kind) for kind in re.findall(r"Expected an? (.+?)(?:\. Got value|\n|$)", text)]
    value = _first(r"(?:Got value: |Given value: (?:NestedArg\(.*val=)?)([^\n]*)", text)
    if value is not None and (below := _first(r"NestedArg\(key='([^']+)'", value)):
        return f"unknown key {path}.{below}: {path} has no keys of its own"
    if path == "model" and value is not None and "dot import path" in text:
        return f"model: must be the import path of a function or class, as rst.detectors.atss, got {value}"
    if class_path and value is not None and (inner := groups(class_path).get(path.removeprefix("model."))):
        return _keys_of_its_own(path, inner, value)
    if path and expected and value is not None:
        return f"{path}: expected {' or '.join(dict.fromkeys(expected))}, got {value}"
    if class_path and (given := _first(r'Unable to load config "([^"]*)"', text)):
        path = ".".join(dict.fromkeys(path.split(".")))
        return _keys_of_its_own(path, groups(class_path).get(path.removeprefix("model."), []), given)
    if class_path:
        reason = _first(r"Problem with given class_path '[^']+':\s*([^\n]+)", text)
        return f"{path}.class_path: cannot use {class_path}: {reason}"
    return re.sub(r"\s*\n\s*", " ", text).strip()


def _keys_of_its_own(path: str, keys: Iterable[str], given: str) -> str:
    name = path.rpartition(".")[2]
    return f"{path}: has keys of its own ({', '.join(f'{name}.{key}' for key in keys)}), got {given}"


def unwrap(error: Exception) -> Exception:
    """The error that a constructor raised, without those that jsonargparse raised from it."""
    first = error
    while _raised_by(error, "jsonargparse"):
        inner = error.__cause__ or error.__context__
        if not isinstance(inner, Exception):
            return ValueError(_reason(str(first)))
        error = inner
    return error


def _reason(text: str) -> str:
    """What jsonargparse says of the one type that nearly fitted a value, in a line."""
    said = [line.strip(" -") for line in text.split("Errors:")[-1].split("Given value")[0].splitlines()]
    own = [line for line in said if line and not line.startswith(("Expected a", "Does not validate"))]
    return own[-1] if own else re.sub(r"\s*\n\s*", " ", text).strip()


def _raised_by(error: Exception, package: str) -> bool:
    frames = list(walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] == package


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


def _readable(kind: str) -> str:
    """`<class 'collections.abc.Sequence'>` as `list`, `typing.Literal['a', 'b']` as `one of 'a', 'b'`."""
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    name = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", name)
    return {"NoneType": "null", "Sequence": "a list"}.get(name, name)


def _with_sections(keys: Iterable[str]) -> list[str]:
    keys = [*keys, "model.class_path", "model.init_args"]
    return [*keys, *dict.fromkeys(key.split(".")[0] for key in keys)]
