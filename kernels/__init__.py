"""Exact ranking losses for detection: importable with torch alone, on Triton kernels where Triton is present."""

from .ranking import RankSortLoss, SparseTargets, rank_sort

__all__ = ["RankSortLoss", "SparseTargets", "rank_sort"]
