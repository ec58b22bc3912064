"""Forward and backward of the Rank & Sort loss beside the published ways and the pointwise losses, head by head."""

import pytest
from contenders import BUCKETED, COMPILED_FOCAL, CONTENDERS, FOCAL, HERE, OURS
from device import DEVICE
from measure import measure, timed_on_device
from shapes import RPN, SHAPES, STAGES, SWEEP_NEGATIVES, SWEEP_POSITIVES, SWEEP_STAGE, TWENTY_MILLION, sample

REPEATS = 100
# ATSS has about the same size: there all contenders are measured
FEW = {TWENTY_MILLION: [OURS, BUCKETED, FOCAL, COMPILED_FOCAL]}
# The compiled focal loss does not depend on P, and would be compiled for each of these sizes
AGAINST_POSITIVES = [name for name in HERE if name != COMPILED_FOCAL]
HEADS = [(shape, stage, name) for shape in SHAPES for stage in STAGES for name in FEW.get(shape, HERE)]


@pytest.mark.parametrize(("shape", "stage", "contender"), HEADS)
@timed_on_device
def test_head(benchmark, facts, shape, stage, contender):
    measure(benchmark, facts, "head", shape, SHAPES[shape], stage, contender)


@pytest.mark.parametrize("contender", AGAINST_POSITIVES)
@pytest.mark.parametrize("shape", SWEEP_POSITIVES, ids=lambda shape: f"P={shape.positives}")
@timed_on_device
def test_against_positives(benchmark, facts, shape, contender):
    measure(benchmark, facts, "positives", f"P={shape.positives:,}", shape, SWEEP_STAGE, contender)


@pytest.mark.parametrize("contender", HERE)
@pytest.mark.parametrize("shape", SWEEP_NEGATIVES, ids=lambda shape: f"N={shape.negatives}")
@timed_on_device
def test_against_negatives(benchmark, facts, shape, contender):
    measure(benchmark, facts, "negatives", f"N={shape.negatives:,}", shape, SWEEP_STAGE, contender)


def test_same_bits_every_time(facts):
    """The number of distinct outcomes, bit by bit, in repeats of one ranking on this device."""
    data = sample(SHAPES[RPN], "early", DEVICE)
    outcomes = {_bits(CONTENDERS[OURS].run(data)) for _ in range(REPEATS)}
    facts["determinism"] = {"repeats": REPEATS, "different": len(outcomes), "contender": OURS}
    assert len(outcomes) == 1


def _bits(outcome) -> bytes:
    return b"".join(part.cpu().numpy().tobytes() for part in outcome)
