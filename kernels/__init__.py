"""Exact ranking losses for detection: importable with torch alone, with Triton kernels where Triton is installed."""

from .alrp import AlrpLoss, SelfBalance, alrp
from .average_precision import average_precision
from .graphs import graphed_loss
from .places import gather_levels
from .rank_sort import RankSortLoss, rank_sort
from .ranking_loss import ranking_loss
from .scores import Counts, Update
from .targets import SparseTargets

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
    "graphed_loss",
    "rank_sort",
    "ranking_loss",
]
