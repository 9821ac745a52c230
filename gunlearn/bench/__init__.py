"""Grids of data set x request x method x seed."""

from __future__ import annotations

from gunlearn.bench.backends import cluster
from gunlearn.bench.config import Cell, GridConfig
from gunlearn.bench.grid import run_grid
from gunlearn.bench.models import ModelStore, Recipe
from gunlearn.bench.store import read_results

__all__ = ["Cell", "GridConfig", "ModelStore", "Recipe", "cluster", "read_results", "run_grid"]
