"""Grids of cells (data set x request x task x seed) and methods, and studies of influence."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.bench.backends": ("cluster",),
    "gunlearn.bench.cell": ("Cell",),
    "gunlearn.bench.config": ("GridConfig", "suite"),
    "gunlearn.bench.grid": ("run_grid",),
    "gunlearn.bench.influence_grid": ("InfluenceConfig", "read_study", "run_influence", "write_study"),
    "gunlearn.bench.models": ("ModelStore", "Recipe"),
    "gunlearn.bench.store": ("COMMAND_FILE", "ROWS_FILE", "RowStore", "atomic_write", "read_command", "read_results"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
