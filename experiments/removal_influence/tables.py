"""Rows as the two tables of README.md: `python -m experiments.removal_influence.tables results.json`."""

import json
import sys
from pathlib import Path
from typing import Any

from experiments.common import markdown

SPEED = ("graph", "layers", "edges", "exact, s", "brute force, s (projected)", "ratio", "largest difference (float64)")
QUALITY = ("graph", "estimator", "Spearman", "Kendall", "Pearson", "top 1 % found", "seconds", "of exact's")


def tables(rows: list[dict[str, Any]]) -> str:
    speed, quality = [], []
    for row in rows:
        if row["part"] == "speed":
            speed.append([
                row["dataset"], row["model"], f"{row['num_items']:,}", f"{row['exact_s']:.2f}",
                f"{row['brute_s_projected']:,.0f}", f"{row['ratio']:.0f}", f"{row['relative_error_float64']:.0e}",
            ])  # fmt: skip
        else:
            low, high = row["spearman_ci"]
            quality.append([
                row["dataset"], row["estimator"], f"{row['spearman']:.3f} [{low:.3f}, {high:.3f}]",
                f"{row['kendall']:.3f}", f"{row['pearson']:.3f}", f"{row['precision_at_1pct']:.2f}",
                f"{row['seconds']:.3f}", f"{row['share_of_exact']:.3f}",
            ])  # fmt: skip
    return f"{markdown(SPEED, speed, left=2)}\n\n{markdown(QUALITY, quality, left=2)}"


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
