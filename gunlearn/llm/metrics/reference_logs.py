"""Logs of retrained models, read in place of the models; those that do not fit are refused by the file's name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics.evaluation_log import SCHEMA, EvaluationLog, read_json
from gunlearn.llm.metrics.framework_logs import framework_min_k, framework_ratio, is_framework_log

#: Settings that two logs must share for their answers to be compared.
_SHARED = ("sampler", "ends", "answer_tokens", "aligned")


@dataclass(frozen=True, eq=False)
class ReferenceLog:
    """What the log of a retrained model says.

    Attributes:
        path: the file.
        ratio: truth ratios of the forgotten rows, `[num_rows]`; `None` where there are none.
        min_k: AUC of Min-K%; `None` where there is none.
        log: a log of our own; `None` for one of open-unlearning.
        unlike: why the AUC of Min-K% cannot be compared; empty where it can.
    """

    path: Path
    ratio: Tensor | None
    min_k: float | None = None
    log: EvaluationLog | None = None
    unlike: str = ""

    @property
    def weights(self) -> str:
        return "" if self.log is None else self.log.model["weights"]

    def mean_log_prob(self, part: str) -> Tensor | None:
        """Return the mean log-likelihood per token of each row of a set, where the log has them."""
        rows = [] if self.log is None else self.log.rows.get(part, [])
        return torch.tensor([-row["avg_loss"] for row in rows], dtype=torch.float64) if rows else None


def read_reference(path: str | PathLike[str], own: EvaluationLog) -> ReferenceLog:
    """Read the log of a retrained model, ours or open-unlearning's, to compare the model of the log `own` with it.

    Raises:
        InvalidInputError: no such file, neither shape, an evaluation that was interrupted, or other rows, tokenizer,
            vocabulary or answers; the message names the file.
    """
    path, number = Path(path), len(own.rows["forget"])
    content = read_json(path)
    if "schema" not in content and is_framework_log(content):
        ratio, min_k = framework_ratio(content, path, number), framework_min_k(content, path)
        if ratio is None and min_k is None:
            raise InvalidInputError(
                f"Expected truth ratios per row or mia_min_k in {path} (got {sorted(content)[:8]}); summaries have "
                "none: take the file *_EVAL.json"
            )
        last = own.settings["end"] == "last"
        unlike = f"{path} leaves out each row's last token, as --end last does (got --end {own.settings['end']})"
        return ReferenceLog(path, ratio, min_k, unlike="" if last else unlike)
    if "schema" not in content:
        raise InvalidInputError(f'Expected "schema": "{SCHEMA}" or a log of open-unlearning in {path} (got neither)')
    log = EvaluationLog.load(path)
    check_fits(log, own)
    ratios = [row.get("truth_ratio") for row in log.rows["forget"]]
    alike = [row.get("others") for row in log.rows["forget"]] == [row.get("others") for row in own.rows["forget"]]
    ratio = torch.tensor(ratios, dtype=torch.float64) if alike and None not in ratios else None
    ends = [(each.settings.get("end"), each.settings.get("ends")) for each in (log, own)]
    unlike = "" if ends[0] == ends[1] else f"{path} was made with end, ends {ends[0]} (got {ends[1]})"
    return ReferenceLog(path, ratio, log.figures.get("mia_min_k"), log, unlike)


def known_references(own: EvaluationLog, paths: Sequence[str | PathLike[str]]) -> list[ReferenceLog]:
    """Read the logs at `paths`, and those that the log `own` names already, to compare its model with all of them.

    Logs of the model itself are left out. A log at one of `paths` replaces the one of the same weights.

    Raises:
        InvalidInputError: as `read_reference`, also where a log that `own` names is no longer there.
    """
    files = [Path(path) for path in paths]
    read = [read_reference(path, own) for path in files if own.path is None or path.resolve() != own.path.resolve()]
    weights = {r.weights for r in read} - {""}
    before = [log_at(own, entry["file"]) for entry in own.references if entry["weights"] not in weights]
    given = {path.resolve() for path in files}
    old = [read_reference(path, own) for path in before if path.resolve() not in given]
    return [r for r in (*old, *read) if r.weights != own.model["weights"]]


def read_original(path: str | PathLike[str], own: EvaluationLog) -> EvaluationLog:
    """Read the log of the model before unlearning; raise as `read_reference`, and for a log of open-unlearning."""
    log = EvaluationLog.load(path)
    check_fits(log, own)
    return log


def check_fits(log: EvaluationLog, own: EvaluationLog) -> None:
    """Refuse a log that another one cannot be compared with.

    Raises:
        InvalidInputError: it was interrupted, or has other rows, another tokenizer, vocabulary or settings of answers.
    """
    path = log.path
    check_values(log)
    if not log.complete:
        raise InvalidInputError(f"Expected a complete log (got {path}, whose evaluation was interrupted); run it again")
    if "forget" in own.rows and "forget" not in log.rows:
        raise InvalidInputError(
            f"Expected a log of forgotten rows (got {path}, of {', '.join(log.rows) or 'no'} rows alone)"
        )
    if log.tokenizer["digest"] != own.tokenizer["digest"]:
        raise InvalidInputError(
            f"Expected a log made with this model's tokenizer, of {own.tokenizer['size']} tokens (got {path}, made "
            f"with another one, of {log.tokenizer['size']})"
        )
    sizes = log.model["vocabulary"], own.model["vocabulary"]
    if sizes[0] != sizes[1]:
        raise InvalidInputError(f"Expected a model with a vocabulary of {sizes[1]} tokens in {path} (got {sizes[0]})")
    kinds = [(each.model.get("kind"), each.model.get("parameters")) for each in (log, own)]
    if None not in kinds[0] + kinds[1] and kinds[0] != kinds[1]:
        found = ["a {} of {:,} parameters".format(*kind) for kind in kinds]
        raise InvalidInputError(f"Expected {found[1]} in {path} (got {found[0]}): a retrained model has the same size")
    for part in sorted(log.rows.keys() & own.rows.keys()):
        theirs, ours = log.digests(part), own.digests(part)
        if theirs != ours:
            common = len({*theirs} & {*ours})
            raise InvalidInputError(
                f"Expected a log of the same {len(ours)} rows of '{part}' in {path} (got {len(theirs)} rows, {common} "
                "of them among these); a log made under another owner's key has other digests (GUNLEARN_KEY_FILE)"
            )
        beside_them = zip(log.rows[part], own.rows[part], strict=True)
        changed = [a["others"] != b["others"] for a, b in beside_them if "others" in a and "others" in b]
        if any(changed):
            raise InvalidInputError(
                f"Expected a log of the same wrong and paraphrased answers to '{part}' in {path} (got others for "
                f"{sum(changed)} of {len(ours)} rows)"
            )
    for name in _SHARED:
        both = log.settings.get("aligned") and own.settings.get("aligned")
        if both and log.settings.get(name) != own.settings.get(name):
            raise InvalidInputError(
                f"Expected answers drawn alike, with {name} {own.settings.get(name)!r:.80}, in {path} "
                f"(got {log.settings.get(name)!r:.80})"
            )


def check_values(log: EvaluationLog) -> None:
    """Refuse a log whose values no evaluation writes: changed, or of a broken model.

    Raises:
        InvalidInputError: entries of rows that are no rows, losses or truth ratios that are no numbers, or below 0, an
            AUC outside 0 to 1; the message names the file.
    """

    def number(value: Any, low: float = 0.0, high: float = math.inf) -> bool:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and low <= value <= high

    def refuse(name: str, value: Any, wanted: str) -> None:
        raise InvalidInputError(f"Expected {wanted} as {name!r} in {log.path} (got {value!r:.60}); evaluate anew")

    for part, rows in log.rows.items():
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "digest" in row for row in rows):
            refuse(part, rows, "a list of rows with their digests")
        for row in rows:
            if not number(row.get("avg_loss", 0.0), high=1e30):
                refuse("avg_loss", row["avg_loss"], "a loss from 0")
            if row.get("truth_ratio") is not None and not number(row["truth_ratio"]):
                refuse("truth_ratio", row["truth_ratio"], "a ratio from 0, or none")
    for name, value in log.figures.items():
        if name.startswith("mia_") and not number(value, high=1.0):
            refuse(name, value, "an AUC from 0 to 1")


def check_apart(references: Sequence[ReferenceLog], others: Mapping[str, EvaluationLog]) -> None:
    """Refuse references with the weights of each other or of `others`, by what these are called.

    Raises:
        InvalidInputError: two logs are of one model; the message names the files.
    """
    seen: dict[str, Any] = {log.model["weights"]: name for name, log in others.items()}
    for reference in references:
        if reference.weights in seen and reference.weights:
            raise InvalidInputError(
                f"Expected logs of models that were retrained under different seeds (got {reference.path}, whose "
                f"weights are those of {seen[reference.weights]}, bit for bit)"
            )
        seen[reference.weights] = reference.path


def log_at(log: EvaluationLog, file: str) -> Path:
    """Return the path of a file that a log names; the inverse of `relative`."""
    return (Path() if log.path is None else log.path.parent) / file


def relative(path: Path, log: EvaluationLog) -> str:
    """Return a path as it is written into a log: from the log's folder."""
    return os.path.relpath(path, Path() if log.path is None else log.path.parent)
