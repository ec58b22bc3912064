"""The operators of compiled graphs, each checked alone: schema, aliases, and fake tensors with the shapes of real ones.

R  positives of the ranking      P  positives of one process
"""

import pytest
import torch
from every_loss import every_backend
from rank_sort_cases import INTERPRETED
from torch.library import opcheck

from rst.kernels.operators import (
    count,
    scatter,
    sorting_demotion,
    sorting_sums,
    weigh_positives,
)
from rst.kernels.segmented_operators import (
    TABLES,
    segmented_backward,
    segmented_count,
    segmented_forward,
    segmented_pairs,
    segmented_sums,
)
from rst.kernels.segments import cut_levels

pytestmark = every_backend


@pytest.fixture(autouse=True)
def _own_operators(request: pytest.FixtureRequest, backend: str) -> None:
    """Triton has operators of its own."""
    if ("triton" in request.node.originalname) != backend.startswith("triton"):
        pytest.skip(f"no operators of {backend}")


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
SHAPES = ["test_schema", "test_faketensor"]
CHECKS = [*SHAPES, *([] if INTERPRETED else ["test_autograd_registration"])]
# the tables of Triton hold places that nobody writes or reads, and that check would compare them: NaN and NaN
OF_TABLES = list(CHECKS)
CHECKS += [] if INTERPRETED else ["test_aot_dispatch_dynamic"]


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


@pytest.mark.parametrize("loss", ["rank_sort", "average_precision", "alrp"])
def test_operators_of_segments(backend, device, loss):
    inputs, error, numbers = call_of(torch.float32, 12, device, segments=4)
    given = error if loss == "alrp" else None
    opcheck(segmented_forward, (backend, loss, *inputs, given, numbers, 0.5), test_utils=SHAPES)
    values, positives, quality, poison, segment, tables = segmented_forward(backend, loss, *inputs, given, numbers, 0.5)
    saved = [positives, quality, poison, segment, *tables]
    flags = [flag for pair in TABLES[loss] for flag in pair]
    rest = (saved, flags, loss == "alrp", list(torch.ones_like(values)), numbers, 0.5)
    opcheck(segmented_backward, (backend, *inputs, *rest), test_utils=SHAPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_operators_of_segments_around_own_scores(backend, device, dtype):
    inputs, error, numbers = call_of(dtype, 12, device, segments=4)
    opcheck(segmented_count, (backend, *inputs, numbers, 0.5), test_utils=SHAPES)
    _, _, (positives, quality), segment = segmented_count(backend, *inputs, numbers, 0.5)
    for values in (None, error.to(positives)):
        opcheck(segmented_pairs, (backend, positives, quality, values, segment, 4, 0.5), test_utils=SHAPES)
    for mean in (False, True):
        opcheck(segmented_sums, (error, segment, 4), {"mean": mean}, test_utils=SHAPES)


@pytest.mark.parametrize(("positives", "segments"), [(0, None), (12, 4)])
@pytest.mark.parametrize("loss", ["rank_sort", "average_precision", "alrp"])
def test_triton_operators(backend, device, loss, positives, segments):
    from rst.kernels.triton_operators import triton_backward, triton_forward

    inputs, error, numbers = call_of(torch.float32, positives, device, segments=segments)
    algorithm, given = backend.removeprefix("triton "), error if loss == "alrp" else None
    opcheck(triton_forward, (algorithm, loss, *inputs, given, numbers, 0.5), test_utils=OF_TABLES)
    values, *tables = triton_forward(algorithm, loss, *inputs, given, numbers, 0.5)
    sorts = loss == "rank_sort"
    rest = (tables, list(torch.ones_like(values)), given, numbers, sorts, sorts, 0.5)
    opcheck(triton_backward, (algorithm, *inputs, *rest), test_utils=CHECKS)


def test_triton_operators_of_own_scores(backend, device):
    from rst.kernels.triton_operators import cells_of, triton_count, triton_pairs, triton_score

    inputs, error, numbers = call_of(torch.bfloat16, 12, device, segments=4)
    algorithm = backend.removeprefix("triton ")
    opcheck(triton_count, (algorithm, *inputs, numbers, 0.5), test_utils=OF_TABLES)
    masses, _, _, singles, doubles, ints = triton_count(algorithm, *inputs, numbers, 0.5)
    sizes = 12, 4, cells_of(algorithm, 4), 0.5
    for update in ([error], [error, error, None, error]):
        opcheck(triton_score, (singles, doubles, ints, masses, update, *sizes), test_utils=OF_TABLES)
    for values in (None, error):
        opcheck(triton_pairs, (singles, ints, values, *sizes), test_utils=CHECKS)


def operator_backend(backend: str, dtype: torch.dtype) -> str:
    """The name of a backend for the operators: a key of `BACKENDS` in backends.py."""
    if backend.startswith("triton") and dtype == torch.float64:
        pytest.skip("Triton computes in float32")
    return backend.replace(" ", ", ")
