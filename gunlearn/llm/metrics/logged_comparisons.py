"""Figures that compare a model with retrained ones, from logs alone."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.evaluation import alignment_figures
from gunlearn.llm.metrics.evaluation_log import EvaluationLog
from gunlearn.llm.metrics.membership import membership_auc, privacy_leak
from gunlearn.llm.metrics.reference_logs import ReferenceLog
from gunlearn.metrics.alignment import Alignment, Sampler, StepTerms, align
from gunlearn.metrics.standing import Standing
from gunlearn.metrics.untrained import learned_little

#: A reference looks taught where forgotten rows are likelier than `_KNOWN`, and than so much of the retained ones.
_KNOWN, _AS_WELL = 0.5, 0.9


def compared(log: EvaluationLog, references: Sequence[ReferenceLog], original: EvaluationLog | None) -> None:
    """Add to a log's figures those that need retrained models, and say of the others why they are left out.

    `forget_quality` and `mia_reference` are those of the first reference that has what they need; `privleak` takes the
    references' mean AUC of Min-K%, and .5 without references. Figures of earlier comparisons are replaced.

    Raises:
        InvalidInputError: two references agree exactly.

    Warns:
        UserWarning: a reference that looks untrained, or as if it had been trained on the forgotten rows.
    """
    if "forget" not in log.rows:
        return
    _add_ratio(log, references)
    _add_membership(log, references)
    for part in log.settings["align_on"]:
        _add_alignment(log, part, references, original)
    _add_relearned(log, original)
    if original is not None:
        _warn_untrained(references, original)
    _warn_taught(references)


def _add_ratio(log: EvaluationLog, references: Sequence[ReferenceLog]) -> None:
    own = [row.get("truth_ratio") for row in log.rows["forget"]]
    known = [r.ratio for r in references if r.ratio is not None]
    why = (
        "rows have no wrong answers"
        if None in own
        else ""
        if known
        else "no log of a retrained model has truth ratios of these answers"
    )
    _say(log, "forget_quality", why)
    if not why:
        log.figures["forget_quality"] = tofu.forget_quality(torch.tensor(own, dtype=torch.float64), known[0])


def _add_membership(log: EvaluationLog, references: Sequence[ReferenceLog]) -> None:
    if "mia_min_k" in log.figures:
        known = [(r, r.min_k) for r in references if r.min_k is not None]
        aucs = [auc for r, auc in known if not r.unlike]
        usual = sum(aucs) / len(aucs) if aucs else 0.5
        why = "the references' attack finds every member" if usual == 1 else ""
        why = "no log of a retrained model has the AUC of Min-K%" if references and not known else why
        _say(log, "privleak", known[0][0].unlike if known and not aucs else why)
        if "privleak" not in log.left_out:
            log.figures["privleak"] = privacy_leak(log.figures["mia_min_k"], usual)
    if "reference" not in log.settings["attacks"]:
        return
    sides = [_losses(log, references, part) for part in ("forget", "holdout")]
    scores = [side for side in sides if side is not None]
    _say(
        log,
        "mia_reference",
        "" if len(scores) == 2 else "it needs held-out rows and a log of ours of a retrained model",
    )
    if len(scores) == 2:
        log.figures["mia_reference"] = membership_auc(*scores)


def _losses(log: EvaluationLog, references: Sequence[ReferenceLog], part: str) -> Tensor | None:
    """Return how much likelier each row is than under the first reference that knows both sets."""
    other = next((r for r in references if r.log is not None and "holdout" in r.log.rows), None)
    theirs = None if other is None else other.mean_log_prob(part)
    if theirs is None or not log.rows.get(part):
        return None
    return torch.tensor([-row["avg_loss"] for row in log.rows[part]], dtype=torch.float64) - theirs


def _add_alignment(
    log: EvaluationLog, part: str, references: Sequence[ReferenceLog], original: EvaluationLog | None
) -> None:
    stem = f"{part}_alignment"
    log.figures = {name: value for name, value in log.figures.items() if not name.startswith(stem)}
    log.left_out = {name: why for name, why in log.left_out.items() if not name.startswith(stem)}
    ours = [r for r in references if r.log is not None]
    why = "" if ours else "no log of ours of a retrained model"
    if part not in log.settings["aligned"]:
        why = "its rows have no prompts"
    silent = [str(r.path) for r in ours if r.log is not None and part not in r.log.settings.get("aligned", {})]
    if not why and silent:
        why = f"no answers to its rows are beside {', '.join(silent)}"
    if why:
        _say(log, stem, why)
        return
    found = [alignment_with(log, r.weights, part) for r in ours]
    missing = [str(r.path) for r, alignment in zip(ours, found, strict=True) if alignment is None]
    if missing:
        _say(log, stem, f"the models of {', '.join(missing)} have yet to score this model's answers (--score-for)")
        return
    floor = _floor(ours, part)
    before = [] if original is None else [alignment_with(original, r.weights, part) for r in ours]
    whole = [alignment for alignment in before if alignment is not None]
    at = Standing.of([a for a in found if a is not None], floor, whole if len(whole) == len(ours) else [])
    if len(ours) == 1:
        why = "it needs logs of two retrained models"
    else:
        why = "" if floor is not None else "the retrained models have yet to score each other's answers (--score-for)"
    _say(log, f"{stem}_floor", why)
    incomplete = original is not None and len(whole) < len(ours)
    missing_gain = "the retrained models have yet to score the original model's answers (--score-for)"
    _say(log, f"{stem}_gain", missing_gain if incomplete else "" if original is not None else "it needs --original-log")
    log.figures |= alignment_figures(stem, at)


def _floor(references: Sequence[ReferenceLog], part: str) -> float | None:
    """Return the mean alignment of the references with each other; `None` where one pair has none."""
    found = []
    for one, two in combinations(references, 2):
        pair = _pair(one, two, part)
        if pair is None:
            return None
        if pair.value == 0:
            raise InvalidInputError(
                f"Expected references that were retrained under different seeds (got {one.path} and {two.path}, which "
                "agree exactly); their distance would be no noise floor"
            )
        found.append(pair.value)
    return sum(found) / len(found) if found else None


def _pair(one: ReferenceLog, two: ReferenceLog, part: str) -> Alignment | None:
    for a, b in ((one, two), (two, one)):
        found = None if a.log is None else alignment_with(a.log, b.weights, part)
        if found is not None:
            return found
    return None


def alignment_with(log: EvaluationLog, weights: str, part: str) -> Alignment | None:
    """Return the alignment of a log's model with a reference; `None` until both have scored each other's answers."""
    entry: Mapping[str, Any] = log.compared.get(weights, {}).get(part, {})
    if not {"precision", "recall"} <= entry.keys():
        return None
    sampler = Sampler(**log.settings["sampler"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not sampler.exact else "default")
        precision = _terms(entry["precision"], entry["precision_truncated"])
        recall = _terms(entry["recall"], entry["recall_truncated"])
        return align(precision, recall, sampler=sampler)


def _terms(values: Sequence[Sequence[float]], truncated: float) -> StepTerms:
    sums = torch.tensor(values, dtype=torch.float64)[..., None]
    return StepTerms(sums, torch.ones_like(sums, dtype=torch.bool), truncated)


def _add_relearned(log: EvaluationLog, original: EvaluationLog | None) -> None:
    """Add after how many steps of relearning the other rows are as likely as they were before unlearning."""
    if "relearn" not in log.curves:
        return
    _say(log, "relearn_steps", "" if original is not None else "it needs --original-log")
    if original is not None:
        known = [original.rows["forget"][i]["prob"] for i in log.settings["relearn_others"]]
        before = sum(known) / len(known)
        reached = [point["step"] for point in log.curves["relearn"] if point["prob"] >= before]
        log.figures["relearn_steps"] = reached[0] if reached else float("inf")


def _warn_untrained(references: Sequence[ReferenceLog], original: EvaluationLog) -> None:
    before = original.figures.get("retain_prob")
    for reference in references:
        now = None if reference.log is None else reference.log.figures.get("retain_prob")
        if learned_little(now, before, 0.0):
            warnings.warn(
                f"Expected references trained on the rows to retain (got {reference.path}, whose model gives their "
                f"tokens a probability of {now:.2g}, the model before unlearning {before:.2g}): it looks untrained, "
                "and distances to it say nothing",
                stacklevel=4,
            )


def _warn_taught(references: Sequence[ReferenceLog]) -> None:
    """Warn of references that know the forgotten rows about as well as the retained ones."""
    for reference in references:
        figures = {} if reference.log is None else reference.log.figures
        gone, kept = figures.get("forget_prob"), figures.get("retain_prob")
        if gone is not None and kept is not None and gone > _KNOWN and gone > _AS_WELL * kept:
            warnings.warn(
                f"Expected references trained without the rows to forget (got {reference.path}, whose model gives "
                f"their tokens a probability of {gone:.2g}, those of the rows to retain {kept:.2g}): it looks as if it "
                "had been trained on both, and figures that compare with it say nothing",
                stacklevel=4,
            )


def _say(log: EvaluationLog, name: str, why: str) -> None:
    """Say why a figure is left out, or that it no longer is; the figure of an earlier comparison goes."""
    log.left_out.pop(name, None)
    log.figures.pop(name, None)
    if why:
        log.left_out[name] = why
