"""The kernel package: the output of tools/kernel_package.py, and its use by Hugging Face's loader.

The loader's package and a folder of this tree are both called `kernels`, so only child processes in another folder
import it.
"""

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from kernel_packages import build, contents, fork_tree

BACKENDS = {"cpu", "cuda", "metal", "rocm", "xpu"}

# Makes a list of tensors; those of a package and of rst.kernels must have the same bits.
USE = """
import torch

def use(losses, **options):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 97, generator=generator).mul(2).round(decimals=1)  # ties
    targets = torch.rand(2, 97, generator=generator).sub(0.85).clamp(min=0)
    targets[1, :9] = -1
    index = (targets.flatten() > 0).nonzero().flatten()
    assert 8 < len(index) < 60
    sizes = [70, 124]
    sparse = losses.SparseTargets(
        index, targets.flatten()[index], [part < 0 for part in targets.flatten().split(sizes)]
    )
    results = []
    for delta in (0.5, 0.0):
        dense = logits.clone().requires_grad_()
        loss = losses.rank_sort(dense, targets, delta=delta, **options)
        (loss.ranking + 2 * loss.sorting).backward()
        assert 0.1 < loss.ranking < 1 and dense.grad.abs().sum() > 0.1
        results += [loss.ranking, loss.sorting, dense.grad]

        levels = [part.clone().requires_grad_() for part in logits.flatten().split(sizes)]
        loss = losses.rank_sort(levels, sparse, delta=delta, **options)
        (loss.ranking + 2 * loss.sorting).backward()
        results += [loss.ranking, loss.sorting, *[level.grad for level in levels]]
        results += [losses.gather_levels(levels, index)]
    return [result.detach() for result in results]

def same(left, right):
    return len(left) == len(right) and all(map(torch.equal, left, right))
"""

# Arguments: a package, a copy of it, a package of other code. Prints the findings as one line of JSON.
LOAD = (
    """
import sys

went_online = []

def listen(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        went_online.append(event)
        raise OSError(f"no network in this test: {event} {arguments}")

sys.addaudithook(listen)
"""
    + USE
    + """
import json
from pathlib import Path

def operators():
    return set(torch._C._dispatch_get_all_op_names())

at_first = operators()
import rst.kernels

with_ours = operators()
import kernels

package, again, other = map(Path, sys.argv[1:])
loaded = {
    "by torch's build": kernels.get_local_kernel(package),
    "for the cpu": kernels.get_local_kernel(package, backend="cpu"),
    "the same elsewhere": kernels.get_local_kernel(again),
    "other code": kernels.get_local_kernel(other),
    "by its variant": kernels.get_local_kernel(package / "build" / "torch-rocm"),
}
ours = use(rst.kernels)
same_numbers = {name: same(use(losses), ours) for name, losses in loaded.items()}
same_numbers["on Triton"] = same(use(loaded["other code"], backend="triton"), use(rst.kernels, backend="triton"))
print(json.dumps({
    "went online": went_online,
    "public": {name: list(losses.__all__) for name, losses in loaded.items()},
    "missing": [public for losses in loaded.values() for public in losses.__all__ if not hasattr(losses, public)],
    "folders": {name: losses.__file__ for name, losses in loaded.items()},
    "modules": {name: losses.__name__ for name, losses in loaded.items()},
    "marked": [name for name, losses in loaded.items() if hasattr(losses, "MARK")],
    "ids": [one.metadata.id for one in kernels.get_loaded_kernels()],
    "same numbers": same_numbers,
    "our operators": sorted(name.split("::")[1] for name in with_ours - at_first),
    "their operators": sorted(operators() - with_ours),
    "expected": list(rst.kernels.__all__),
    "backend": "cuda" if torch.version.cuda else "rocm" if torch.version.hip else None,
}))
"""
)

# Argument: a package, which it damages at the end. The checks of `kernels` that work without a network.
VALIDATE = """
import json, sys
from pathlib import Path

from kernels._rust import Build, Digest, DigestValidationError, Metadata
from kernels.cli.info import print_kernel_info
from kernels.validate import default_metadata_validators

package = Path(sys.argv[1])
backends = {str(backend) for backend in Build.open(package).general.backends}
for backend in backends:
    variant = package / "build" / f"torch-{backend}"
    metadata = Metadata.read_from_file(variant / "metadata.json")
    assert str(metadata.backend.backend_type) == backend, metadata
    for validator in default_metadata_validators():
        validator.validate_metadata(metadata=metadata, variant=variant.name)
    metadata.digest.validate(Digest.hash_variant(metadata.digest.algorithm, variant))

(variant / "rank_sort.py").write_bytes((variant / "rank_sort.py").read_bytes() + b"# changed")
(variant / "smuggled.py").touch()
try:
    metadata.digest.validate(Digest.hash_variant(metadata.digest.algorithm, variant))
    violations = []
except DigestValidationError as error:
    violations = [str(violation).split(":")[0] for violation in error.violations]
print(json.dumps({"backends": sorted(backends), "violations": violations}))
print_kernel_info(str(package), json_output=True)
"""

WITHOUT_TRITON = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"triton", "rst"}:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
"""


def child(code: str, *arguments: Path, folder: Path) -> str:
    """What `code` prints in a process that runs in `folder`, with Triton interpreted; its failure is the test's."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "HF_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in environment.items() if name not in {"HF_HUB_OFFLINE", "LOCAL_KERNELS"}},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package") / "built", tree=tree)


@pytest.fixture
def loader() -> None:
    try:
        importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the distribution `kernels` is not installed")


