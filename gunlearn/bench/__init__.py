"""Suites of cells (data set x request x task x seed), the methods on each, and studies of influence."""

from __future__ import annotations

from gunlearn.bench.backends import cluster
from gunlearn.bench.cell import Cell
from gunlearn.bench.config import GridConfig, suite
from gunlearn.bench.grid import run_grid
from gunlearn.bench.influence_grid import InfluenceConfig, run_influence
from gunlearn.bench.models import ModelStore, Recipe
from gunlearn.bench.store import ROWS_FILE, RowStore, read_results
from gunlearn.bench.study_files import read_study, write_study

__all__ = [
    "ROWS_FILE",
    "Cell",
    "GridConfig",
    "InfluenceConfig",
    "ModelStore",
    "Recipe",
    "RowStore",
    "cluster",
    "read_results",
    "read_study",
    "run_grid",
    "run_influence",
    "suite",
    "write_study",
]
