"""Run the cells of a bench: a row each, so that a killed run goes on, and a time budget."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn import __version__
from gunlearn.bench.llm.apart import check_references_apart, weight_digests
from gunlearn.bench.llm.arms import Arm, TextBench
from gunlearn.bench.llm.point_values import Aligner, utility_of, values_of
from gunlearn.bench.llm.text_problem import TextProblem
from gunlearn.bench.store import ROWS_FILE, RowStore
from gunlearn.core.digest import content_hash
from gunlearn.errors import DivergenceError, GunlearnError
from gunlearn.llm.metrics.scoring import NotANumberError
from gunlearn.llm.unlearning import unlearn
from gunlearn.training.callbacks import Callback

#: What runs say again and again that a bench shows in its table.
_KNOWN = ("no loss of .* reads the rows to retain", "no measurable effect", "Expected the rest to be known")


def run_text_bench(
    problem: TextProblem,
    bench: TextBench,
    out: str | Path,
    budget_minutes: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run what is not yet in the folder, and return the rows of the bench that are there.

    A row is one run of a method with one rate and seed: its points, each with `epoch`, `steps`, `seconds` of training
    and the `values` of each row. The first rows are those of the original model and of the retrained ones.

    Args:
        problem: models and rows.
        bench: methods, and how to train and measure.
        out: folder; rows are kept in its `rows.jsonl`.
        budget_minutes: no run starts later than that; the rest is left for the next call.
        say: is told of each run, and of what is left.

    Raises:
        InvalidInputError: the original model or a retrained one cannot be measured (`NotANumberError`: it returns NaN),
            or two of them are the same, bit for bit.
    """
    store, began = RowStore(Path(out) / ROWS_FILE), time.perf_counter()
    digests = None if problem.identity else weight_digests(problem)
    identity = problem.told() if digests is None else content_hash([problem.told(), digests])
    aligner = Aligner(problem.forget, problem.references, bench, problem.tokenizer)
    cells = _cells(problem, bench, aligner, identity)
    rows, left = store.read(), []
    there = sum(key in rows and not rows[key].get("error") for key, *_ in cells)
    if there < len(cells) and problem.references:
        check_references_apart(problem, digests or weight_digests(problem))
    if there:
        say(f"{there} of {len(cells)} runs are in {store.path}")
    for key, named, run in cells:
        if key in rows and not rows[key].get("error"):
            continue
        if budget_minutes is not None and time.perf_counter() - began >= 60 * budget_minutes:
            left.append(_in_words(named))
            continue
        say(_in_words(named))
        rows[key] = store.add({"key": key, **named, **run()})
        if rows[key].get("error"):
            say(f"{_in_words(named)}: {rows[key]['error']}")
    if left:
        shown = ", ".join(left[:8]) + (", ..." if len(left) > 8 else "")
        say(f"the budget of {budget_minutes:g} minutes is spent: {len(left)} of {len(cells)} runs are left ({shown})")
    return [rows[key] for key, *_ in cells if key in rows]


_Cell = tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]


def _cells(problem: TextProblem, bench: TextBench, aligner: Aligner, identity: str) -> list[_Cell]:
    """Return key, name and function of every row."""

    def key(*told: Any) -> str:
        return content_hash([identity, len(problem.references), __version__, *told])

    cells: list[_Cell] = []
    models: list[tuple[str, Callable[[], nn.Module], int | None]] = [("original", problem.original, None)]
    models += [(f"retrained {k}", load, k) for k, load in enumerate(problem.references)]
    for name, load, apart in models:

        def measured(load: Any = load, apart: int | None = apart) -> dict[str, Any]:
            return {"points": [_measured(load(), problem, bench, aligner, apart, ended=True)]}

        cells.append((key(name, bench.told()), {"method": name}, measured))
    for seed, arm, rate in bench.cells():

        def trained(seed: int = seed, arm: Arm = arm, rate: float | None = rate) -> dict[str, Any]:
            return run_text_cell(problem, bench, aligner, arm, rate, seed)

        named = {"method": arm.name, "rate": rate, "seed": seed}
        cells.append((key(bench.told(arm), rate, seed), named, trained))
    return cells


def _in_words(named: dict[str, Any]) -> str:
    rate = "" if named.get("rate") is None else f" at {named['rate']:g}"
    return named["method"] + rate + (f", seed {named['seed']}" if "seed" in named else "")


def _measured(
    model: nn.Module,
    problem: TextProblem,
    bench: TextBench,
    aligner: Aligner,
    apart: int | None = None,
    ended: bool = False,
) -> dict[str, Any]:
    """Return what is measured of a model; raise `NotANumberError` for a broken one."""
    found: dict[str, Any] = {"values": values_of(model, problem, bench, aligner, apart)}
    utility = utility_of(model, problem, bench) if ended else None
    return found | ({} if utility is None else {"utility": utility})


def _point(
    model: nn.Module, problem: TextProblem, bench: TextBench, aligner: Aligner, ended: bool = False
) -> dict[str, Any]:
    """Return what is measured of a method's model; of a broken one, a result too, why it is."""
    try:
        return _measured(model, problem, bench, aligner, ended=ended)
    except NotANumberError as error:
        return {"broken": str(error)}


class _Points(Callback):
    """Measures the model after epochs, but for the last one, and keeps the time that this takes."""

    def __init__(self, measure: Callable[[nn.Module], dict[str, Any]], every: int) -> None:
        self.measure, self.every = measure, every
        self.found: list[dict[str, Any]] = []
        self.epochs: float = 0
        self.steps, self.spent, self.began = 0, 0.0, time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.epochs += 1
        step = getattr(state, "global_step", None)
        self.steps = state.step if step is None else step
        if self.every and self.epochs % self.every == 0 and self.steps < state.max_steps:
            self.add(model, self.steps)

    def add(self, model: nn.Module, steps: int) -> None:
        """Add a point."""
        start = time.perf_counter()
        cost = {"epoch": self.epochs, "steps": steps, "seconds": round(start - self.began - self.spent, 2)}
        self.found.append(cost | self.measure(model))
        self.spent += time.perf_counter() - start


def _passes(asked: float | None, counted: float) -> float:
    """Return the passes of a whole run; callbacks count a begun one as one."""
    return max(counted, 1) if asked is None or asked == int(asked) else asked


def run_text_cell(
    problem: TextProblem, bench: TextBench, aligner: Aligner, arm: Arm, rate: float | None, seed: int
) -> dict[str, Any]:
    """Unlearn by one method, rate and seed; return its points, `diverged` where it did, or why it is refused."""
    model = problem.original()  # before the clock starts
    points = _Points(lambda model: _point(model, problem, bench, aligner), bench.every * arm.passes)
    with warnings.catch_warnings():
        for words in _KNOWN:
            warnings.filterwarnings("ignore", words)
        try:
            result = unlearn(
                model,
                problem.tokenizer,
                problem.forget,
                problem.retain,
                arm.method,
                options=arm.options,
                peft=arm.peft,
                alternative=problem.alternative if arm.reads_alternative else None,
                lr=rate,
                seed=seed,
                in_place=True,
                figure_rows=0,
                callbacks=(points,),
                **bench.training_of(arm),
                **problem.training,
            )
            points.epochs = _passes(bench.training_of(arm)["epochs"], points.epochs)
            points.measure = lambda model: _point(model, problem, bench, aligner, ended=True)
            points.add(result.model, points.steps)
        except DivergenceError as error:  # a result, too
            return {"points": points.found, "diverged": str(error)}
        except GunlearnError as error:  # refused: the other methods go on
            return {"points": [], "error": str(error)}
    return {"points": points.found}
