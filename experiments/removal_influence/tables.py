"""Rows as the two tables of README.md: `python -m experiments.removal_influence.tables results.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SPEED = "| graph | layers | edges | exact, s | brute force, s (projected) | ratio | largest difference (float64) |\n"
QUALITY = "| graph | estimator | Spearman | Kendall | Pearson | top 1 % found | seconds | of exact's |\n"


def tables(rows: list[dict[str, Any]]) -> str:
    lines = [SPEED, "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"]
    for row in rows:
        if row["part"] == "speed":
            lines.append(
                f"| {row['dataset']} | {row['model']} | {row['num_items']:,} | {row['exact_s']:.2f} "
                f"| {row['brute_s_projected']:,.0f} | {row['ratio']:.0f} | {row['relative_error_float64']:.0e} |\n"
            )
    lines += ["\n", QUALITY, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"]
    for row in rows:
        if row["part"] == "quality":
            low, high = row["spearman_ci"]
            lines.append(
                f"| {row['dataset']} | {row['estimator']} | {row['spearman']:.3f} [{low:.3f}, {high:.3f}] "
                f"| {row['kendall']:.3f} | {row['pearson']:.3f} | {row['precision_at_1pct']:.2f} "
                f"| {row['seconds']:.3f} | {row['share_of_exact']:.3f} |\n"
            )
    return "".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
