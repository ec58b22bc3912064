"""13 rankings in one call, in 13 calls, and one ranking: equal to the last bit, then timed."""

from functools import lru_cache

import pytest
import torch
from device import DEVICE, ON_GPU, before_round, host_seconds
from measure import timed_on_device
from segments import RUNS, SHAPE, TABLE, TOGETHER, Rankings, obstacle, one_by_one, rankings

ROUNDS = 15


@lru_cache
def data() -> Rankings:
    return rankings(device=DEVICE)


@pytest.mark.parametrize("contender", RUNS)
@timed_on_device
def test_rankings(benchmark, facts, contender):
    place = {"table": TABLE, "shape": SHAPE, "contender": contender}
    benchmark.group = f"{TABLE}: {SHAPE}"
    reason = obstacle() if contender == TOGETHER else None
    if reason:
        facts["left_out"].append({**place, "stage": "", "reason": reason})
        pytest.skip(f"{contender} left out: {reason}")
    run = RUNS[contender]
    found, expected = run(data()), one_by_one(data())
    assert all(torch.equal(one, other[: len(one)]) for one, other in zip(found, expected, strict=True))
    benchmark.extra_info.update(place)
    if ON_GPU:
        benchmark.extra_info["host"] = host_seconds(lambda: run(data()))
    benchmark.pedantic(run, args=(data(),), setup=before_round, rounds=ROUNDS)
