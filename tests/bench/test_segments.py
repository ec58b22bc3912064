"""The benchmark of several rankings in one call: the same rankings in every form."""

import pytest
import torch
from segments import first_alone, in_one_call, obstacle, one_by_one, rankings
from shapes import Shape

SMALL = rankings(Shape(4, 96), count=3)


def test_the_forms_name_the_same_positives():
    rows = [100 * place + targets.index for place, targets in enumerate(SMALL.each)]
    assert torch.equal(SMALL.together.index, torch.cat(rows))
    assert torch.equal(SMALL.together.quality, torch.cat([targets.quality for targets in SMALL.each]))
    assert len({tuple(row.tolist()) for row in SMALL.logits}) == 3, "three different rankings"


def test_one_is_the_first_of_many():
    values, gradient = one_by_one(SMALL)
    assert values.shape == (3, 2)
    first, its_gradient = first_alone(SMALL)
    assert torch.equal(first[0], values[0])
    assert torch.equal(its_gradient[0], gradient[0])


@pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))
def test_one_call_equals_many():
    assert all(torch.equal(one, other) for one, other in zip(in_one_call(SMALL), one_by_one(SMALL), strict=True))
