"""One HTML report in one file: parts in, a page out that fetches nothing and runs nothing but its own script."""

from tissue_crosstalk.core.report.page import (
    Block,
    Chapter,
    Facts,
    FigureBlock,
    Gallery,
    Report,
    Table,
    Text,
    Warnings,
    render_report,
)
from tissue_crosstalk.core.report.study import StudyResults, study_report

__all__ = [
    "Block",
    "Chapter",
    "Facts",
    "FigureBlock",
    "Gallery",
    "Report",
    "StudyResults",
    "Table",
    "Text",
    "Warnings",
    "render_report",
    "study_report",
]
