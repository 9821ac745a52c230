"""Tables for the terminal and READMEs, HTML reports, plots, listings. Names load on first use."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.report.frontier_picture": ("frontier_plot", "save_frontier"),
    "gunlearn.report.frontier_table": ("frontier_markdown",),
    "gunlearn.report.html": ("evaluation_report", "grid_report"),
    "gunlearn.report.influence_table": (
        "influence_markdown_table",
        "influence_report",
        "influence_rich_table",
        "study_title",
    ),
    "gunlearn.report.listing": ("estimators_table", "figures_table", "losses_table", "methods_table"),
    "gunlearn.report.picture_grid": ("denoiser_report",),
    "gunlearn.report.table": ("markdown_table", "rich_table", "text_table"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
