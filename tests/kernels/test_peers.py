"""What the benchmarks compare with is the published loss: the same numbers as the dense equations and the vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peers import per_positive_loop
from rank_sort_cases import INTERPRETED, Ranking, named_rankings, outcome

pytestmark = pytest.mark.skipif(INTERPRETED, reason="no kernel of ours takes part")

PUBLISHED = np.load(Path(__file__).parent.parent / "data" / "ranking_losses.npz")
SMOOTH = {
    name: ranking
    for name, ranking in named_rankings().items()
    if ranking.delta > 0 and ranking.logits.isfinite().all() and len(ranking.logits) < 10_000
}


@pytest.mark.parametrize("name", SMOOTH)
def test_per_positive_loop_equals_the_dense_equations(name):
    ranking = SMOOTH[name].to(torch.float64)
    truth = outcome(ranking, "reference")
    loop = per_positive_loop(ranking.logits, ranking.targets.double(), ranking.delta)
    assert loop.ranking.item() == pytest.approx(truth[0], abs=1e-12)
    assert loop.sorting.item() == pytest.approx(truth[1], abs=1e-6), "quality in float32 against float64"
    torch.testing.assert_close(loop.gradient, truth[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", ["c00", "c01", "c02", "c03", "c05"])
def test_per_positive_loop_equals_the_published_implementation(case):
    vector = {name: PUBLISHED[f"{case}_{name}"] for name in ("logits", "targets", "delta", "rs_ranking", "rs_sorting")}
    ranking = Ranking(torch.tensor(vector["logits"]), torch.tensor(vector["targets"]), float(vector["delta"]))
    loop = per_positive_loop(ranking.logits, ranking.targets, ranking.delta)
    assert abs(loop.ranking.item() - vector["rs_ranking"]) <= 1e-6
    assert abs(loop.sorting.item() - vector["rs_sorting"]) <= 1e-6
    assert np.abs(loop.gradient.numpy() - PUBLISHED[f"{case}_rs_grad"]).max() <= 1e-6
