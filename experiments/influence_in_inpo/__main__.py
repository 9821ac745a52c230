"""INPO with each influence score, with none, random and flipped ones; see README.md in this folder.

No grid: its forget sets are drawn by influence, its cases take tensors of scores, its rows hold figures at equal
forgetting.

python -m experiments.influence_in_inpo --root DATA --out runs/influence_in_inpo [--smoke] [--datasets Cora DBLP]
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from experiments.common import StudyArgs, write_results
from experiments.influence_in_inpo.cases import CASES, FORGET_SETS, PAPER_CASES, Scores, available
from experiments.influence_in_inpo.cell import CellRun
from experiments.influence_in_inpo.report import report
from gunlearn.attribution import ESTIMATORS
from gunlearn.bench import ROWS_FILE, ModelStore, Recipe, RowStore
from gunlearn.bench.store import json_plain
from gunlearn.tasks import LinkPrediction


@dataclass
class Args(StudyArgs):
    """What to run; rows that are there already are kept.

    Attributes:
        models: folder of trained models.
        datasets: which of them.
        cases: scores to compare; all of the mode by default.
        modes: of INPO.
        forget_sets: which of them.
        seeds: of split, base model, forget set and run.
        paper_seeds: of those, how many paper mode takes, by data set; all where it is not named.
        epochs: of the base model and its retrained references: a quarter of `experiments/inpo_edges`' at five times
            its learning rate, which comes at least as far on validation edges.
        lr: their learning rate.
        threads: torch's.
    """

    models: Path | None = None
    datasets: tuple[str, ...] = ("Cora", "DBLP")
    cases: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("default", "paper")
    forget_sets: tuple[str, ...] = FORGET_SETS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    paper_seeds: dict[str, int] = field(default_factory=lambda: {"DBLP": 3, "CS": 1})
    epochs: int = 500
    lr: float = 5e-3
    threads: int = 1


def wanted(args: Args) -> Iterator[tuple[str, int, str, str, list[str]]]:
    """Data set, seed, forget set, mode and cases; the short mode of all seeds first."""
    for dataset in args.datasets:
        for mode, names in (("default", tuple(CASES)), ("paper", PAPER_CASES)):
            if mode not in args.modes:
                continue
            names = tuple(name for name in names if not args.cases or name in args.cases)
            seeds = args.seeds if mode == "default" else args.seeds[: args.paper_seeds.get(dataset)]
            for seed in seeds:
                for forget in args.forget_sets:
                    yield dataset, seed, forget, mode, available(names)


def run(args: Args) -> list[dict[str, Any]]:
    """All rows, those of earlier runs included."""
    truth = "exact" if "exact" in ESTIMATORS else "brute"
    recipe = Recipe(epochs=args.epochs, lr=args.lr, eval_every=min(50, args.epochs))
    scores, epochs = Scores(args.out / "scores", truth), 5 if args.smoke else None
    models = ModelStore(args.models or args.out / "models", recipe, LinkPrediction())
    store, rows = RowStore(args.out / ROWS_FILE), []
    done = store.read()
    for dataset, seed, forget, mode, cases in wanted(args):
        cell: CellRun | None = None
        for case in [*(["retrain", "utu"] if mode == "default" else []), *cases]:
            own = "-" if case in ("retrain", "utu") else mode
            key = f"{dataset} {seed} {forget} {own} {case} {args.epochs} {args.lr}"
            if key not in done:
                cell = cell or CellRun(models, scores, args.root, dataset, seed, forget, epochs)
                row = cell.row(mode, case) if own == mode else cell.baseline(case)
                done[key] = store.add(json_plain({"key": key, **row}))
                print(
                    key, {k: row.get(k) for k in ("retain_auc", "forget_auc", "seconds")}, file=sys.stderr, flush=True
                )
            rows.append(done[key])
    return rows


def main(args: Args) -> None:
    """Run, then write `results.json` and `tables.md`."""
    if args.smoke:
        args = replace(args, datasets=("karate",), seeds=(0, 1), epochs=20)
    torch.set_num_threads(args.threads)
    rows = run(args)
    tables = report(rows, tuple(CASES))
    write_results(args.out, rows, tables)
    print(tables)


if __name__ == "__main__":
    main(tyro.cli(Args))
