"""Tables and plots of the rows; `python -m experiments.speed.report DIR` puts them into the README of this folder."""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.common import markdown, write_results
from experiments.speed.parts import KINDS

Row = dict[str, Any]
HERE = Path(__file__).parent
PRODUCTS = ("features", "adjacency", "dense")
PARTS = ("step", "parts", "run", "retrain", "scale", "requests")
COLUMNS: dict[str, dict[str, str]] = {
    "step": {
        "case": "case", "edges": "edges", "ours_s": "ours s", "plain_s": "plain s", "ratio": "ratio",
        "plain_one_way_s": "plain, one direction s", "csr_s": "PyG on CSR s", "csr_ratio": "ratio",
        "csr_one_way_s": "PyG on CSR, one direction s", "csr_one_way_ratio": "ratio",
        "ours_mb": "ours MiB", "plain_mb": "plain MiB",
        "ours_steps_mb": "ours, steps alone MiB", "plain_steps_mb": "plain, steps alone MiB",
        "bound_s": "bound s", "over_bound": "ours / bound", "compulsory_s": "compulsory s",
    },
    "parts": {
        "case": "case", **{kind: kind for kind in (*KINDS, "rest")},
        "csr_over_products": "PyG on CSR / products alone",
    },
    "run": {
        "case": "case", "edges": "edges", "epochs": "epochs", "ours_s": "ours s", "plain_s": "plain s",
        "ratio": "ratio", "csr_s": "PyG on CSR s", "csr_ratio": "ratio", "retain_auc": "AUC retain",
        "forget_auc": "AUC forget", "note": "note",
    },
    "retrain": {
        "case": "case", "edges": "edges", "ours_s": "unlearning s", "plain_s": "retraining s", "ratio": "ratio",
        "epochs": "epochs", "val_auc": "validation AUC", "plain_training_s": "plain training s", "note": "note",
    },
    "scale": {
        "case": "case", "edges": "edges", "ours_s": "ours s", "ours_edge_ns": "ours ns/edge", "plain_s": "plain s",
        "ratio": "ratio", "csr_s": "PyG on CSR s", "csr_ratio": "ratio", "ours_mb": "ours MiB",
        "plain_mb": "plain MiB", "bound_s": "bound s", "over_bound": "ours / bound", "compulsory_s": "compulsory s",
    },
    "requests": {
        "case": "case", "nodes": "nodes", "edges": "edges", "ours_s": "prepared s", "ours_cpu_s": "processor s",
        "next_cpu_s": "the next one, processor s", "plain_cpu_s": "not prepared, processor s",
        "mask_cpu_s": "masks of PyG, processor s", "preparing_cpu_s": "prepare, processor s",
        "first_cpu_s": "first request, processor s", "steps": "steps", "step_s": "a step, processor s",
        "in_steps": "in steps' time", "peak_mb": "peak MiB", "busy": "busy",
    },
}  # fmt: skip


def of_part(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row["case"].startswith(f"{part}-")]


def table(rows: Sequence[Row], part: str) -> str:
    """The rows of one part in markdown."""
    columns, shown = COLUMNS[part], of_part(rows, part)
    if part == "parts":
        shown = [row | {"csr_over_products": csr_over_products(row, rows)} for row in shown]
    return markdown(list(columns.values()), ([_shown(row.get(name)) for name in columns] for row in shown))


def csr_over_products(parts: Row, rows: Sequence[Row]) -> float | None:
    """How many times as long PyG on CSR takes as the products of our step alone, if all else took no time.

    These are the products with features, adjacency and weights, by their share of the step under the profiler; `None`
    without the row of the step.
    """
    step = next((row for row in rows if row["case"] == parts["case"].replace("parts", "step", 1)), None)
    ms = {kind: float(str(parts[kind]).split()[0]) for kind in (*KINDS, "rest")}
    products = sum(ms[kind] for kind in PRODUCTS)
    return None if step is None or not products else step["csr_ratio"] * sum(ms.values()) / products


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def fill(text: str, rows: Sequence[Row]) -> str:
    """Replace what stands between `<!-- table: PART -->` and `<!-- end -->`; parts without rows stay as they are."""
    for part in PARTS:
        if of_part(rows, part):
            between = rf"(<!-- table: {part} -->\n).*?(<!-- end -->)"
            new = table(rows, part)
            text = re.sub(between, lambda m, new=new: f"{m[1]}\n{new}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


def plot_scale(rows: Sequence[Row], path: Path) -> None:
    """Time and memory of a step against edges, both axes logarithmic."""
    rows = [row for row in of_part(rows, "scale") if row["features"] == 128 or row["smoke"]]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for mode, colour in (("paper", "C0"), ("default", "C1")):
        mine = sorted((row for row in rows if row["mode"] == mode), key=lambda row: row["edges"])
        for axis, unit in zip(axes, ("s", "mb"), strict=True):
            lines = [("ours", "o-"), ("plain", "s--")] + ([("bound", ":"), ("compulsory", "-.")] if unit == "s" else [])
            for name, style in lines:
                points = [(row["edges"], row[f"{name}_{unit}"]) for row in mine if row.get(f"{name}_{unit}")]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=colour, label=f"{name}, {mode} mode")
    for axis, label in zip(axes, ("seconds per step", "peak memory, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="undirected edges", ylabel=label)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_ratios(rows: Sequence[Row], path: Path) -> None:
    """How many times as long the plain formulation (or retraining) takes."""
    rows = [row for part in ("step", "run", "retrain") for row in of_part(rows, part) if row["ratio"]]
    figure, axis = plt.subplots(figsize=(8, 0.8 + 0.3 * len(rows)))
    axis.barh([row["case"] for row in rows], [row["ratio"] for row in rows], color="C0")
    axis.axvline(1, color="k", linewidth=1)
    axis.set(xscale="log", xlabel="time of the alternative / time of ours")
    axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(rows: Sequence[Row], out: Path) -> None:
    """`results.json` and `tables.md`."""
    parts = [part for part in PARTS if of_part(rows, part)]
    write_results(out, list(rows), "\n\n".join(f"## {part}\n\n{table(rows, part)}" for part in parts))


def plot(rows: Sequence[Row], out: Path) -> None:
    """The plots of what there is."""
    parts = [part for part in PARTS if of_part(rows, part)]
    if "scale" in parts:
        plot_scale(rows, out / "scale.png")
    if set(parts) - {"scale", "requests"}:
        plot_ratios(rows, out / "ratios.png")


def main(out: Path) -> None:
    readme = HERE / "README.md"
    readme.write_text(fill(readme.read_text(), json.loads((out / "results.json").read_text())))
    for name in ("results.json", "scale.png", "ratios.png"):
        if (out / name).is_file():
            shutil.copyfile(out / name, HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
