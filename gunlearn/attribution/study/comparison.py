"""Compare one estimator after the other with the truth."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, check_scores
from gunlearn.attribution.study.agreement import agreement, spearman
from gunlearn.attribution.study.setting import CONTROLS, Measured, Setting
from gunlearn.attribution.study.truths import TrueValues, Truth
from gunlearn.core.owner_key import keyed_hash
from gunlearn.errors import GunlearnError

_FIGURES = (
    "spearman", "spearman_ci", "kendall", "pearson", "precision_at_1pct", "seconds", "peak_memory_mb",
)  # fmt: skip
_FAILURES = (GunlearnError, RuntimeError, ArithmeticError, MemoryError)


@dataclass
class Comparison:
    """Estimators beside one truth.

    Attributes:
        setting: makes the problem that estimators run on.
        known: the kind of the truth.
        true: the truth with its cost.
        sample: places of the items that the truth has; `None` for all.
        settings: the study's.
        estimates: by estimator, in the order of the truth.
    """

    setting: Setting
    known: Truth
    true: Measured
    sample: Tensor | None
    settings: dict[str, Any]
    estimates: dict[str, Tensor] = field(default_factory=dict)

    @property
    def values(self) -> TrueValues:
        """True values."""
        return self.true.result

    @property
    def truth(self) -> Tensor:
        """True values on the CPU, `[num_values]`."""
        return self.values.values.cpu()

    @property
    def items(self) -> Tensor:
        """Ids of the items compared, on the CPU."""
        return self.true.problem.items.ids.cpu()

    def degree(self) -> float | None:
        """Return the agreement of the control `"degree"`; nothing where it does not answer the question."""
        degree = ESTIMATORS["degree"]()
        if self.settings["of"] not in degree.of or self.true.problem.target.kind not in degree.targets:
            return None
        return spearman(self.truth, self._estimated(self.setting.measure(degree).result, "degree").cpu())

    def row(
        self, label: str, estimator: Estimator, bar: float | None, finished: MutableMapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return an estimator's row, from `finished` where it is there; `bar` is what `degree` returns."""
        told = keyed_hash(self.truth.numpy().tobytes() + self.items.numpy().tobytes(), "row", 16)
        key, kept = f"{label} {sorted(_options(estimator).items())} {told}", None
        if finished is not None and estimator != self.known.estimator:
            kept = finished.get(key)
        if kept is not None:
            self.estimates[label] = kept["scores"]
            return kept["row"]
        row = self._measured_row(label, estimator, bar)
        if finished is not None and row["error"] is None and label in self.estimates:
            finished[key] = {"row": row, "scores": self.estimates[label]}
        return row

    def _measured_row(self, label: str, estimator: Estimator, bar: float | None) -> dict[str, Any]:
        is_truth, settings = estimator == self.known.estimator, self.settings
        row = {
            **{name: settings[name] for name in ("dataset", "model", "of", "target")},
            "estimator": label, "truth": settings["truth"], **dict.fromkeys(_FIGURES),
            "num_items": self.values.values.numel(),
            "num_scored": self.true.problem.items.num_items if is_truth else self.setting.items.num_items,
            "question": estimator.question, "truth_question": self.known.question, "is_truth": is_truth, "behind": [],
            "options": _options(estimator), "notes": {}, "seed": settings["seed"], "error": None,
        }  # fmt: skip
        try:
            done = self.true if is_truth else self.setting.measure(estimator)
            scores = self.values.values if is_truth else self._estimated(done.result, label)
            row |= {"seconds": done.seconds, "peak_memory_mb": done.memory, "notes": done.problem.notes}
            row |= agreement(self.truth, scores.cpu(), settings["signed"], settings["num_resamples"], settings["seed"])
            self.estimates[label] = scores.cpu()
        except _FAILURES as error:
            row["error"] = " ".join(str(error).split()) or type(error).__name__
        return row | {"behind": _behind(row, bar)}

    def _estimated(self, scores: Tensor, label: str) -> Tensor:
        check_scores(scores, f"'{label}'")
        return self.values.of(scores if self.sample is None else scores[self.sample])


def _options(estimator: Estimator) -> dict[str, Any]:
    """Return the options for a row; for large ones, such as checkpoints, the type."""
    values = {name: getattr(estimator, name) for name in estimator.options()}
    small = (bool, int, float, str, type(None))
    return {name: value if isinstance(value, small) else type(value).__name__ for name, value in values.items()}


def _behind(row: dict[str, Any], degree: float | None) -> list[str]:
    """Return the controls that an estimate does not beat; random scores count as uncorrelated."""
    if row["error"] is not None or row["spearman"] is None:
        return []
    behind = []
    if row["estimator"] != "random" and row["spearman_ci"][0] <= 0:
        behind.append("random")
    if row["estimator"] not in CONTROLS and degree is not None and row["spearman"] <= degree:
        behind.append("degree")
    return behind
