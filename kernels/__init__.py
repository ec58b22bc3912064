"""Exact ranking losses for detection: importable with torch alone, on Triton kernels where Triton is present."""

from .alrp import AlrpLoss, SelfBalance, alrp, average_precision
from .rank_sort import RankSortLoss, rank_sort, ranking_loss
from .scores import Counts, Update
from .targets import SparseTargets, gather_levels

__all__ = [
    "AlrpLoss",
    "Counts",
    "RankSortLoss",
    "SelfBalance",
    "SparseTargets",
    "Update",
    "alrp",
    "average_precision",
    "gather_levels",
    "rank_sort",
    "ranking_loss",
]