def test_layout(package: Path, tree: Path):
    sources = {path.name: path.read_bytes() for path in (tree / "kernels").glob("*.py")}
    expected = {f"torch-ext/ranking_losses/{name}": content for name, content in sources.items()}
    expected |= {f"build/torch-{one}/{name}": content for one in BACKENDS for name, content in sources.items()}
    found = contents(package)
    assert {name: found[name] for name in expected} == expected
    generated = {"build.toml", "flake.nix", "CARD.md", "LICENSE", "build/CARD.md"}
    assert found.keys() - expected.keys() == generated | {f"build/torch-{one}/metadata.json" for one in BACKENDS}
    assert found["LICENSE"] == (tree / "LICENSE").read_bytes()


def test_facts_come_from_the_project(package: Path, tree: Path):
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    general = tomllib.loads((package / "build.toml").read_text(encoding="utf-8"))["general"]
    for facts in (general, json.loads((package / "build" / "torch-cuda" / "metadata.json").read_bytes())):
        assert facts["name"] == "ranking-losses"
        assert facts["version"] == int(project["version"].split(".")[0])
        assert facts["license"] == "apache-2.0"
    card = (package / "CARD.md").read_text(encoding="utf-8")
    assert project["version"] in card
    assert "- `rank_sort`\n" in card
    assert "$" not in card
    assert "{{" not in card  # their builder reads the card as a template


def test_repo_id_names_the_package(tree: Path, tmp_path: Path):
    output = build(tmp_path / "built", "--repo-id", "Some.one/rank-sort2", tree=tree)
    general = tomllib.loads((output / "build.toml").read_text(encoding="utf-8"))["general"]
    assert (general["name"], general["hub"]) == ("rank-sort2", {"repo-id": "Some.one/rank-sort2"})
    assert (output / "torch-ext" / "rank_sort2" / "__init__.py").is_file()
    assert json.loads((output / "build/torch-xpu/metadata.json").read_bytes())["id"].startswith("_rank_sort2_xpu_")
    assert 'get_kernel("Some.one/rank-sort2", version=' in (output / "build" / "CARD.md").read_text(encoding="utf-8")


def test_same_sources_same_bytes(package: Path, tree: Path, tmp_path: Path):
    assert contents(build(tmp_path / "again", tree=tree)) == contents(package)


def test_operators_are_registered_as_their_builder_wants(tree: Path):
    """It refuses `@custom_op("name")` and its like if the name does not come from `add_op_namespace_prefix(...)`."""
    wanting = {"custom_op", "triton_op", "register_kernel", "register_fake", "register_vmap", "register_torch_dispatch"}

    def called(node: ast.AST) -> str | None:
        function = node.func if isinstance(node, ast.Call) else None
        return getattr(function, "attr", getattr(function, "id", None))

    found = []
    for path in sorted((tree / "kernels").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for decorator in getattr(node, "decorator_list", []):
                arguments = getattr(decorator, "args", [])
                if called(decorator) in wanting and arguments and called(arguments[0]) != "add_op_namespace_prefix":
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.usefixtures("loader")
def test_loads_beside_rst_kernels_and_other_packages(package: Path, tree: Path, tmp_path: Path):
    fork = fork_tree(tree, tmp_path / "fork")
    again = build(tmp_path / "again", tree=tree)
    init = fork / "kernels" / "__init__.py"
    init.write_text(init.read_text(encoding="utf-8") + "\nMARK = 1\n", encoding="utf-8")
    other = build(tmp_path / "other", tree=fork)
    seen: dict[str, Any] = json.loads(child(LOAD, package, again, other, folder=tmp_path))

    assert seen["went online"] == []
    assert [name for name, same in seen["same numbers"].items() if not same] == []
    assert seen["missing"] == []
    assert all(public == seen["expected"] for public in seen["public"].values())
    folders = {name: Path(file).parent for name, file in seen["folders"].items()}
    assert folders["for the cpu"] == package / "build" / "torch-cpu"
    assert folders["by its variant"] == package / "build" / "torch-rocm"
    assert folders["the same elsewhere"].is_relative_to(again)
    if seen["backend"]:
        assert folders["by torch's build"] == package / "build" / f"torch-{seen['backend']}"
    # other code is another module, and the same code is not registered twice
    assert seen["marked"] == ["other code"]
    modules = seen["modules"]
    assert modules["other code"] != modules["by torch's build"] == modules["the same elsewhere"]
    # operators are in the namespaces that the metadata promises
    expected = {f"{one}::{operator}" for one in seen["ids"] for operator in seen["our operators"]}
    assert set(seen["their operators"]) == expected
    assert all(one.isidentifier() for one in seen["ids"])


@pytest.mark.usefixtures("loader")
def test_passes_the_loaders_own_checks(package: Path, tmp_path: Path):
    copy = shutil.copytree(package, tmp_path / "copy")
    checked, info = child(VALIDATE, copy, folder=tmp_path).split("\n", 1)
    violations = ["File hash mismatch for rank_sort.py", "Unknown file"]
    assert json.loads(checked) == {"backends": sorted(BACKENDS), "violations": violations}
    assert json.loads(info)["name"] == "ranking-losses"
    assert set(json.loads(info)["backends"]) == BACKENDS


@pytest.mark.usefixtures("loader")
def test_runs_without_triton_on_a_cpu(package: Path, tmp_path: Path):
    code = f"{WITHOUT_TRITON}{USE}\nimport kernels\nfrom pathlib import Path\n"
    code += "losses = kernels.get_local_kernel(Path(sys.argv[1]), backend='cpu')\n"
    code += "print(same(use(losses), use(losses, backend='torch')), 'triton' in sys.modules)"
    assert child(code, package, folder=tmp_path).split() == ["True", "False"]
