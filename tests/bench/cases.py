"""What the tests of grids share: a small recipe, and rows without what no two runs have alike."""

from typing import Any

from gunlearn.bench import Recipe

RECIPE = Recipe(epochs=20, eval_every=10, hidden_channels=8, out_channels=4)
MEASURED = ("seconds", "seconds_per_epoch", "peak_memory_mb", "base_seconds")


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def row_of(rows: list[dict[str, Any]], method: str, seed: int = 0) -> dict[str, Any]:
    return next(row for row in rows if row["method"] == method and row["seed"] == seed)
