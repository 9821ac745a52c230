"""Figures that one model has by itself, written into its log."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.attacks import relearn, shown_rows
from gunlearn.llm.metrics.choices import chosen_right
from gunlearn.llm.metrics.continuations import halved_note, memory
from gunlearn.llm.metrics.evaluation_log import EvaluationLog
from gunlearn.llm.metrics.freed_memory import give_back_freed
from gunlearn.llm.metrics.harness import harness_figures
from gunlearn.llm.metrics.measured_sets import SetMeasures, row_values
from gunlearn.llm.metrics.membership import membership_auc
from gunlearn.llm.metrics.nf4_weights import has_bitsandbytes, under_rounding
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.llm.metrics.scoring import prompt_ids, token_scores
from gunlearn.metrics.base import figures_of
from gunlearn.metrics.texts import TokenScores, exact_memorization, extraction_strength

#: Sets that only generated answers are read of, and what their figure is called.
SPOKEN = ("knowledge_forget", "knowledge_retain", "verbatim")
#: Figures of the model utility, and what a set lacks that has none.
_UTILITY = {"prob": "no scores", "rougeL": "no generated answers", "truth_ratio": "no wrong answers"}


def add_sets(log: EvaluationLog, measures: SetMeasures, sets: Mapping[str, Rows], keep_texts: bool = False) -> None:
    """Score every set, and write its figures and rows into the log."""
    scores: dict[str, TokenScores | None] = {}
    for part, rows in sets.items():
        if part in SPOKEN:
            _add_memory(log, measures, part, rows, keep_texts)
        elif part == "choices":
            _add_choices(log, measures, rows)
        elif part == "holdout":
            scores[part] = found = measures.scores(part, rows)
            if found is not None:
                _write(log, part, row_values(found))
        else:
            scores[part] = _add_set(log, measures, part, rows, keep_texts)
    if len(_useful(sets)) > 1 and measures.passes.team.main:
        _add_utility(log, _useful(sets))
    if "forget" not in sets:
        return
    if "holdout" not in sets:
        log.left_out |= dict.fromkeys(("membership", "privleak"), "it needs held-out rows (--holdout)")
        return
    sides = [measures.attacked(part, sets[part], scores[part]) for part in ("forget", "holdout")]
    for attack in sides[0] if measures.passes.team.main else ():
        log.figures[f"mia_{attack}"] = membership_auc(*(side[attack] for side in sides))


def add_attacks(log: EvaluationLog, measures: SetMeasures, sets: Mapping[str, Rows], keep_model: bool) -> None:
    """Score the forgotten rows under rounded weights, and after relearning some of them."""
    for rounding in measures.settings.quantise:
        if rounding == "nf4" and not has_bitsandbytes():
            log.left_out["nf4"] = "bitsandbytes is not installed"
            continue
        weak: list[nn.Module] = []

        def scored(index: list[int], weak: list[nn.Module] = weak, rounding: str = rounding) -> list[Any]:
            weak.append(under_rounding(measures.model, rounding))
            return measures.pieces(weak[0], [sets["forget"][i] for i in index], "forget")

        found = measures.joined(f"scores-forget-{rounding}", len(sets["forget"]), scored)
        weak.clear()  # its weights, before the next copy is made
        if found is not None:
            figures = {"prob": found.mean_log_prob.exp(), "exact_memorization": exact_memorization(found)}
            figures["extraction_strength"] = extraction_strength(found)
            log.figures |= {f"forget_{k}_{rounding}": float(v.double().mean()) for k, v in figures.items()}
    if measures.settings.harness:
        tasks, size = measures.settings.harness, measures.settings.batch_size
        log.figures |= (
            measures.passes.once("harness", lambda: harness_figures(measures.model, measures.tokenizer, tasks, size))
            or {}
        )
    if measures.settings.relearn_steps:
        _add_relearning(log, measures, sets["forget"], keep_model)


def _add_set(log: EvaluationLog, measures: SetMeasures, part: str, rows: Rows, keep_texts: bool) -> TokenScores | None:
    prompted = all(prompt_ids(row) for row in rows)
    if measures.settings.generate and not prompted:
        log.left_out |= dict.fromkeys((f"{part}_rougeL", f"{part}_fluency"), "its rows have no prompts")
    view = measures.view(part, rows, measures.settings.generate and prompted)
    if view is None:
        return None
    figures = {name: figure for name, figure in figures_of("causal_lm").items() if name != "nll"}
    found = {f"{part}_{name}": figure.compute(view) for name, figure in figures.items()}
    log.figures |= {name: value for name, value in found.items() if value is not None}
    _write(log, part, row_values(view.scores, view.ratio, view.rouge))
    if keep_texts and view.said is not None:
        log.texts[part] = list(view.said)
    return view.scores


def _add_memory(log: EvaluationLog, measures: SetMeasures, part: str, rows: Rows, keep_texts: bool) -> None:
    said = measures.said(part, rows)
    if measures.passes.team.main:
        found = memory(said, [tofu.truth_of(row, measures.tokenizer) for row in rows])
        log.figures[f"{part}_memory"] = float(found.double().mean())
        log.notes |= {part: note} if (note := halved_note(rows)) else {}
        _write(log, part, [{"rougeL_f1": value} for value in found.double().tolist()])
        if keep_texts:
            log.texts[part] = said


def _add_choices(log: EvaluationLog, measures: SetMeasures, rows: Rows) -> None:
    def work(index: list[int]) -> list[bool]:
        return chosen_right(measures.model, [rows[i] for i in index], measures.settings.batch_size).tolist()

    right = measures.passes.run("choices", len(rows), work)
    if right:
        log.figures["choices_acc"] = sum(right) / len(right)
        _write(log, "choices", [{"right": float(value)} for value in right])


def _add_utility(log: EvaluationLog, parts: list[str]) -> None:
    """Write TOFU's model utility, or which sets lack what it needs."""
    found = {(part, name): log.figures.get(f"{part}_{name}") for part in parts for name in _UTILITY}
    lacking = [f"{part} has {_UTILITY[name]}" for (part, name), value in found.items() if value is None]
    if lacking:
        log.left_out["model_utility"] = ", ".join(lacking)
    else:
        log.figures["model_utility"] = tofu.model_utility([value for value in found.values() if value is not None])


