"""What is wrong with a data set, all of it in one pass, and what is in it."""

from rst.data.check.images import Track
from rst.data.check.report import KINDS, Finding, Report
from rst.data.check.run import check_annotations

__all__ = ["KINDS", "Finding", "Report", "Track", "check_annotations"]
