"""Logs of open-unlearning (`TOFU_EVAL.json`, `MUSE_EVAL.json`): values of its retain models, read for comparisons.

A file maps the names of metrics to `{"agg_value": number, "value_by_index": {"0": {...}}}`. Rows are told by their
index alone, so that a log of other rows of the same number cannot be found out.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError

_RATIOS = ("forget_truth_ratio", "forget_Truth_Ratio")


def is_framework_log(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object has the shape of open-unlearning's logs."""
    return any(isinstance(entry, Mapping) and "agg_value" in entry for entry in content.values())


def framework_ratio(content: Mapping[str, Any], path: Path, number: int) -> Tensor | None:
    """Return the truth ratios of the forgotten rows, `[number]`, `None` where the log has none.

    From the losses of paraphrased and perturbed answers where the log has them, since its own ratios have 1e-10 in
    their denominators; else these.

    Raises:
        InvalidInputError: values of another number of rows, or no numbers; the message names the file.
    """
    names = "forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"
    if all(_by_index(content, name) for name in names):
        right, wrong = (_means(content, name, "avg_loss", path, number) for name in names)
        return (right - wrong).exp()
    name = next((name for name in _RATIOS if _by_index(content, name)), None)
    return None if name is None else _means(content, name, "score", path, number)


def framework_min_k(content: Mapping[str, Any], path: Path) -> float | None:
    """Return the log's AUC of Min-K%, 1 where forgotten rows are much likelier; `None` where it has none."""
    entry = content.get("mia_min_k")
    value = entry.get("agg_value") if isinstance(entry, Mapping) else None
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInputError(f"Expected an AUC as 'agg_value' of mia_min_k in {path} (got {value!r})")
    return float(value)


def _by_index(content: Mapping[str, Any], name: str) -> bool:
    return isinstance(content.get(name), Mapping) and "value_by_index" in content[name]


def _means(content: Mapping[str, Any], name: str, key: str, path: Path, number: int) -> Tensor:
    """Return a value per row, the mean where it has several, in the order of the indices."""
    by_index = content[name]["value_by_index"]
    if not isinstance(by_index, Mapping):
        raise InvalidInputError(f"Expected values by index of {name} in {path} (got {by_index!r:.80})")
    strange = [index for index in by_index if not str(index).isdecimal()]
    if strange:
        raise InvalidInputError(f"Expected whole numbers as indices of {name} in {path} (got {strange[0]!r})")
    if len(by_index) != number:
        raise InvalidInputError(
            f"Expected {name} of the {number} forgotten rows in {path} (got {len(by_index)} rows); "
            "take the retain model's log of the same forget split"
        )
    out = []
    for index in sorted(by_index, key=int):
        entry = by_index[index]
        value = entry.get(key) if isinstance(entry, Mapping) else None
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if not values or len(numbers) < len(values):
            raise InvalidInputError(f"Expected numbers as {key!r} of {name} in {path} (got {value!r} at index {index})")
        out.append(sum(numbers) / len(numbers))
    return torch.tensor(out, dtype=torch.float64)
