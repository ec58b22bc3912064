"""The commands, options, targets and files that the documents name exist, and the Python in them runs."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for path in [TREE / "README.md", TREE / "CONTRIBUTING.md", *TREE.glob("*/README.md")]
    if path.parent.name not in {"build", "dist", "runs", "data"}
]
README = TREE / "README.md"
# CONTRIBUTING.md explains how a detector would be added, with the names of its files
EXAMPLES = {"detectors/cascade_rcnn.py", "configs/coco/rs_cascade_rcnn_r50_fpn_1x.yaml"}


def name_of(path: Path) -> str:
    return str(path.relative_to(TREE))


def code(document: Path) -> list[str]:
    """Every span and every line of code in a Markdown file, continued lines joined."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    blocks = "\n".join([*fenced, *indented]).replace("\\\n", " ")
    return [*(line.strip() for line in blocks.splitlines()), *spans]


def commands(document: Path) -> list[list[str]]:
    """The `rst ...` command lines of a document, split into words."""
    found = [shlex.split(line, comments=True) for line in code(document) if line.startswith("rst ")]
    return [words for words in found if len(words) > 1]


@cache
def help_of(*words: str) -> str:
    from rst.cli.main import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main([*words, "--help"])
        except SystemExit as stopped:  # argparse's own --help
            code = stopped.code
    assert code == 0, f"rst {' '.join(words)} --help fails"
    return printed.getvalue()


def test_readme_shows_the_commands():
    shown = {words[1] for words in commands(README)}
    assert {"train", "evaluate", "predict"} <= shown
    top = README.read_text(encoding="utf-8").partition("\n## ")[0]
    assert "    make demo " in top
    assert "    make test " in top


def test_readme_s_lines_are_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_and_options_exist(document: Path):
    for words in commands(document):
        assert re.search(rf"\b{words[1]}\b", help_of()), f"no such command: {' '.join(words)}"
        command = words[1:3] if words[1] == "data" else words[1:2]
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        for option in options - {"--help"}:
            pattern = rf"(?<![\w-]){re.escape(option)}(?![\w.-])"
            assert re.search(pattern, help_of(*command)), f"--help has no {option}: {' '.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_exist(document: Path):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    links = [link for link in links if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    named = re.findall(
        r"\b(?:configs|kernels|detectors|rst|tests|bench|tools)/[\w./-]*\.(?:yaml|py|md|pyi|toml)\b", text
    )
    missing += [path for path in named if not (TREE / path).exists()]
    assert set(missing) <= EXAMPLES


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_make_targets_exist(document: Path):
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {line.split()[1] for line in code(document) if re.match(r"make [a-z-]+", line)}
    assert named <= targets


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if "```python" in path.read_text()], ids=name_of)
def test_python_runs(document: Path, tmp_path: Path):
    blocks = re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