def _add_relearning(log: EvaluationLog, measures: SetMeasures, rows: Rows, keep_model: bool) -> None:
    """Write the curve of the other rows' probability."""
    s, passes = measures.settings, RowPasses(team=measures.passes.team)
    shown = {*shown_rows(len(rows), s.relearn_share)}
    others = [i for i in range(len(rows)) if i not in shown]
    others = [others[i] for i in spaced(len(others), s.relearn_rows)]
    if not others:
        log.left_out["relearn"] = "it needs rows to measure beside those that it trains on"
        return

    def measure(model: nn.Module) -> dict[str, float]:
        def work(index: list[int]) -> list[float]:
            asked = [rows[others[i]] for i in index]
            return token_scores(model, asked, min(s.batch_size, s.relearn_batch)).mean_log_prob.exp().tolist()

        found = passes.run("relearn", len(others), work)
        return {"prob": sum(found) / len(found) if found else 0.0}

    def curve() -> list[dict[str, float]]:
        how = {"share": s.relearn_share, "steps": s.relearn_steps, "lr": s.relearn_lr, "in_place": not keep_model}
        how["batch_size"] = s.relearn_batch
        give_back_freed()  # its optimiser's memory is the evaluation's peak
        return list(relearn(measures.model, rows, measure, **how))  # type: ignore[arg-type]

    found = measures.passes.once("relearn", curve)
    if measures.passes.team.main:
        log.curves["relearn"] = found
        log.figures["relearn_prob"] = found[-1]["prob"]
        log.settings["relearn_others"] = others


def _useful(sets: Mapping[str, Rows]) -> list[str]:
    return [part for part in sets if part not in ("forget", "holdout", "choices", *SPOKEN)]


def _write(log: EvaluationLog, part: str, values: list[dict[str, float]]) -> None:
    log.rows[part] = [row | found for row, found in zip(log.rows[part], values, strict=True)]
