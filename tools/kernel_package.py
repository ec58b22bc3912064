"""Builds kernels/ into a kernel package, in the layout of Hugging Face's `kernels` project.

    python tools/kernel_package.py [--output build/kernel-package] [--repo-id OWNER/NAME]

The files for their builder, then those for their loader:

    build.toml  flake.nix  CARD.md  LICENSE     torch-ext/<name>/*.py
    build/torch-<backend>/*.py                  build/torch-<backend>/metadata.json     build/CARD.md

The sources are copied unchanged: they import each other relatively, torch, and Triton where it is installed.
This script needs the standard library only, and the same sources give the same package, byte for byte.
"""

import argparse
import ast
import base64
import hashlib
import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from string import Template

TREE = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = TREE / "build" / "kernel-package"
DEFAULT_REPO_ID = "OWNER/ranking-losses"  # for the card; without --repo-id, build.toml names no repository

# The same code for all: the loader picks the folder of the backend that torch was built for.
BACKENDS = ("cpu", "cuda", "metal", "rocm", "xpu")
EDITION = 5  # of the format of build.toml

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[a-z][-a-z0-9]*[a-z0-9]")
MARK = "# Written by tools/kernel_package.py of rst: edit the sources there, not this folder.\n"

BUILD_TOML = Template(
    MARK
    + """
[general]
name = "$name"
version = $version
edition = $edition
license = "$license"
backends = [$backends]
$hub
[torch-noarch]
"""
)

FLAKE = """{
  inputs.kernel-builder.url = "github:huggingface/kernels";

  outputs = { self, kernel-builder, ... }:
    kernel-builder.lib.genKernelFlakeOutputs { inherit self; path = ./.; };
}
"""

CARD = Template("""---
library_name: kernels
license: $license
---

# $name

Exact ranking losses for object detection, from rst, the Rank & Sort Toolkit $release. Every logit takes part, none is
sampled or bucketed, and the matrix of pairs is never stored. Triton kernels on a GPU, torch operators everywhere else.

    from kernels import get_kernel

    # trust_remote_code: for publishers that are not on the Hub's list of trusted ones
    losses = get_kernel("$repo_id", version=$version, trust_remote_code=True)
    loss = losses.rank_sort(logits, targets)  # 0-d tensors: ranking, sorting
    (loss.ranking + loss.sorting).backward()

Logits and targets may be on any device; `help(losses.rank_sort)` has shapes, edge cases and errors. Needs Python
$python and $torch; without Triton the torch operators are all there is.

## What is public

$names

The kernel version is the first number of rst's. At 0 the interface may still change without notice.
""")


class Refusal(Exception):
    """The caller asked for something impossible; the message says what to change."""


def read_sources() -> dict[str, bytes]:
    """File name -> content of the Python files of kernels/."""
    return {path.name: path.read_bytes() for path in sorted((TREE / "kernels").glob("*.py"))}


def public_names(init: bytes) -> list[str]:
    """`__all__`, read without an import: torch need not be installed where the package is built."""
    for node in ast.parse(init).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    raise Refusal("kernels/__init__.py: expected a literal __all__, the public interface of the package")


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(hashlib.sha256(content).digest()).decode() for name, content in files.items()}


def package_files(repo_id: str | None) -> dict[str, bytes]:
    """Path inside the package -> content, of all files."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sources = read_sources()
    hashes = digests(sources)
    name = (repo_id or DEFAULT_REPO_ID).split("/")[1]
    module = name.replace("-", "_")
    # Their convention is a git revision. A hash of the sources differs if and only if the code differs, also in a dirty
    # tree or outside a repository. So packages of different code can be loaded together under different ids.
    unique = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:7]
    version = int(project["version"].split(".")[0])
    licence = project["license"].lower()  # the Hub's identifiers are in small letters
    fill = {
        "name": name,
        "version": version,
        "license": licence,
        "edition": EDITION,
        "backends": ", ".join(f'"{backend}"' for backend in BACKENDS),
        "hub": f'\n[general.hub]\nrepo-id = "{repo_id}"\n' if repo_id else "",
        "repo_id": repo_id or DEFAULT_REPO_ID,
        "release": project["version"],
        "python": project["requires-python"],
        "torch": next(filter(re.compile(r"torch\b").match, project["dependencies"])),
        "names": "\n".join(f"- `{public}`" for public in public_names(sources["__init__.py"])),
    }
    card = CARD.substitute(fill).encode()
    files = {
        "build.toml": BUILD_TOML.substitute(fill).encode(),
        "flake.nix": FLAKE.encode(),
        "CARD.md": card,
        "LICENSE": (TREE / "LICENSE").read_bytes(),
        "build/CARD.md": card,
    }
    files |= {f"torch-ext/{module}/{file}": content for file, content in sources.items()}
    for backend in BACKENDS:
        metadata = {
            "name": name,
            "id": f"_{module}_{backend}_{unique}",  # the module's name once loaded, and the namespace of its operators
            "version": version,
            "license": licence,
            "python-depends": [],
            "kernel-depends": [],
            "backend": {"type": backend},
            "digest": {"algorithm": "sha256", "files": hashes},
        }
        files |= {f"build/torch-{backend}/{file}": content for file, content in sources.items()}
        files[f"build/torch-{backend}/metadata.json"] = (json.dumps(metadata, indent=2) + "\n").encode()
    return files


def check_output(output: Path, files: dict[str, bytes]) -> None:
    """Raises Refusal unless `output` is missing, an empty folder, or a package that this script wrote."""
    if not output.exists():
        return
    if not output.is_dir():
        raise Refusal(f"--output {output}: is not a folder")
    present = {entry.name for entry in output.iterdir()}
    if not present:
        return
    build_toml = output / "build.toml"
    if not (build_toml.is_file() and build_toml.read_bytes().startswith(MARK.encode())):
        raise Refusal(f"--output {output}: is not empty and was not written by this script; name another folder")
    foreign = sorted(present - {file.split("/")[0] for file in files})
    if foreign:
        raise Refusal(
            f"--output {output}: has files that this script did not write ({', '.join(foreign)}); move it away"
        )


def install(files: dict[str, bytes], output: Path) -> None:
    """Writes `files` beside `output`, then renames: `output` never holds half a package."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as staging:
        new, old = Path(staging, "new"), Path(staging, "old")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if not output.exists():
            new.rename(output)
            return
        output.rename(old)
        try:
            new.rename(output)
        except BaseException:
            old.rename(output)
            raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build kernels/ into a package for Hugging Face's `kernels` loader.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder to write [build/kernel-package]")
    parser.add_argument(
        "--repo-id",
        metavar="OWNER/NAME",
        help="the repository it is to be published in; NAME names the package [ranking-losses]",
    )
    options = parser.parse_args(arguments)
    try:
        if options.repo_id is not None and not REPO_ID.fullmatch(options.repo_id):
            raise Refusal(
                f"--repo-id {options.repo_id}: expected OWNER/NAME, with a NAME of two or more small letters, digits "
                "and dashes that starts with a letter and does not end with a dash"
            )
        files = package_files(options.repo_id)
        output = options.output.resolve()
        check_output(output, files)
        install(files, output)
    except (Refusal, OSError) as error:
        print(f"kernel_package: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.output}, for {', '.join(BACKENDS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
