"""The command `rst`: chooses the subcommand, turns faults into exit codes.

Exit codes: 0 done; 1 the run failed; 2 a mistake in the arguments, the configuration or the data; 130 interrupted.
"""

import importlib
import io
import os
import sys
import traceback

# Each module, rst.cli.COMMAND, is imported only when its command is called: torch and Lightning take seconds.
COMMANDS = {
    "train": "train a detector on a data set in COCO format",
    "evaluate": "score a checkpoint, or detections of any tool: AP and oLRP of boxes or masks",
    "predict": "detect objects in image files: drawings and a JSON file",
    "plot": "draw the curves of runs, compare them, and print the paper's diagnostics",
    "data": "make, check or show a data set",
}
HELP = f"""\
usage: rst COMMAND ...

rst, the Rank & Sort Toolkit: train detectors with exact ranking losses.

commands:
{chr(10).join(f"  {name:<10} {meaning}" for name, meaning in COMMANDS.items())}

  rst COMMAND --help explains a command. rst --version prints the version.

example:
  rst data trees --output data/trees
  rst train --config configs/sample/rs_faster_rcnn_mobilenetv2.yaml --output runs/trees
  rst evaluate --checkpoint runs/trees/checkpoints/best.ckpt
  rst predict --checkpoint runs/trees/checkpoints/best.ckpt data/trees/val --output runs/trees/drawings

Every command takes --debug, which shows where an error comes from.
"""


def main(argv: list[str] | None = None) -> int:
    """Run `rst` with these arguments (those of the process if None) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"rst {version('rank-sort-toolkit')}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        return _complain(f"no such command: {command}{_suggestion(command)}; the commands are {', '.join(COMMANDS)}", 2)
    debug = "--debug" in rest
    rest = [argument for argument in rest if argument != "--debug"]
    try:
        return importlib.import_module(f"rst.cli.{command}").main(rest)
    except SystemExit as stop:  # argparse's help (0) and its complaints (2), already printed
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as interrupt:
        return _complain(str(interrupt) or "interrupted", 130)
    except Exception as error:
        code = exit_code(error)
        if debug or code is None:
            traceback.print_exc()
            return 1 if code is None else code
        # This project's own messages are complete; for other errors the place may matter.
        hint = "" if type(error).__module__.startswith("rst.") else " (--debug shows where)"
        return _complain(f"{_message(error)}{hint}", code)


def exit_code(error: Exception) -> int | None:
    """The exit code for an error whose message is enough; None for one that needs its traceback.

    By this project's convention a ValueError is the caller's mistake, and names it.
    """
    from rst.training.errors import CheckpointError, CheckpointSaveError, NonFiniteError

    if isinstance(error, (NonFiniteError, CheckpointSaveError)):
        return 1
    mistakes = [CheckpointError, ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError]
    if lightning := sys.modules.get("lightning.fabric.utilities.exceptions"):  # it takes seconds to import
        mistakes.append(lightning.MisconfigurationException)
    if isinstance(error, tuple(mistakes)):
        return 2
    if isinstance(error, OSError):  # a full disk, no permission, no network
        return 1
    return None


def _message(error: Exception) -> str:
    """The message of an error, without the traceback that a loader process put into it."""
    text = str(error).strip()
    if "Original Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__


def _complain(message: str, code: int) -> int:
    process = os.environ.get("LOCAL_RANK", "0")  # set in the processes that training on several devices starts
    print(f"rst: {message}" if process == "0" else f"rst (process {process}): {message}", file=sys.stderr)
    return code


def _suggestion(command: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(command, COMMANDS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


if __name__ == "__main__":
    sys.exit(main())
