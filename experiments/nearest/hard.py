"""Where forgetting is hard: memorised items, hubs, whole classes, other models, heterophilic graphs; see README.md.

python -m experiments.nearest.hard --root DATA --out runs/hard [--smoke] [--groups memorised ...] [--seeds 0 1 2]
    [--methods ...] [--shrink 0.6] [--n-jobs 1]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import tyro

from experiments.common import StudyArgs, markdown, write_results
from experiments.nearest.__main__ import METHODS, PARTS, floors, given, size_of
from gunlearn.bench import GridConfig, Recipe, run_grid, suite
from gunlearn.errors import InvalidInputError

#: What outputs hide is looked for in the weights.
ATTACKS = ("mia_item_auc", "relearn_steps")
#: Fields of the rows that are written.
KEPT = (
    *("dataset", "task", "protocol", "forget", "by", "ratio", "count", "num_forget", "seed", "backbone", "recipe"),
    *("method", "mode", "options", "notes", "epochs", "seconds", "error", "forget_prob", "forget_acc", "test_acc"),
    *("js_forget", "js_retain", "js_test", "js_floor_forget", "js_floor_retain", "js_floor_test", *ATTACKS),
)
CORA = {"dataset": "Cora"}
#: Problems by group: settings of grids, whose lists are combined, models, and weight decays.
GROUPS: dict[str, list[tuple[dict[str, Any], tuple[str, ...], tuple[float, ...]]]] = {
    "memorised": [(CORA | {"forget": "flipped_labels", "count": 30}, ("gcn", "sage", "gat"), (5e-4, 0.0))],
    "hubs": [(CORA | {"forget": "nodes", "by": "degree", "count": 10}, ("gcn", "sage"), (5e-4,))],
    "classes": [(CORA | {"forget": "classes", "count": 1}, ("gcn", "sage"), (5e-4,))],
    "backbones": [
        (CORA | {"forget": "nodes", "count": 10}, ("gin", "appnp"), (5e-4,)),
        (CORA | {"forget": "nodes", "ratio": 0.1}, ("gin", "appnp"), (5e-4,)),
    ],
    "heterophilic": [
        ({"dataset": ("chameleon_filtered", "minesweeper", "tolokers"), "forget": "nodes", **size}, ("sage",), (5e-4,))
        for size in ({"count": 10}, {"ratio": 0.1})
    ],
    "planted": [(CORA | {"forget": "planted_edges", "count": 30, "task": "link_prediction"}, ("gcn",), (0.0,))],
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        groups: of problems.
        seeds: of split, draw and base model; of heterophilic graphs the number of the published split.
        methods: `name` (every variant) or `name:variant`; `utu` and `retrain` are added.
        shrink: factor on the weights in further rows of continued training; 1 for none.
        references: retrained models per problem.
        n_jobs: processes.
    """

    groups: tuple[str, ...] = tuple(GROUPS)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    shrink: float = 0.6
    references: int = 3
    n_jobs: int | None = None


def recipe(task: str, backbone: str, decay: float, smoke: bool) -> Recipe:
    """How base models and references are trained, to the last step."""
    if task == "link_prediction":
        return Recipe(epochs=40 if smoke else 1000, weight_decay=decay, eval_every=None, backbone=backbone)
    return Recipe(40 if smoke else 500, 1e-2, decay, eval_every=None, hidden_channels=64, backbone=backbone)


