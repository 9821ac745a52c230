"""Run a grid: every method on every cell. Each row is written as soon as it is ready."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, effective_n_jobs
from torch_geometric.data import Data

from gunlearn.attribution.request_scores import resolve_for
from gunlearn.bench.cell import Cell
from gunlearn.bench.config import GridConfig
from gunlearn.bench.course import Course
from gunlearn.bench.models import ModelStore, data_hash
from gunlearn.bench.store import ROWS_FILE, RowStore, atomic_write, csv_text, json_plain
from gunlearn.bench.workers import end_with
from gunlearn.core.atomic import check_writable
from gunlearn.core.devices import resolve_device
from gunlearn.core.owner_key import keyed_hash
from gunlearn.core.printable import printable
from gunlearn.errors import DivergenceError, GunlearnError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.metrics.problem import evaluator, headline, row_names
from gunlearn.requests.base import Request
from gunlearn.seed import alone
from gunlearn.tasks.named import as_task
from gunlearn.training.processes import world_size
from gunlearn.training.result import Result, today, versions, written_notes

_FORMAT = 4  # raise it when rows change: older rows are then computed again


def run_grid(
    config: GridConfig | Sequence[GridConfig], out: str | Path, progress: bool = False, n_jobs: int | None = None
) -> list[dict[str, Any]]:
    """Run all cells; write `rows.jsonl` row by row, then `results.json` and `results.csv`.

    Rows that `rows.jsonl` holds for the same settings are not computed again, except failed ones. Inside
    `joblib.parallel_config` (or `cluster`) the cells run on that backend; other machines must see the same folders
    under the same names.

    Args:
        config: one configuration, or several such as `suite` makes.
        out: folder of the outputs.
        progress: show bars and one line per finished row on standard error.
        n_jobs: processes; a cell takes one. `None` is what `joblib.parallel_config` says, else 1.

    Returns:
        One row per cell and method, in the order of the configurations; in a cell the untouched model comes first,
        then the retrained one, then the methods.

    Raises:
        GunlearnError: a cell has no data, no split or no forget set. A method that fails has a row with an `error`.
        InvalidInputError: no configuration or one twice, `n_jobs=0`, several processes of `accelerate launch`, or a
            folder that cannot be written.
        UnsupportedMethodError: a method that can do none of the problems; where it can do some, the others have a row
            with an `error`.
    """
    if n_jobs == 0:
        raise InvalidInputError("Expected 'n_jobs' of at least 1, or -1 for all processors (got 0)")
    if world_size() > 1:
        raise InvalidInputError(
            f"Expected a grid to be started once (got {world_size()} launched processes); cells run side by side with "
            "'n_jobs' or a backend of joblib, 'accelerate launch' is for scripts that call 'train' and 'unlearn'"
        )
    configs = [config] if isinstance(config, GridConfig) else list(config)
    if not configs or any(one in configs[:k] for k, one in enumerate(configs)):
        raise InvalidInputError(f"Expected at least one configuration, and none twice (got {len(configs)})")
    _refuse_impossible(configs)
    check_writable(out)
    # Workers may run in other folders.
    out = Path(out).resolve()
    configs = [
        replace(
            one,
            root=one.root and Path(one.root).resolve(),
            models=Path(one.models or out / "models").resolve(),
            forget_file=one.forget_file and Path(one.forget_file).resolve(),
        )
        for one in configs
    ]
    # Bars of several processes overwrite each other, and bars are noise in a file.
    bars = progress and effective_n_jobs(n_jobs) == 1 and sys.stderr.isatty()
    jobs = (delayed(run_cell)(cell, one, out, progress, bars, os.getpid()) for one in configs for cell in one.cells())
    rows = [row for cell_rows in Parallel(n_jobs=n_jobs)(jobs) for row in cell_rows]
    atomic_write(out / "results.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "results.csv", csv_text(rows))
    return rows


def _refuse_impossible(configs: Sequence[GridConfig]) -> None:
    """Refuse methods that can do none of the problems, before anything is trained."""
    objections: dict[str, list[str]] = {}
    for config in configs:
        for method in config.plan():
            objections.setdefault(method.name, []).append(config.objection(method))
    never = {name: told[0] for name, told in objections.items() if all(told)}
    if never:
        raise UnsupportedMethodError("; ".join(never.values()))


def run_cell(
    cell: Cell,
    config: GridConfig,
    out: Path,
    progress: bool = False,
    bars: bool = False,
    parent: int | None = None,
) -> list[dict[str, Any]]:
    """Return all rows of one cell. A process runs one cell at a time, since runs use its random state.

    A worker process ends with its `parent`.
    """
    if parent is not None:
        end_with(parent)
    with alone(), threads(config.threads):
        device = resolve_device(config.device)
        # SAGE and GIN propagate features before they multiply: their layers gather rows, which CSR does not give.
        sparse = config.recipe.backbone not in ("sage", "gin")
        data, request = cell.prepare(cell.load(config.root, sparse, config.recipe.batch_size))
        data = data.to(device)
        store = RowStore(out / ROWS_FILE)
        settings = [_FORMAT, versions()["gunlearn"], cell.settings(), data_hash(data)]
        settings += [config.recipe.settings(), device.type]
        if cell.forget_file is not None:  # another content is another problem
            settings.append(request.resolve(data).request_hash)
        wanted: list[tuple[str, Method | None]] = [("original", None)]
        if config.references:
            wanted.append(("retrain", None))
        if cell.by == "influence":
            settings.append("exact")  # the estimator that chose the edges, which was another one in older rows
        if config.num_references != 2:
            settings.append(f"{config.num_references} references" if config.references else "no references")
        if config.metrics:
            settings.append(f"with {sorted(config.metrics)}")
        wanted += [(method.name, method) for method in config.plan()]
        keys = [_key([*settings, name, None if m is None else m.config()]) for name, m in wanted]
        rows = {key: row for key, row in store.read().items() if not row.get("error")}
        if any(key not in rows for key in keys):
            problem = _Problem(cell, request, config, data, Path(config.models or out / "models"), bars)
            for key, (name, method) in zip(keys, wanted, strict=True):
                if key not in rows:
                    rows[key] = store.add(json_plain({"key": key, **problem.row(name, method)}))
                    if progress:
                        print(printable(_line(rows[key])), file=sys.stderr, flush=True)
        return [rows[key] for key in keys]


class _Problem:
    """A cell with its base model, forget set and references."""

    def __init__(self, cell: Cell, request: Request, config: GridConfig, data: Data, models: Path, bars: bool) -> None:
        self.cell, self.recipe, self.bars, self.task = cell, config.recipe, bars, as_task(cell.task)
        store = ModelStore(models, config.recipe, self.task, bars)
        # Resolve before training, so that a bad request fails early, unless the request needs the trained model.
        partition = None if request.needs_scores else request.resolve(data)
        self.base = store.base(data, cell.seed)
        if partition is None:
            partition = resolve_for(request, self.base.model, data, self.task)
        self.partition = partition
        seeds = [1000 * (k + 1) + cell.seed for k in range(config.num_references)]
        self.references = [store.retrained(self.base, self.partition, seed) for seed in seeds]
        retrained = [reference.model for reference in self.references]
        self.evaluator = evaluator(self.task, self.partition, retrained, cell.seed, config.metrics)
        self.evaluator.original = self.base.model
        self.device = data.x.device

    def row(self, name: str, method: Method | None) -> dict[str, Any]:
        """Return one row; it has an `error` where the method does not support the problem or diverges."""
        if name == "original":
            return self._frame(name, "full graph") | self.evaluator.view(self.base.model, full_graph=True).row()
        if method is None:
            first = self.references[0]
            return self._row(first) | {"notes": {**written_notes(first.notes), "retrain_seed": first.seed}}
        course = Course(self.evaluator)
        try:
            if "training" in method.options() and getattr(method, "training", "") is None:
                method = replace(method, training=self.base.training)  # type: ignore[type-var]
            result = run_method(method, self.base.model, self.partition, self.task, self.cell.seed, [course], self.bars)
            row = self._row(result)
        except GunlearnError as error:
            row = self._frame(name, method.label) | {"options": method.config(), "error": str(error)}
        return row | {"curve": course.curve}

    def _frame(self, method: str, mode: str) -> dict[str, Any]:
        """Return the entries that all rows of the cell share, with `None` for figures."""
        return {
            **self.cell.settings(),
            **({} if self.cell.forget_file is None else {"count": self.partition.num_forget}),
            "dataset": self.cell.name,
            "backbone": self.recipe.backbone,
            "method": method,
            "mode": mode,
            "num_forget": self.partition.num_forget,
            "num_retain": self.partition.num_retain,
            "num_nodes": getattr(self.partition.data, "num_nodes", None),
            **dict.fromkeys(row_names()),
            "base_seconds": self.base.seconds,
            "request_hash": self.partition.request_hash,
            "recipe": self.recipe.settings(),
            "options": {},
            "notes": {},
            "versions": versions(),
            "date": today(),
            "device": self.device.type,
            "unchanged": None,
            "suspicious": None,
            "error": None,
            "curve": [],
            "hist_forget": None,
        }

    def _row(self, result: Result) -> dict[str, Any]:
        view = self.evaluator.view(result.model, result)
        if not view.is_finite:
            raise DivergenceError("Expected finite scores of the unlearned model (got NaN)")
        row = {**self._frame(result.method, result.mode), **view.row(), "seed": self.cell.seed}
        return {**row, "options": result.config, "notes": written_notes(result.notes)}


def _key(settings: list[Any]) -> str:
    # Under the owner's key: a hash of data of which all but an edge is known would tell that edge.
    return keyed_hash(json.dumps(settings, default=str, sort_keys=True).encode(), "row", 20)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['dataset']} seed {row['seed']}: {row['method']} ({row['mode']})"
    if row["error"]:
        return f"{head}: {row['error']}"
    parts = [(figure.words or figure.heading, row[figure.name], figure.format) for figure in headline(row["task"])]
    parts.append(("seconds", row["seconds"], ".3g"))
    shown = [f"{name} {value:{spec}}" for name, value, spec in parts if value is not None]
    shown += ["unchanged weights"] if row["unchanged"] and row["method"] != "utu" else []
    return f"{head}: " + ", ".join(shown + (["suspicious"] if row["suspicious"] else []))


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Set the number of torch's threads inside the block; `None` keeps it."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before if number is None else number)
        yield
    finally:
        torch.set_num_threads(before)
