"""The losses inside torch.compile: one graph with our operators in it, equal to eager, few recompilations.

    R  positives of the ranking      P  positives of one process      M  logits

All but one test compile with a backend that traces forward and backward as Inductor gets them, and runs them without
optimising: the tests are about tracing, not about speed.
"""

import functools
import shutil

import pytest
import torch
from every_loss import LOSSES, errors_of, every_backend
from functorch.compile import make_boxed_func
from rank_sort_cases import INTERPRETED, named, random_ranking
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from rst.kernels import SparseTargets
from rst.kernels.operators import NAMESPACE

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


# The operators in the graphs of a loss
FORWARD = {name: ["count"] for name in LOSSES}
FORWARD |= {"rank_sort": ["count", "sorting_sums"], "alrp": ["count", "weigh_positives"]}
BACKWARD = {name: ["scatter"] for name in LOSSES} | {"rank_sort": ["scatter", "sorting_demotion"]}


def operators(backend: str, name: str) -> tuple[list[str], list[str]]:
    """Those of forward and of backward. Triton has one each."""
    if backend.startswith("triton"):
        # the score of one's own writes into its inputs: another kind of node
        return ["triton_count" if name == "ranking_loss" else "triton_forward"], ["triton_backward"]
    return FORWARD[name], BACKWARD[name]


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
    forward, backward = operators(backend, name)
    assert recorder.forward == [forward] * compilations
    assert recorder.backward == [backward] * compilations


@THE_SAME_GRAPH
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_logits_from_autocast(backend, device, half):
    loss = functools.partial(LOSSES["rank_sort"], **named(backend))
    batches, recorder = Batches(LEVELS[1:], device), Recorder()
    assert_close(train(loss, batches, (12,), recorder, half), train(loss, batches, (12,), None, half))
    assert recorder.forward == [operators(backend, "rank_sort")[0]]


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
    assert recorder.forward == [operators(backend, "rank_sort")[0]]


@THE_SAME_GRAPH
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler for the CPU")
def test_inductor(backend, device):
    loss = functools.partial(LOSSES["rank_sort"], **named(backend))
    batches = Batches(LEVELS[1:], device)
    assert_close(train(loss, batches, (12,), "inductor"), train(loss, batches, (12,)))


@THE_SAME_GRAPH
@pytest.mark.parametrize(
    ("name", "dense", "dynamic"),
    [
        ("rank_sort", True, "all"),
        ("rank_sort", True, "automatic"),
        ("rank_sort", False, "marked"),
        ("average_precision", True, "marked"),
        ("alrp", False, "automatic"),
        ("ranking_loss", False, "all"),
    ],
)
def test_dynamic_shapes(backend, device, name, dense, dynamic):
    """Sizes, P and delta may be symbols of the graph: it is one graph, and gives what eager gives."""

    def step(logits, targets, error, delta):
        return LOSSES[name](logits, targets, error, delta=delta, **named(backend))

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True if dynamic == "all" else None, backend="aot_eager")
    for seed, (size, positives, delta) in enumerate([(100, 9, 0.5), (120, 9, 0.5), (150, 20, 1.0), (90, 0, 0.0)]):
        ranking = random_ranking(seed, size, positives)
        error, targets = errors_of(ranking).to(device), ranking.targets.to(device)
        index = (targets > 0).nonzero().squeeze(1)
        sparse = SparseTargets(index, targets[index], targets < 0)
        logits = [ranking.logits.clone().to(device).requires_grad_() for _ in range(2)]
        if dynamic == "marked":
            own = [targets] if dense else [sparse.ignore]
            if positives > 1:
                own += [error] if dense else [error, sparse.index, sparse.quality]
            own = own if name == "alrp" or positives <= 1 else [tensor for tensor in own if tensor is not error]
            for tensor in [logits[0], *own]:
                torch._dynamo.mark_dynamic(tensor, 0)
        values = [
            run(each, targets if dense else sparse, error, delta)
            for run, each in zip((compiled, step), logits, strict=True)
        ]
        for value in values:
            value.backward()
        assert values[0].item() == pytest.approx(values[1].item(), abs=1e-6)
        torch.testing.assert_close(logits[0].grad, logits[1].grad, rtol=1e-6, atol=1e-8)
