"""One problem of the study (data set, seed, forget set) and the rows of its cases."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch_geometric.data import Data

from experiments.influence_in_inpo.cases import CASES, RATIO, SCORED, Scores, forget_set
from gunlearn.bench import ModelStore
from gunlearn.datasets import load
from gunlearn.methods import INPO, Callback, Problem, Result, UtU, run_method
from gunlearn.metrics import LinkEvaluator
from gunlearn.tasks import link_split

#: Share of the way from the original model's forget AUC to 1, where figures are compared at equal forgetting.
LEVELS = (0.25, 0.5)
FIGURES = ("retain_auc", "forget_auc", "js_forget", "js_test", "js_retain")


class Curve(Callback):
    """Figures where the forget AUC first reaches a level: the price of forgetting at equal forgetting."""

    def __init__(self, evaluator: LinkEvaluator, every: int) -> None:
        self.evaluator, self.every, self.points = evaluator, every, []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.points.append(self.evaluator.row(kwargs["model"]))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch % self.every == 0:
            self.points.append(self.evaluator.row(kwargs["model"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.points.append(self.evaluator.row(kwargs["model"]))

    def at(self, share: float) -> dict[str, float | None]:
        """Interpolated figures; `None` if the level is never crossed."""
        start = self.points[0]["forget_auc"]
        level, names = start + share * (1 - start), [name for name in FIGURES if name != "forget_auc"]
        for before, after in zip(self.points, self.points[1:], strict=False):
            low, high = before["forget_auc"], after["forget_auc"]
            if low < level <= high:
                way = (level - low) / (high - low)
                return {name: before[name] + way * (after[name] - before[name]) for name in names}
        return dict.fromkeys(names)


class CellRun:
    """A problem with its base model, forget set and two retrained references.

    Args:
        store: of base models and references.
        scores: influence of edges.
        root: folder of the data sets.
        dataset: name.
        seed: of split, models, forget set and methods.
        forget: name of the forget set.
        epochs: of INPO; `None` takes the mode's.
    """

    def __init__(
        self, store: ModelStore, scores: Scores, root: Path | None, dataset: str, seed: int, forget: str,
        epochs: int | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.task, self.scores, self.epochs = store.recipe, store.task, scores, epochs
        self.dataset, self.seed, self.forget = dataset, seed, forget
        self.data: Data = link_split(load(dataset, root, sparse=True), seed=seed)
        self.base: Result = store.base(self.data, seed)
        self.key = f"{dataset}-{seed}-{self.recipe.epochs}-{self.recipe.lr}"
        exact, _ = scores.of("exact", self.base, self.data, self.key)
        self.partition = forget_set(forget, self.data, exact, RATIO[dataset], seed)
        self.references = [store.retrained(self.base, self.partition, offset + seed) for offset in (1000, 2000)]
        self.evaluator = LinkEvaluator(self.task, self.partition, [r.model for r in self.references], seed=seed)

    def baseline(self, case: str) -> dict[str, Any]:
        """The first retrained model (`"retrain"`), or the original one on the retained graph (`"utu"`)."""
        result = self.references[0] if case == "retrain" else self._run(UtU())
        return {**self._frame("-", case), **self._figures(result), "seconds": result.seconds}

    def row(self, mode: str, case: str) -> dict[str, Any]:
        """INPO with one case's score; figures under plain messages and, `scaled_*`, under the case's own scales."""
        options, score_seconds = dict(CASES[case]), 0.0
        if options.get("influence") in SCORED:
            options["influence"], score_seconds = self.scores.of(options["influence"], self.base, self.data, self.key)
        settings = {"mode": mode, "dataset": self.dataset, "epochs": self.epochs}
        method = INPO(**settings, **options)
        curve = Curve(self.evaluator, max(1, method.epochs // 40))
        result = self._run(method, [curve])
        # Without scales of its own, a case is looked at under INPO's: what they do in evaluation alone.
        scaling = INPO(**settings) if case == "none" else method
        problem = Problem(result.model, self.base.model, self.partition, self.task, self.seed)
        scaled = self._figures(result, scaling.surroundings(problem)(result.model))
        at = {f"at_{share}_{name}": value for share in LEVELS for name, value in curve.at(share).items()}
        return {
            **self._frame(mode, case),
            **self._figures(result),
            **at,
            **{f"scaled_{name}": scaled[name] for name in FIGURES},
            "seconds": result.seconds,
            "score_seconds": score_seconds,
            "epochs": result.epochs,
        }

    def _run(self, method: Any, callbacks: list[Callback] | None = None) -> Result:
        return run_method(method, self.base.model, self.partition, self.task, self.seed, callbacks or [])

    def _frame(self, mode: str, case: str) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "forget": self.forget,
            "mode": mode,
            "case": case,
            "truth": self.scores.truth,
            "num_forget": self.partition.num_forget,
            "request_hash": self.partition.request_hash,
            "recipe": vars(self.recipe),
        }

    def _figures(self, result: Result, around: Any = None) -> dict[str, float | None]:
        with around or nullcontext():
            return self.evaluator.row(result.model)
