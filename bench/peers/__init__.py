"""What our losses are measured against: the published ways to rank, and the pointwise losses that users else pay.

Every file is written from its paper. All take flat logits (M,) and dense targets (M,) and give an `Outcome`, so that a
benchmark cannot time a forward pass without its backward.
"""

from .bucketed import bucketed, bucketed_bytes
from .equations import Outcome
from .loop import per_positive_loop, per_positive_rank_sort
from .matrix import dense_matrix, dense_matrix_bytes
from .pointwise import binary_cross_entropy, quality_focal, sigmoid_focal

__all__ = [
    "Outcome",
    "binary_cross_entropy",
    "bucketed",
    "bucketed_bytes",
    "dense_matrix",
    "dense_matrix_bytes",
    "per_positive_loop",
    "per_positive_rank_sort",
    "quality_focal",
    "sigmoid_focal",
]
