"""Rows drawn: tables for the terminal and READMEs, HTML reports, listings of what there is."""

from __future__ import annotations

from gunlearn.report.html import evaluation_report, grid_report
from gunlearn.report.influence_table import (
    influence_markdown_table,
    influence_report,
    influence_rich_table,
    study_title,
)
from gunlearn.report.listing import estimators_table, losses_table, methods_table
from gunlearn.report.table import markdown_table, rich_table, text_table

__all__ = [
    "estimators_table",
    "evaluation_report",
    "grid_report",
    "influence_markdown_table",
    "influence_report",
    "influence_rich_table",
    "losses_table",
    "markdown_table",
    "methods_table",
    "rich_table",
    "study_title",
    "text_table",
]
