"""The losses inside torch.compile: one graph with our operators in it, equal to eager, few recompilations.

    R  positives of the ranking      P  positives of one process      M  logits

All but one test compile with a backend that traces forward and backward as Inductor gets them, and runs them without
optimising: the tests are about tracing, not about speed.
"""

import functools
import shutil

import pytest
import torch
from every_loss import LOSSES, every_backend
from functorch.compile import make_boxed_func
from rank_sort_cases import INTERPRETED, named
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.library import opcheck

from rst.kernels import SparseTargets
from rst.kernels.operators import (
    NAMESPACE,
    count,
    scatter,
    segmented_backward,
    segmented_forward,
    sorting_demotion,
    sorting_sums,
    weigh_positives,
)
from rst.kernels.segments import cut_levels

pytestmark = [
    every_backend,
    # Dynamo does it itself, in torch 2.11
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

# Dynamo compiles for the first P, again for any P from 2 on, and for 0 and 1, which it always takes for constants.
POSITIVES = (10, 12, 40, 1, 0, 33)
COMPILATIONS = 4
LEVELS = [(2, 3, 8, 10), (2, 3, 3, 6)]  # features (images, channels, height, width)
THE_SAME_GRAPH = pytest.mark.skipif(INTERPRETED, reason="graphs are those of the torch backend, in another process")
INTERPRETED_ALONE = pytest.mark.skipif(not INTERPRETED, reason="the torch backend has a longer version of this test")


# The operators in the graphs of a loss. Triton has one for the forward pass, and one for the backward pass.
FORWARD = {name: ["triton_forward"] if INTERPRETED else ["count"] for name in LOSSES}
BACKWARD = {name: ["triton_backward"] if INTERPRETED else ["scatter"] for name in LOSSES}
if INTERPRETED:
    FORWARD["ranking_loss"] = ["triton_count"]  # the score writes into its inputs: another kind of node
else:
    FORWARD["rank_sort"], FORWARD["alrp"] = ["count", "sorting_sums"], ["count", "weigh_positives"]
    BACKWARD["rank_sort"] = ["scatter", "sorting_demotion"]


class Recorder:
    """A backend of torch.compile that keeps, for each graph it is handed, which of our operators the graph holds."""

    def __init__(self) -> None:
        self.forward: list[list[str]] = []
        self.backward: list[list[str]] = []
        keep = (functools.partial(self._keep, graphs) for graphs in (self.forward, self.backward))
        self.compile = aot_autograd(fw_compiler=next(keep), bw_compiler=next(keep))

    def __call__(self, module, example_inputs):
        return self.compile(module, example_inputs)

    @staticmethod
    def _keep(graphs, module, example_inputs):
        del example_inputs
        targets = [str(node.target).split(".") for node in module.graph.nodes if node.op == "call_function"]
        graphs.append(sorted(target[1] for target in targets if target[0] == NAMESPACE))
        return make_boxed_func(module.forward)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Batches:
    """Features, sparse targets with ignored logits, and localisation errors, one batch for each number of positives."""

    def __init__(self, levels: list[tuple[int, ...]], device: str) -> None:
        self.levels, self.device = levels, device
        self.sizes = [2 * shape[0] * shape[2] * shape[3] for shape in levels]  # logits: two for each cell

    def batch(self, seed: int, positives: int) -> list[Tensor | list[Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        features = [torch.randn(shape, generator=generator) for shape in self.levels]
        index = torch.randperm(sum(self.sizes), generator=generator)[:positives]
        quality, error = torch.rand(2, positives, generator=generator)
        ignore = (torch.rand(sum(self.sizes), generator=generator) < 0.2).split(self.sizes)
        masks = [mask.view(shape[0], 2, *shape[2:]) for mask, shape in zip(ignore, self.levels, strict=True)]
        tensors = features, index, quality, masks, error.clone()
        return [[t.to(self.device) for t in x] if isinstance(x, list) else x.to(self.device) for x in tensors]


def train(loss, batches: Batches, positives: tuple[int, ...], compiler=None, half: torch.dtype | None = None):
    """All that a few training steps of a convolution make: losses, gradients of the errors, parameters at the end."""
    torch.manual_seed(0)
    head = nn.Conv2d(3, 2, 3, padding=1).to(batches.device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    made: list[Tensor] = []

    def forward(features, index, quality, masks, error):
        with torch.autocast(batches.device, dtype=half, enabled=half is not None):
            logits = [head(level) for level in features]
            assert logits[0].dtype == (half or torch.float32)
            return loss(logits, SparseTargets(index, quality, masks), error)

    step = forward if compiler is None else torch.compile(forward, fullgraph=True, backend=compiler)
    for seed, chosen in enumerate(positives):
        *inputs, error = batches.batch(seed, chosen)
        value = step(*inputs, error.requires_grad_())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        made += [value.detach(), torch.zeros_like(error) if error.grad is None else error.grad]
    return made + [parameter.detach() for parameter in head.parameters()]


def assert_close(got, expected) -> None:
    for mine, other in zip(got, expected, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


# a compilation costs seconds: one loss is tested with every P, the others with fewer
@pytest.mark.parametrize(
    ("name", "levels", "positives", "compilations"),
    [
        pytest.param("rank_sort", LEVELS, POSITIVES, COMPILATIONS, marks=THE_SAME_GRAPH),
        pytest.param("alrp", LEVELS[1:], (10, 12, 0, 40), 3, marks=THE_SAME_GRAPH),
        pytest.param("average_precision", LEVELS[1:], (10, 12, 1, 40), 3, marks=THE_SAME_GRAPH),
        pytest.param("ranking_loss", LEVELS[1:], (10, 12, 40), 2, marks=THE_SAME_GRAPH),
        pytest.param("rank_sort", LEVELS[1:], (12,), 1, marks=INTERPRETED_ALONE),
        pytest.param("ranking_loss", LEVELS[1:], (12,), 1, marks=INTERPRETED_ALONE),
    ],
)
def test_training_steps_are_one_graph(backend, device, name, levels, positives, compilations):
    """No graph break (`fullgraph` refuses one) while P changes from step to step, and every step equal to eager's."""
    loss = functools.partial(LOSSES[name], **named(backend))
    batches, recorder = Batches(levels, device), Recorder()
    assert_close(train(loss, batches, positives, recorder), train(loss, batches, positives))
    assert recorder.forward == [FORWARD[name]] * compilations
    assert recorder.backward == [BACKWARD[name]] * compilations


@THE_SAME_GRAPH
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_logits_from_autocast(backend, device, half):
    loss = functools.partial(LOSSES["rank_sort"], **named(backend))
    batches, recorder = Batches(LEVELS[1:], device), Recorder()
    assert_close(train(loss, batches, (12,), recorder, half), train(loss, batches, (12,), None, half))
    assert recorder.forward == [FORWARD["rank_sort"]]


@THE_SAME_GRAPH
@pytest.mark.parametrize("name", LOSSES)
def test_dense_targets(backend, device, name):
    """P is a number that only the run knows, and the same graph serves every batch."""
    recorder = Recorder()
    compiled = torch.compile(functools.partial(LOSSES[name], **named(backend)), fullgraph=True, backend=recorder)
    for seed, positives in enumerate((9, 14, 1, 0, 30)):
        made = []
        for loss in (compiled, functools.partial(LOSSES[name], **named(backend))):
            levels, targets, error = dense_batch(seed, positives, device)
            value = loss(levels, targets, error)
            value.backward()
            made.append([value, *(level.grad for level in levels), *([] if error.grad is None else [error.grad])])
        assert_close(*made)
    # the shape of the errors changes, which only aLRP reads
    assert len(recorder.forward) == (COMPILATIONS if name == "alrp" else 1)


def dense_batch(seed: int, positives: int, device: str) -> tuple[list[Tensor], list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(300, generator=generator)
    targets = -(torch.rand(300, generator=generator) < 0.2).float()
    place = torch.randperm(300, generator=generator)[:positives]
    targets[place] = torch.rand(positives, generator=generator).clamp(min=0.01)
    levels = [level.to(device).requires_grad_() for level in logits.split([250, 50])]
    error = torch.rand(positives, generator=generator)
    return levels, [level.to(device) for level in targets.split([250, 50])], error.to(device).requires_grad_()


@THE_SAME_GRAPH
def test_without_gradients(backend, device):
    levels, targets, error = dense_batch(0, 20, device)
    loss = functools.partial(LOSSES["rank_sort"], **named(backend))
    recorder = Recorder()
    with torch.no_grad():
        value = torch.compile(loss, fullgraph=True, backend=recorder)(levels, targets, error)
    assert not value.requires_grad
    assert value.item() == pytest.approx(loss(levels, targets, error).item(), abs=1e-7)
    assert recorder.forward == [FORWARD["rank_sort"]]


@THE_SAME_GRAPH
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler for the CPU")
def test_inductor(backend, device):
    loss = functools.partial(LOSSES["rank_sort"], **named(backend))
    batches = Batches(LEVELS[1:], device)
    assert_close(train(loss, batches, (12,), "inductor"), train(loss, batches, (12,)))


# dtype, form of the ignored logits, P, R
OPERATORS = [
    (torch.float32, "nothing", 7, 7),
    (torch.float32, "masks", 7, 7),
    (torch.float32, "labels", 1, 1),
    (torch.float32, "labels of one level", 0, 0),
    (torch.float32, "masks", 0, 20),
    (torch.float64, "labels of one level", 3, 20),
    (torch.float16, "labels", 7, 7),
    (torch.float16, "masks", 0, 0),
    (torch.bfloat16, "nothing", 3, 20),
]
# interpreted, a kernel takes seconds, and tracing a graph around it adds nothing that torch's backend does not show
CHECKS = ["test_schema", "test_faketensor", *([] if INTERPRETED else ["test_autograd_registration"])]
CHECKS += [] if INTERPRETED else ["test_aot_dispatch_dynamic"]


@THE_SAME_GRAPH
@pytest.mark.parametrize(("dtype", "ignoring", "own_size", "size"), OPERATORS, ids=str)
def test_operators_of_the_logits(backend, device, dtype, ignoring, own_size, size):
    """`opcheck`: schema, no aliases, and fake tensors with the shapes, dtypes and strides of real ones."""
    name, computing = operator_backend(backend, dtype), dtype if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(size, generator=generator).to(device, dtype) for size in (40, 0, 9)]
    masks = [(torch.rand(len(level), generator=generator) < 0.3).to(device) for level in levels]
    labels = [-mask.to(torch.float32) for mask in masks]
    ignores = {"nothing": [None] * 3, "masks": masks, "labels": labels, "labels of one level": [labels[0], None, None]}
    own = levels[0][:own_size].to(computing)
    positives = own if size == own_size else torch.randn(size, generator=generator).to(own)
    masked = masks[0][:own_size] if ignoring == "masks" else None
    weights, poison = positives.double().abs(), positives.new_zeros(())
    opcheck(count, (name, positives, own, levels, ignores[ignoring], masked, 0.5), test_utils=CHECKS)
    opcheck(scatter, (name, weights, positives, levels, ignores[ignoring], 0.5, poison), test_utils=CHECKS)


@THE_SAME_GRAPH
@pytest.mark.parametrize(("dtype", "positives"), [(torch.float32, 0), (torch.float32, 11), (torch.float64, 1)], ids=str)
def test_operators_of_the_positives(backend, device, dtype, positives):
    name = operator_backend(backend, dtype)
    generator = torch.Generator().manual_seed(0)
    logits, quality, values = torch.randn(3, positives, generator=generator).to(device, dtype)
    opcheck(sorting_sums, (name, logits, quality, 0.5), test_utils=CHECKS)
    opcheck(sorting_demotion, (name, values, logits, quality, 0.5), test_utils=CHECKS)
    opcheck(weigh_positives, (name, values, logits, 0.5), test_utils=CHECKS)


def call_of(dtype: torch.dtype, positives: int, device: str, *, segments: int | None):
    """(levels, ignores, index, quality, valid), localisation errors and `Segments.numbers`, for an operator."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(size, generator=generator).to(device, dtype) for size in (40, 0, 8)]
    masks = [(torch.rand(len(level), generator=generator) < 0.3).to(device) for level in levels]
    index = torch.randperm(48, generator=generator)[:positives].to(device)
    quality, error = torch.rand(2, positives, generator=generator).to(device)
    valid = (torch.arange(positives, device=device) % 3 > 0) if segments else None
    cut = cut_levels([len(level) for level in levels], segments)
    return (levels, masks, index, quality, valid), error, cut.numbers()


@THE_SAME_GRAPH
@pytest.mark.parametrize("loss", ["rank_sort", "average_precision", "alrp"])
def test_operators_of_segments(backend, device, loss):
    inputs, error, numbers = call_of(torch.float32, 12, device, segments=4)
    given = error if loss == "alrp" else None
    checked = ["test_schema", "test_faketensor"]
    opcheck(segmented_forward, (backend, loss, *inputs, given, numbers, 0.5), test_utils=checked)
    values, *saved = segmented_forward(backend, loss, *inputs, given, numbers, 0.5)
    upstream = list(torch.ones_like(values))
    opcheck(segmented_backward, (backend, loss, *inputs, saved, upstream, numbers, 0.5), test_utils=checked)


@INTERPRETED_ALONE
@pytest.mark.parametrize("segments", [None, 4])
@pytest.mark.parametrize("positives", [0, 1, 12])
@pytest.mark.parametrize("loss", ["rank_sort", "average_precision", "alrp"])
def test_triton_operators(backend, device, loss, positives, segments):
    from rst.kernels.triton_operators import triton_backward, triton_forward

    inputs, error, numbers = call_of(torch.float32, positives, device, segments=segments)
    algorithm, given = backend.removeprefix("triton "), error if loss == "alrp" else None
    opcheck(triton_forward, (algorithm, loss, *inputs, given, numbers, 0.5), test_utils=CHECKS)
    values, *tables = triton_forward(algorithm, loss, *inputs, given, numbers, 0.5)
    sorts = loss == "rank_sort"
    rest = (tables, list(torch.ones_like(values)), given, numbers, sorts, sorts, 0.5)
    opcheck(triton_backward, (algorithm, *inputs, *rest), test_utils=CHECKS)


@INTERPRETED_ALONE
def test_triton_operators_of_own_scores(backend, device):
    from rst.kernels.triton_operators import cells_of, triton_count, triton_pairs, triton_score

    inputs, error, numbers = call_of(torch.bfloat16, 12, device, segments=4)
    algorithm = backend.removeprefix("triton ")
    opcheck(triton_count, (algorithm, *inputs, numbers, 0.5), test_utils=CHECKS)
    masses, _, _, singles, doubles, ints = triton_count(algorithm, *inputs, numbers, 0.5)
    sizes = 12, 4, cells_of(algorithm, 4), 0.5
    for update in ([error], [error, error, None, error]):
        opcheck(triton_score, (singles, doubles, ints, masses, update, *sizes), test_utils=CHECKS)
    for values in (None, error):
        opcheck(triton_pairs, (singles, ints, values, *sizes), test_utils=CHECKS)


def operator_backend(backend: str, dtype: torch.dtype) -> str:
    """The name of a backend for the operators: a key of `BACKENDS` in backends.py."""
    if backend.startswith("triton") and dtype == torch.float64:
        pytest.skip("Triton computes in float32")
    return backend.replace(" ", ", ")
