"""What the commands' parsers share: one form of help, printed too where a command gets no arguments at all."""

import argparse
from typing import Any


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions and examples; wide enough for options with their values."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=30, width=118)


def command_parser(command: str, usage: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser for `rst COMMAND`.

    Args:
        command: words after `rst`.
        usage: what follows them, one line per form of the command.
        description, epilog: printed before and after the options.
    """
    lines = [f"rst {command} {line}" for line in usage.splitlines()]
    return argparse.ArgumentParser(
        prog=f"rst {command}",
        usage=("\n" + " " * len("usage: ")).join(lines),
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def wants_help(parser: argparse.ArgumentParser, argv: list[str]) -> bool:
    """Print the help where there are no arguments; the command then ends with exit code 2."""
    if not argv:
        parser.print_help()
    return not argv
