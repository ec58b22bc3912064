"""The trees over pairs of positives that can run here, each beside the passes that take it for many positives.

R  positives
"""

import pytest
import torch
from rank_sort_cases import INTERPRETED

from rst.kernels import torch_pairs, torch_pairs_tree

DEVICE = "cpu" if INTERPRETED else "cuda"  # of Triton
# name -> (the passes, the tree, the device)
TREES = {} if INTERPRETED else {"torch-cpu": (torch_pairs, torch_pairs_tree, "cpu")}
if INTERPRETED or torch.cuda.is_available():
    import unsorted_tree

    from rst.kernels import triton_pairs

    TREES[f"triton-{DEVICE}"] = (triton_pairs, unsorted_tree, DEVICE)
    if not INTERPRETED:
        TREES["torch-cuda"] = (torch_pairs, torch_pairs_tree, DEVICE)
every_tree = pytest.mark.parametrize(("pairs", "tree", "device"), TREES.values(), ids=TREES)
triton_only = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs the interpreter or a GPU"
)
