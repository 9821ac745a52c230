"""Two halves of the measured rows: settings are chosen on one and reported on the other."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics.membership import membership_auc
from gunlearn.metrics.alignment import gain_interval

#: The sets that are halved.
HALVED = ("forget", "retain", "holdout")
#: Values of each row at a point, by name: `[num_rows]`. Names begin with the set's.
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Half:
    """Numbers of the rows of a half, by set."""

    rows: Mapping[str, tuple[int, ...]]

    def mean(self, values: Values, name: str) -> float | None:
        """Return the mean of a figure over the half's rows; `None` where it was not measured."""
        return float(self._own(values, name).mean()) if name in values else None

    def figures(self, values: Values, original: Values) -> dict[str, float | None]:
        """Return the figures of a model on the half.

        They are the means of all that was measured per row; `gain`, 1 - alignment over that of the original model (its
        values are `original`); the interval of it over rows, `gain_low` and `gain_high`; `mia_min_k`, the AUC of
        membership inference.
        """
        found: dict[str, float | None] = {
            name: self.mean(values, name) for name in values if not name.endswith("_min_k")
        }
        key = "forget_alignment"
        if key in values and key in original:
            own, before = self._own(values, key), self._own(original, key)
            found["gain"] = 1 - float(own.mean() / before.mean())
            low, high = gain_interval(own, before) or (None, None)
            found |= {"gain_low": low, "gain_high": high}
        if "holdout_min_k" in values:
            found["mia_min_k"] = membership_auc(self._own(values, "forget_min_k"), self._own(values, "holdout_min_k"))
        return found

    def _own(self, values: Values, name: str) -> Tensor:
        given = values[name]
        return torch.tensor([given[i] for i in self.rows[name.partition("_")[0]]], dtype=torch.float64)


def halves(sizes: Mapping[str, int], seed: int = 0) -> tuple[Half, Half]:
    """Return two disjoint halves of sets of rows, drawn under a seed: the one to choose on, the one to report.

    Args:
        sizes: number of rows by name of the set.
        seed: of the draw.

    Raises:
        InvalidInputError: a set of fewer than two rows.
    """
    chosen, reported = {}, {}
    for name, size in sizes.items():
        if size < 2:
            raise InvalidInputError(f"Expected at least two rows of '{name}' to halve (got {size})")
        order = list(range(size))
        random.Random(f"{seed} {name}").shuffle(order)
        chosen[name], reported[name] = tuple(sorted(order[: size // 2])), tuple(sorted(order[size // 2 :]))
    return Half(chosen), Half(reported)
