"""The table of the front page: how near to retraining, at what share of its price; see README.md in this folder.

python -m experiments.front_page --root DATA --out runs/front_page [--smoke] [--seeds 0 1 2]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import tyro

from experiments.common import StudyArgs, markdown, write_results
from experiments.graph_methods.__main__ import penalty
from experiments.nearest.__main__ import PARTS, floors, given, recipe
from gunlearn.bench import GridConfig, run_grid
from gunlearn.report.plots import COLOURS
from gunlearn.report.summary import LOSS

NODES, LINKS = "nodes", "edges"
METHODS = {
    NODES: ("continued_training:estimated", "replay", "finetune", "scrub:default", "gif:default", "npo:default",
            "gnndelete:default", "megu:default", "cognac:default", "auto"),
    LINKS: ("continued_training:estimated", "replay", "finetune", "scrub:default", "gif:default", "npo:default",
            "gnndelete:default", "inpo:default", "inpo:unseen", "auto"),
}  # fmt: skip
#: NPO with INPO's stop rule, rate and bound: the control of the row "INPO".
UNSEEN = ("npo.until=unseen", "npo.epochs=200", "npo.lr=3e-4")
#: Fields of the rows that are written.
KEPT = (
    *("dataset", "task", "forget", "ratio", "num_forget", "seed", "backbone", "method", "mode", "seconds", "error"),
    *("test_acc", "retain_auc", "epochs", "base_seconds"),
    *("js_forget", "js_retain", "js_test", "js_floor_forget", "js_floor_retain", "js_floor_test"),
)
#: A price below this is drawn as this.
LEAST = 5e-4
#: Rows of the front page, in its order: method, mode under node requests, mode under edge requests, what is said of it.
SHOWN = (
    ("retrain", "default", "default", "new weights, everything anew"),
    ("utu", "default", "default", "take the data out, keep the weights"),
    ("auto", "default", "default", "`auto`, with the training's state"),
    ("continued_training", "estimated", "estimated", "`continued_training`, nothing kept of the training"),
    ("finetune", "default", "default", "50 steps of a new Adam"),
    ("inpo", None, "default until unseen", "INPO, until forgotten edges score as unseen ones"),
    ("scrub", "default", "default", "SCRUB"),
    ("gif", "default", "default", "GIF, one Newton step"),
    ("npo", "default", "default until unseen", "NPO; for edges with INPO's stop rule"),
    ("gnndelete", "default", "default", "GNNDelete, deletion operators"),
)


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of split, draw and models.
        dataset: name.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    dataset: str = "Cora"


def grids(args: Args) -> Iterable[GridConfig]:
    """A tenth of the training nodes, and 2.5 % of the training edges."""
    for forget, ratio in ((NODES, 0.1), (LINKS, 0.025)):
        links, methods = forget == LINKS, METHODS[forget]
        how = recipe("links" if links else "nodes", "gcn", args.smoke)
        yield GridConfig(
            "digits" if args.smoke else args.dataset, methods, args.root, ratio=ratio, seeds=args.seeds, recipe=how,
            task="link_prediction" if links else "node_classification", forget=forget, references=3,
            models=args.out / "models", method_args=(*given(how, methods), *(UNSEEN if links else penalty(methods))),
        )  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """Where a row ended, over seeds: floors on forgotten and on test items, utility, share of retraining's time."""

    forgotten: list[float]
    test: float
    utility: float
    price: float


def ended(rows: list[dict[str, Any]], forget: str, method: str, mode: str | None) -> Ended | None:
    """Medians over seeds, but all distances on forgotten items, ascending; `None` where there is no such row."""
    good = [r for r in rows if (r["forget"], r["method"], r["mode"]) == (forget, method, mode) and not r["error"]]
    if not good:
        return None
    retraining = {r["seed"]: r["seconds"] for r in rows if (r["forget"], r["method"]) == (forget, "retrain")}
    far = [floors(row) for row in good]
    return Ended(
        forgotten=sorted(one[PARTS[0]] for one in far),
        test=median(one["test"] for one in far),
        utility=median(row["retain_auc" if forget == LINKS else "test_acc"] for row in good),
        price=median(row["seconds"] / retraining[row["seed"]] for row in good),
    )


def cells(rows: list[dict[str, Any]], forget: str, method: str, mode: str | None) -> list[str]:
    """Floors on forgotten and test items, utility, price: medians over seeds, the range of the first in brackets.

    `*` marks what is no nearer on the forgotten than `utu`, `!` what loses more than .03 of utility against retraining.
    """
    at = ended(rows, forget, method, mode)
    if at is None:
        return ["-"] * 4
    utu, retrain = (ended(rows, forget, name, "default") for name in ("utu", "retrain"))
    middle = median(at.forgotten)
    behind = " \\*" if method not in ("utu", "retrain") and middle >= median(utu.forgotten) else ""
    fails = " !" if at.utility < retrain.utility - LOSS else ""
    return [
        f"{_short(middle)}{behind} ({_short(at.forgotten[0])} to {_short(at.forgotten[-1])})",
        _short(at.test),
        f"{at.utility:.3f}{fails}",
        f"{at.price:.3f}",
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Ten rows: distance to retraining, utility and price for a node request and for an edge request."""
    head = [
        "method",
        *(f"{what}: {c}" for what in ("nodes", "edges") for c in ("forgotten", "test", "utility", "price")),
    ]
    head[3], head[7] = "accuracy", "AUC"
    body = [
        [said, *cells(rows, NODES, method, nodes), *cells(rows, LINKS, method, links)]
        for method, nodes, links, said in SHOWN
    ]
    return markdown(head, body)


def all_rows(rows: list[dict[str, Any]]) -> str:
    """Every row that was run, those that the front page leaves out too."""
    body = []
    for forget in (NODES, LINKS):
        for method, mode in dict.fromkeys((r["method"], r["mode"]) for r in rows if r["forget"] == forget):
            body.append([forget, method, mode, *cells(rows, forget, method, mode)] if method != "original" else [])
    return markdown(
        ("forget", "method", "mode", "forgotten, floors", "test, floors", "accuracy or AUC", "price"),
        [line for line in body if line], 3,
    )  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Distance to retraining against price, both axes logarithmic, a panel per request."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    for axis, forget, title in zip(axes, (NODES, LINKS), ("a tenth of the nodes", "2.5 % of the edges"), strict=True):
        for (method, nodes, links, said), marker, colour in zip(SHOWN, "*osDP^v<>X", COLOURS, strict=True):
            at = ended(rows, forget, method, nodes if forget == NODES else links)
            spot = ([], []) if at is None else (max(at.price, LEAST), median(at.forgotten))
            axis.scatter(*spot, marker=marker, color=colour, s=70, zorder=3, label=said.replace("`", ""))
        axis.axhline(1, color="#666666", linewidth=1, linestyle="--", zorder=1)
        axis.set(xscale="log", yscale="log", title=title, xlabel="price: share of retraining's time")
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("distance to retraining on the forgotten, floors")
    axes[1].set_ylim(0.5, 10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def main(args: Args) -> None:
    """Run both problems; write `results.json` and `tables.md`."""
    rows = run_grid(list(grids(args)), args.out / "grid", progress=True)
    kept = [{name: row[name] for name in KEPT if row.get(name) is not None or name == "error"} for row in rows]
    text = f"{table(kept)}\n\n{all_rows(kept)}"
    write_results(args.out, kept, text)
    plot(kept, args.out / "front_page.png")
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
