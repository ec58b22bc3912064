"""A configuration file, read as YAML with the place of each mistake in it."""

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from rst.training import ConfigError


class _Strict(yaml.SafeLoader):
    """A loader that refuses a key given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                line = key_node.start_mark.line + 1
                if key_node.value in seen:
                    raise _Twice(f"key {key_node.value} is given twice, in lines {seen[key_node.value]} and {line}")
                seen[key_node.value] = line
        return super().construct_mapping(node, deep)


class _Twice(Exception):
    """A key that occurs twice in one mapping."""


def check_config_file(path: Path, sections: Iterable[str], mappings: Iterable[str]) -> None:
    """Refuse a file that is no mapping of settings.

    Args:
        path: of the file.
        sections: keys at the top of a configuration, for the message.
        mappings: those of them that hold keys of their own.

    Raises:
        ConfigError: no such file, a folder, not text, broken YAML (with line and column), nothing in it, a list or a
            single value, a key given twice.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a configuration file")
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    wanted = f"a configuration has sections: {', '.join(sections)}"
    try:
        content = yaml.load(text, _Strict)
    except _Twice as twice:
        raise ConfigError(f"{path}: {twice}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_describe(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:  # a date or a number that is none, a key that is a list
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    if content is None:
        raise ConfigError(f"{path}: is empty; {wanted}")
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else f"the single value {str(content)[:40]!r}"
        raise ConfigError(f"{path}: holds {kind}; {wanted}")
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(f"{path}: key {key!r} is no text; {wanted}")
        if key in mappings and not isinstance(value, dict):
            said = "is empty" if value is None else f"must hold keys and values, is {value!r:.60}"
            raise ConfigError(f"{path}: section {key} {said}")


def _describe(error: yaml.YAMLError) -> str:
    """The place and the fault; a tab, the usual one, in words."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return f"broken YAML: {problem}"
    if "\\t" in problem or "'\t'" in problem:
        problem = "a tab where YAML wants blanks"
    return f"broken YAML at line {mark.line + 1}, column {mark.column + 1}: {problem}"
