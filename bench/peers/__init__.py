"""The peers of rst's losses: the published ways to rank, and the usual pointwise losses.

Every file is written from its paper. All take flat logits (M,) and dense targets (M,) and return an `Outcome` with the
gradient, so a benchmark always times forward and backward.
"""

from .bucketed import bucketed, bucketed_bytes
from .equations import Outcome
from .loop import per_positive_loop, per_positive_rank_sort
from .matrix import dense_matrix, dense_matrix_bytes
from .pointwise import binary_cross_entropy, compiled_sigmoid_focal, compiler_obstacle, quality_focal, sigmoid_focal

__all__ = [
    "Outcome",
    "binary_cross_entropy",
    "bucketed",
    "bucketed_bytes",
    "compiled_sigmoid_focal",
    "compiler_obstacle",
    "dense_matrix",
    "dense_matrix_bytes",
    "per_positive_loop",
    "per_positive_rank_sort",
    "quality_focal",
    "sigmoid_focal",
]
