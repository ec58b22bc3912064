"""rst's forward and backward with sparse targets in a CUDA graph: rows of the tables of heads.

conftest.py puts these tests last: a capture that fails may leave the process without a usable device.
"""

import pytest
from contenders import GRAPH
from device import ON_GPU
from measure import measure, timed_on_device
from shapes import ATSS, RPN, SHAPES, STAGES


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", [RPN, ATSS])
@timed_on_device
def test_replay(benchmark, facts, shape, stage):
    measure(benchmark, facts, "head", shape, SHAPES[shape], stage, GRAPH)
