"""What kernels/ and detectors/ make with torch names its device and dtype: a host program may have other defaults."""

import ast
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("kernels", "detectors") for path in sorted((TREE / folder).rglob("*.py"))]
FACTORIES = {"zeros", "ones", "empty", "full", "tensor", "as_tensor", "scalar_tensor", "eye", "linspace", "logspace"}
FACTORIES |= {"rand", "randn", "randint", "randperm", "normal", "from_numpy", "complex", "range", "hann_window"}
# `arange` of whole numbers is int64 whatever the default is; such a call needs its device alone
NEEDED = {**{name: {"device", "dtype"} for name in FACTORIES}, "arange": {"device"}}


def missing(source: str) -> list[str]:
    """The calls of torch's factories that leave a default open, as `line: factory without keyword`."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"):
            continue
        needed = NEEDED.get(node.func.attr, set()) - {keyword.arg for keyword in node.keywords}
        call = parents[node]
        while isinstance(call, ast.Subscript | ast.Attribute):
            call = parents[call]
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            if call.func.attr in ("register_buffer", "Parameter"):  # of a module, which is made on the default device
                needed -= {"device"}
            if call.func.attr == "Parameter":  # and its weights in the default dtype, which `Detector` checks
                needed -= {"dtype"}
        if needed:
            found.append(f"{node.lineno}: {node.func.attr} without {', '.join(sorted(needed))}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TREE)))
def test_allocations_name_device_and_dtype(path: Path):
    assert missing(path.read_text(encoding="utf-8")) == []


# A copy of the host's numbers to a GPU, from memory that the host may use again; `constant` makes it without a wait
COPIES = {"tensor", "as_tensor", "scalar_tensor", "from_numpy", "new_tensor"}


def waits(source: str) -> list[str]:
    """The calls that make a GPU's host wait: copies of its numbers, repetitions whose number only the device knows."""
    tree = ast.parse(source)
    buffers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register_buffer"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)) or node in buffers:
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if node.func.attr in COPIES and given.get("device") != "'cpu'":
            found.append(f"{node.lineno}: {node.func.attr}")
        if node.func.attr == "repeat_interleave" and "output_size" not in given:
            found.append(f"{node.lineno}: repeat_interleave without output_size")
    return found


@pytest.mark.parametrize("path", sorted((TREE / "detectors").rglob("*.py")), ids=lambda path: path.name)
def test_numbers_of_the_host_reach_a_device_without_a_wait(path: Path):
    assert waits(path.read_text(encoding="utf-8")) == []


def test_that_test_finds_what_it_looks_for():
    assert waits("x.new_tensor([1])\ntorch.tensor([1], device=x.device)\n") == ["1: new_tensor", "2: tensor"]
    assert waits("x.repeat_interleave(y)") == ["1: repeat_interleave without output_size"]
    assert waits("self.register_buffer('a', torch.tensor([1])[None])\ntorch.tensor([1], device='cpu')") == []


def test_the_test_finds_what_it_looks_for():
    assert missing("x = torch.zeros(3)\ny = torch.arange(4)\n") == [
        "1: zeros without device, dtype",
        "2: arange without device",
    ]
    assert missing("x = torch.full((3,), 1.0, device=d)") == ["1: full without dtype"]
    assert missing("x = torch.zeros(3, device=d, dtype=t) + torch.arange(3, device=d) + y.new_zeros(3)") == []
    assert missing("self.register_buffer('a', torch.ones(3))") == ["1: ones without dtype"]
    assert missing("self.a = nn.Parameter(torch.ones(3))") == []
