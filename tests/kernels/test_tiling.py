"""No division of the work changes a result: tiles of the Triton kernels, chunks and shortcuts of the torch backend."""

import pytest
import torch
from rank_sort_cases import INTERPRETED, assert_exact, named_rankings, outcome, random_ranking

from rst.kernels import SparseTargets, torch_breakpoints, torch_chunks, torch_kinks, torch_pairs
from rst.kernels.targets import build_ranking

NAMED = named_rankings()
torch_only = pytest.mark.skipif(INTERPRETED, reason="the torch backend runs in the other process")


@pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs the interpreter or a GPU")
@pytest.mark.parametrize(("block_p", "block_n", "tiles"), [(16, 128, 1), (32, 64, 3), (64, 128, 2)])
def test_any_tiling(monkeypatch, block_p, block_n, tiles):
    from rst.kernels import triton_pairs, triton_tiled

    device = "cpu" if INTERPRETED else "cuda"
    ranking = NAMED["typical"]
    usual = outcome(ranking, "triton", device)
    sizes = {triton_tiled: ("COUNT_BLOCK_N", "SCATTER_BLOCK_N"), triton_pairs: ("BLOCK_N",)}
    for module, names in sizes.items():
        monkeypatch.setattr(module, "BLOCK_P", block_p)
        for name in names:
            monkeypatch.setattr(module, name, block_n)
    monkeypatch.setattr(triton_tiled, "TILES_PER_PROGRAM", tiles)
    got = outcome(ranking, "triton", device)
    assert got[0] == usual[0], "masses are counted in whole units: the same in any order"
    assert got[1] == pytest.approx(usual[1], abs=1e-7)
    torch.testing.assert_close(got[2], usual[2], rtol=3e-6, atol=1e-8)


@torch_only
@pytest.mark.parametrize("chunk", [1, 64, 1000])
@pytest.mark.parametrize("name", ["typical", "ties", "three positives", "infinities of both"])
def test_any_chunk(monkeypatch, name, chunk):
    monkeypatch.setattr(torch_chunks, "CHUNK", chunk)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])


@torch_only
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", ["typical", "hard step", "outlying positive", "infinities of both"])
def test_picking_visible_logits_out_or_not(monkeypatch, name, share):
    monkeypatch.setattr(torch_chunks, "SPARSE_SHARE", share)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])


@torch_only
@pytest.mark.parametrize("cells", [1, 1 << 2, 1 << 10, 1 << 20])
@pytest.mark.parametrize("name", ["typical", "ties", "initialisation", "far apart", "hard step", "infinities of both"])
def test_any_grid(monkeypatch, name, cells):
    monkeypatch.setattr(torch_kinks, "LEAST_CELLS", cells)
    monkeypatch.setattr(torch_kinks, "MOST_CELLS", cells)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])


@torch_only
@pytest.mark.parametrize(("rows", "lanes"), [(1, 1), (2, 8), (7, 2)])
@pytest.mark.parametrize("name", ["typical", "ties", "hard step"])
def test_any_rows_and_lanes(monkeypatch, name, rows, lanes):
    monkeypatch.setattr(torch_chunks, "ROWS", rows)
    monkeypatch.setattr(torch_kinks, "ROWS", rows)
    monkeypatch.setattr(torch_breakpoints, "ROWS", rows)
    monkeypatch.setattr(torch_breakpoints, "LANES", lanes)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])


@torch_only
def test_any_number_of_threads_gives_the_same_bits():
    ranking = random_ranking(50, 300_000, 500)
    usual, threads = outcome(ranking, "torch"), torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            got = outcome(ranking, "torch")
            assert got[0] == usual[0]
            assert torch.equal(got[2], usual[2])
    finally:
        torch.set_num_threads(threads)


@torch_only
@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("positives", [2, 40])
def test_scatter_with_and_without_what_count_hands_over(positives, delta):
    logits = random_ranking(51, 3000, positives).logits
    index, weights = torch.arange(positives), torch.rand(positives).double()
    ranking = build_ranking([logits], SparseTargets(index, torch.rand(positives)))
    above, poison = logits[:positives], torch.zeros(())
    reuse = torch_breakpoints.count(above, above, ranking, delta).reuse
    assert reuse is not None
    fresh = torch_breakpoints.scatter(weights, above, ranking, delta, poison)
    assert torch.equal(torch_breakpoints.scatter(weights, above, ranking, delta, poison, reuse=reuse), fresh)


@torch_only
@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("name", ["typical", "one positive", "hard step", "infinite positives"])
def test_one_by_one_or_by_tables(monkeypatch, name, few):
    monkeypatch.setattr(torch_breakpoints, "FEW_POSITIVES", few)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])


@torch_only
@pytest.mark.parametrize("size", [1, 100, 1000])
@pytest.mark.parametrize("name", ["typical", "ties", "equal qualities", "all positive"])
def test_any_block_of_pairs(monkeypatch, name, size):
    monkeypatch.setattr(torch_pairs, "PAIRS", size)
    assert_exact(outcome(NAMED[name], "torch"), NAMED[name])