def grids(args: Args) -> Iterable[GridConfig]:
    """One configuration per problem, and others for rows with shrunk weights and with fewer steps."""
    for group in args.groups:
        for settings, backbones, decays in GROUPS[group]:
            task = settings.get("task", "node_classification")
            heterophilic = group == "heterophilic"
            change: dict[str, Any] = {"dataset": "digits"} if args.smoke else {}
            change["protocol"] = "public" if heterophilic and not args.smoke else "random"
            how = [recipe(task, backbone, decay, args.smoke) for backbone in backbones for decay in decays]
            told = given(how[0], args.methods)
            rows = [(args.methods, told)]
            if args.shrink < 1:
                rows.append((("continued_training:default",), (*told, f"continued_training.shrink={args.shrink}")))
            teacher = ("continued_training.teacher_share=0.62", "continued_training.unseen_weight=0.01")
            rows.append((("continued_training:default",), (*told, *teacher)))
            if group == "memorised":  # a tenth of the steps, too
                rows.append((("continued_training:default",), (*told, "continued_training.budget=0.1")))
            for methods, options in rows:
                yield from suite(
                    **{"task": task, **settings, **change},
                    recipe=how,
                    methods=methods,
                    method_args=options,
                    metrics=ATTACKS,
                    root=args.root,
                    seeds=args.seeds[:1] if args.smoke else args.seeds,
                    models=args.out / "models",
                    references=args.references,
                )


def problem(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the first columns of a row: request, graph, model, size, weight decay."""
    size = f"{size_of(row):g}"
    what = row["forget"].replace("_", " ") + (", hubs" if row["by"] == "degree" else "")
    return what, row["dataset"], row["backbone"], size, f"{row['recipe']['weight_decay']:g}"


def spread(values: Iterable[float], spec: str) -> str:
    """Return the median, and the smallest and largest of several values."""
    known = sorted(values)
    if not known:
        return ""
    more = f" ({known[0]:{spec}}, {known[-1]:{spec}})" if len(known) > 1 else ""
    return f"{median(known):{spec}}{more}"


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds with the extremes, one line per problem and method; retraining is a method.

    Raises:
        InvalidInputError: two rows of one problem, method and seed, as where runs of two versions were put together.
    """
    groups: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == "original":
            continue
        shrink = row["options"].get("shrink", 1)
        mode = row["mode"] if shrink == 1 else f"weights x {shrink:g}"
        if row["method"] == "continued_training" and row["options"].get("budget") is not None:
            mode += f", budget {row['options']['budget']:g}"
        members = groups.setdefault((*problem(row), row["method"], mode), {})
        if row["seed"] in members and row["method"] not in ("utu", "retrain"):  # which every suite of a problem has
            raise InvalidInputError(
                f"Expected one row per problem, method and seed (got two of {(*problem(row), row['method'], mode)}, "
                f"seed {row['seed']})"
            )
        members[row["seed"]] = row
    lines, order = [], list(dict.fromkeys(key[:5] for key in groups))
    for key, members in sorted(groups.items(), key=lambda item: order.index(item[0][:5])):
        good = [row for row in members.values() if not row["error"]]
        if not good:
            lines.append((*key, next(iter(members.values()))["error"][:60], *[""] * 7))
            continue
        far = [floors(row) for row in good]
        cells = [spread((one[part] for one in far if part in one), ".2f") for part in PARTS]
        for name, spec in (("forget_prob", ".2f"), ("mia_item_auc", ".2f"), ("relearn_steps", ".0f")):
            cells.append(spread((row[name] for row in good if row[name] is not None), spec))
        price = median(row["epochs"] + row["notes"].get("passes", 0) for row in good) / good[0]["recipe"]["epochs"]
        lines.append((*key, *cells, f"{price:.3f}", str(len(good))))
    head = ["forget", "graph", "model", "size", "decay", "method", "mode", *(f"{part}, floors" for part in PARTS)]
    return markdown([*head, "forget prob.", "item MIA", "relearn steps", "price", "seeds"], lines, 7)


def main(args: Args) -> None:
    """Run all problems as one suite; write `results.json` and `tables.md`."""
    rows = run_grid(list(grids(args)), args.out / "grid", progress=True, n_jobs=args.n_jobs)
    rows, text = [{name: row[name] for name in KEPT} for row in rows], table(rows)
    write_results(args.out, rows, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
