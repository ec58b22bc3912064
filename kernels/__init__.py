"""Exact ranking losses for detection: importable with torch alone, on Triton kernels where Triton is present."""

from .ranking import RankSortLoss, rank_sort
from .targets import SparseTargets, gather_levels

__all__ = ["RankSortLoss", "SparseTargets", "gather_levels", "rank_sort"]
