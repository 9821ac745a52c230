"""All figures of several language models in one table."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.table import Table
from rich.text import Text
from torch import nn

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.encoding import check_tokenizer
from gunlearn.llm.metrics import membership
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.measured_model import OWN, MeasuredModel, ModelMeasures
from gunlearn.llm.metrics.scoring import NotANumberError
from gunlearn.llm.metrics.text_alignment import TextAlignment
from gunlearn.llm.model.causality import check_language_models
from gunlearn.llm.model.head import context_of
from gunlearn.metrics.alignment import Sampler
from gunlearn.metrics.base import Figure, figures_of
from gunlearn.metrics.standing import Standing, check_retrained, named_models, standings
from gunlearn.metrics.untrained import learned_little

ATTACKS = ("loss", "min_k", "min_k_plus", "zlib", "reference", "gradient")


class ModelFigures(list[dict[str, Any]]):
    """A row of figures per model, `{"model": name, "forget_prob": ..., ...}`; rich prints one column per model."""

    def of(self, name: str) -> dict[str, Any]:
        """Return the row of a model; refuse a name that no row has."""
        for row in self:
            if row["model"] == name:
                return row
        raise InvalidInputError(f"Expected one of {[row['model'] for row in self]} (got {name!r})")

    def __rich__(self) -> Table:
        keys = {key for row in self for key in row}
        known = figures_of("causal_lm").values()
        notes = [f"{f.name}: {f.legend}" for f in known if any(key.endswith(f"_{f.name}") for key in keys)]
        table = Table("", *[row["model"] for row in self], caption=Text("\n".join(notes), justify="left"))
        for key in dict.fromkeys(key for row in self for key in row if key != "model"):
            table.add_row(key, *[_shown(row.get(key)) for row in self])
        return table


def evaluate_language_models(
    models: Mapping[str, nn.Module],
    tokenizer: Any,
    forget_rows: Rows,
    retain_rows: Rows,
    references: Sequence[nn.Module] = (),
    holdout_rows: Rows | None = None,
    original: nn.Module | None = None,
    utility_rows: Mapping[str, Rows] | None = None,
    sampler: Sampler | None = None,
    attacks: Sequence[str] = ("loss", "zlib", "min_k", "min_k_plus"),
    align_on: Sequence[str] = OWN,
    max_new_tokens: int | None = None,
    batch_size: int = 16,
    generate: bool = True,
    ends: int | Sequence[int] | None = None,
    metrics: Iterable[str | Figure] = (),
    end: str = "skip",
) -> ModelFigures:
    """Measure models on forgotten and retained rows, and compare them with retrained ones.

    Returns per model the figures of `"causal_lm"` (`gunlearn figures` lists them; all but `nll`) as `forget_prob`,
    `retain_prob`, ..., and `*_alignment` with `_low`, `_high`, `_precision`, `_recall`, `_floor`, `_excess`, `_gain`,
    `_gain_low`, `_gain_high`;
    `forget_quality`; `mia_*`; `model_utility`. A retrained model is compared with the other retrained ones.

    Leaves out alignment and forget quality without `references`, gain without `original`, floor and excess with one
    reference, membership without `holdout_rows`, truth ratios where rows have no `"perturbed"`, and utility unless all
    its sets have it. A model that returns NaN is marked `"broken"`, without figures; nothing is compared with it. A
    reference that knows little of what `original` knows of the retained rows is marked `"untrained"`.

    Args:
        models: models by name. `original` and `references` are added as `"original"`, `"retrained 0"`, ... unless they
            have another name.
        tokenizer: the tokenizer of all models.
        forget_rows: `input_ids`, `labels`; for truth ratios also `"perturbed"`, a list of rows with wrong answers, and
            `"paraphrased"`, a row with the right one in other words (default: the row itself).
        retain_rows: the same for a sample of the rows to keep.
        references: models retrained without the forgotten rows, under different seeds.
        holdout_rows: rows like the forgotten ones that no model has seen.
        original: the model before unlearning.
        utility_rows: further sets of TOFU's model utility, `{"real_authors": ..., "world_facts": ...}`; the probability
            of an answer is its share among the given answers.
        sampler: how to draw answers for the alignment.
        attacks: membership attacks among `ATTACKS`; `"reference"` compares with the first of `references` that is not
            the model itself.
        align_on: sets of prompts for the alignment, `"forget"` and `"retain"`.
        max_new_tokens: length of generated answers. By default that of the rows' own for ROUGE (see `answers_of`), 64
            tokens for the alignment, or less in a short context.
        batch_size: rows at a time; answers are generated four times as many at a time.
        generate: generate answers for ROUGE. Set `False`, and `align_on=()`, for documents, which have no prompt.
        ends: ids that end an answer; by default those of `end_tokens`.
        metrics: your own figures to compute beside the registered ones, from a `TextView` of each set.
        end: what memorisation, Min-K% and the gradient attack do with the token that ends a row: `"skip"`, `"keep"` or
            `"last"`, see `token_scores`.

    Raises:
        InvalidInputError: unknown attacks or sets, no models, an empty set, rows that are not encoded, the attack
            `"reference"` without references, or a reference with the weights of `original`.
        InvalidTypeError: models without names, or no models.
        UnsupportedModelError: an encoder-decoder, a bidirectional model, prompt tuning.

    Warns:
        UserWarning: a reference that looks untrained.
    """
    _check_arguments(models, tokenizer, references, attacks, align_on)
    check_retrained(references, {} if original is None else {"the original model": original})
    models = named_models(models, references, original)
    check_language_models(models.values())
    sets = {"forget": forget_rows, "retain": retain_rows, **(utility_rows or {})}
    sets = {part: encoded_rows(f"{part}_rows" if part in OWN else part, rows) for part, rows in sets.items()}
    holdout = None if holdout_rows is None else encoded_rows("holdout_rows", holdout_rows)
    measured = {name: figure for name, figure in figures_of("causal_lm", metrics).items() if name != "nll"}
    speak = {"tokenizer": tokenizer, "max_new_tokens": max_new_tokens, "ends": ends} if generate else None
    closing: dict[str, Any] = {"end": end, "tokenizer": tokenizer if ends is None else ends}
    measures = ModelMeasures(sets, holdout, measured, attacks, tokenizer, batch_size, speak, closing)
    out, whole = ModelFigures({"model": name} for name in models), dict[str, MeasuredModel]()
    for row in out:
        try:
            whole[row["model"]] = found = measures.of(models[row["model"]])
            row |= found.figures
        except NotANumberError:
            row["broken"] = True
    models = {name: models[name] for name in whole}
    references = [model for model in references if _among(model, models.values())]
    original = original if _among(original, models.values()) else None
    _compare(out, models, whole, references, "reference" in attacks)
    _mark_untrained(out, models, references, original)
    compared = {n: m for n, m in models.items() if any(m is not r for r in references)}
    for part in align_on if compared else ():
        supplier = TextAlignment(sets[part], tokenizer if ends is None else ends, sampler, batch_size=4 * batch_size)
        room = min(context_of(model) or math.inf for model in models.values()) - max(map(len, supplier.prompts))
        supplier.max_new_tokens = max_new_tokens or int(max(1, min(supplier.max_new_tokens, room)))
        for name, at in standings(compared, references, supplier, original).items():
            out.of(name).update(alignment_figures(f"{part}_alignment", at))
    return out


def _check_arguments(
    models: Any, tokenizer: Any, references: Sequence[nn.Module], attacks: Sequence[str], align_on: Sequence[str]
) -> None:
    if not isinstance(models, Mapping):
        raise InvalidTypeError(f'Expected models by name, {{"unlearned": model}} (got {type(models).__name__})')
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    unknown = sorted({*attacks} - {*ATTACKS}) + sorted({*align_on} - {*OWN})
    if unknown or not models:
        raise InvalidInputError(f"Expected models, attacks among {ATTACKS} and sets 'forget', 'retain' (got {unknown})")
    if "reference" in attacks and not references:
        raise InvalidInputError("Expected 'references' for the attack 'reference' (got none)")


def alignment_figures(stem: str, at: Standing) -> dict[str, float]:
    """Return the figures of an alignment by name."""
    figures: dict[str, float | None] = {"": at.value, "_precision": at.precision, "_recall": at.recall}
    figures |= dict(zip(("_low", "_high"), at.interval or (), strict=False))
    figures |= {"_floor": at.floor, "_excess": at.excess, "_gain": at.gain}
    figures |= dict(zip(("_gain_low", "_gain_high"), at.gain_interval or (), strict=False))
    return {f"{stem}{name}": value for name, value in figures.items() if value is not None}


def _mark_untrained(
    out: ModelFigures, models: Mapping[str, nn.Module], references: Sequence[nn.Module], original: nn.Module | None
) -> None:
    """Mark references that know little of what the original model knows of the retained rows, and warn of them."""
    name_of = {id(model): name for name, model in models.items()}
    before = None if original is None else out.of(name_of[id(original)]).get("retain_prob")
    for name in dict.fromkeys(name_of[id(model)] for model in references):
        now = out.of(name).get("retain_prob")
        if learned_little(now, before, 0.0):  # new weights give each token one chance of many
            out.of(name)["untrained"] = True
            warnings.warn(
                f"Expected references trained on the rows to retain (got {name!r}, which gives their tokens a "
                f"probability of {now:.2g}, the model before unlearning {before:.2g}): it looks untrained, and "
                "distances to it say nothing",
                stacklevel=3,
            )


def _compare(
    out: ModelFigures,
    models: Mapping[str, nn.Module],
    whole: Mapping[str, MeasuredModel],
    references: Sequence[nn.Module],
    attacked: bool,
) -> None:
    """Add what compares each model with a retrained one: the attack `"reference"` and TOFU's forget quality."""
    for name, model in models.items():
        scores = whole[name].scores
        other = next((n for r in references if r is not model for n in models if models[n] is r), None)
        if other is not None and scores is not None and attacked:
            forget, unseen = map(membership.reference_score, scores, cast(Any, whole[other].scores))
            out.of(name)["mia_reference"] = membership.membership_auc(forget, unseen)
        own, others = whole[name].ratio, [whole[n].ratio for n in models if n != name and _among(models[n], references)]
        known = [ratio for ratio in others if ratio is not None]
        if own is not None and known:
            out.of(name)["forget_quality"] = tofu.forget_quality(own, known[0])


def encoded_rows(name: str, rows: Any) -> list[Mapping[str, Any]]:
    """Return the rows as a list; refuse other objects."""
    if isinstance(rows, (str, Path, Mapping)) or not hasattr(rows, "__getitem__"):
        got = f"{type(rows).__name__} {str(rows)!r:.60}"
    elif not len(rows):
        raise InvalidInputError(f"Expected rows in '{name}' (got none)")
    else:
        rows = [rows[i] for i in range(len(rows))]
        bad = [row for row in rows if not isinstance(row, Mapping) or not {"input_ids", "labels"} <= row.keys()]
        if not bad:
            return rows
        got = str(sorted(bad[0])) if isinstance(bad[0], Mapping) else type(bad[0]).__name__
    raise InvalidInputError(
        f"Expected rows of 'input_ids' and 'labels' in '{name}' (got {got}); gunlearn.llm.encode makes them of records"
    )


def _among(model: nn.Module | None, models: Iterable[nn.Module]) -> bool:
    return any(model is other for other in models)


def _shown(value: float | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
