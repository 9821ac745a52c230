"""One call from a model and two files to an unlearned model with its record."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import nn

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.encoding import check_tokenizer
from gunlearn.llm.data.records import refused
from gunlearn.llm.data.rows import as_rows, separate
from gunlearn.llm.model.adapters import check_trainable
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import context_of
from gunlearn.llm.record import LLMResult
from gunlearn.llm.training import by_loop
from gunlearn.llm.training.auto_choice import resolve_auto
from gunlearn.llm.training.backend import TrainerBackend
from gunlearn.llm.training.causal_lm import CausalLM
from gunlearn.llm.training.views import reads_part
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.methods.published import build_method
from gunlearn.requests.items import split_rows

#: Options that must be whole numbers, and other numbers.
_WHOLE = ("batch_size", "figure_rows", "per_device_train_batch_size")
_REAL = ("epochs", "lr", "learning_rate", "num_train_epochs")


def unlearn(
    model: nn.Module,
    tokenizer: Any,
    forget: Any,
    retain: Any = None,
    method: str | Method | Loss | Objective = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    peft: Any = None,
    alternative: Any = None,
    parts: Mapping[str, Any] | None = None,
    epochs: float | None = None,
    lr: float | None = None,
    batch_size: int = 8,
    seed: int = 0,
    max_length: int | None = None,
    encoding: Mapping[str, Any] | None = None,
    overlap: str = "error",
    reference: str | nn.Module = "auto",
    in_place: bool = False,
    figure_rows: int = 256,
    progress: bool = False,
    callbacks: tuple[Any, ...] = (),
    **training: Any,
) -> LLMResult:
    """Unlearn rows in a copy of a model; the caller's random state stays as it was.

    Args:
        model: a causal language model of transformers, with or without a peft adapter. Not changed, unless `in_place`.
        tokenizer: its tokenizer. Not changed.
        forget: the path of a file (see `read_records`), records, or rows with `input_ids` and `labels`.
        retain: what to keep, in the same forms; required if the method's objective reads it.
        method: a name of `gunlearn.METHODS` (`"name:variant"`), a method, or any objective over the parts `"forget"`
            and `"retain"`. `"auto"` shrinks what fine-tuning changed and learns the retained rows again, where it is
            told the weights before (`options={"towards": ...}`, `"base"` of an adapter that fine-tuning made) and the
            learning rate of that training (`lr`, or `"training"`), else it is `"npo"`; see
            `gunlearn.methods.auto.Auto`, and `result.settings["chosen"]`. Methods that are more than an objective over
            the forgotten rows (`"finetune"`, `"continued_training"`, `"replay"`, `"imu"`, `"task_vector"`) run in the
            package's own loop, which takes no new adapter and no `TrainingArguments`, and trains where the model is; a
            Trainer takes CUDA where there is one.
        options: options of the method.
        peft: `None` trains the model's trainable parameters; `"lora"` an adapter on all linear layers, `"bounded"` one
            on the feed-forward layers (`BoundedConfig`), or a configuration of peft.
        alternative: other answers to the forgotten questions, in the same order, for methods that prefer them; refusals
            by default.
        parts: rows of further parts that your own objective reads, by name; drawn at random.
        epochs: passes over the forgotten rows; the method's published number by default.
        lr: learning rate; the published one by default, ten times that for an adapter.
        batch_size: forgotten rows per step and device, beside as many of each other part.
        seed: seed of adapters, order and dropout.
        max_length: tokens per row; the model's context by default.
        encoding: arguments of `encode`, for records.
        overlap: what to do with rows in both `forget` and `retain`, see `separate`.
        reference: the model that losses compare with, see `FrozenReference`.
        in_place: train the given model itself, if it is too large for a copy.
        figure_rows: rows of each part to measure before and after, evenly spaced; 0 measures nothing.
        progress: show a progress bar.
        callbacks: further callbacks of transformers.
        training: further `TrainingArguments` (`gradient_accumulation_steps=4`, `bf16=True`, `use_cpu=True`).

    Raises:
        InvalidInputError: rows, options or parts that do not fit; no step; a frozen or quantised model without adapter.
        InvalidTypeError: `model` is not a module (a path, say), or `tokenizer` no tokenizer.
        UnsupportedModelError: no head over a vocabulary, an encoder-decoder, a bidirectional model, prompt tuning.
        DivergenceError: the loss became NaN or infinite, or the model lost the rows to retain altogether.

    Warns:
        UserWarning: no loss reads `retain`, no measurable effect on `forget`, weights to train in half precision, or a
            model that lost the rows to retain.

    Example:
        >>> from gunlearn.llm import unlearn
        >>> result = unlearn(model, tokenizer, "forget.jsonl", "retain.jsonl", "npo", peft="lora")  # doctest: +SKIP
        >>> result.save("unlearned")  # doctest: +SKIP
    """
    named = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "figure_rows": figure_rows}
    training = _plain(named | training)
    epochs, lr, batch_size, figure_rows = map(training.pop, named)
    for name, value, other in (("lr", lr, "learning_rate"), ("epochs", epochs, "num_train_epochs")):
        if value is not None and other in training:
            raise InvalidInputError(f"Expected {name!r} or {other!r} (got both, {value} and {training[other]})")
    epochs = training.pop("num_train_epochs", epochs)
    batch_size = training.pop("per_device_train_batch_size", batch_size)
    _check_inputs(model, tokenizer, seed, peft)
    how = {"max_length": max_length or context_of(model)} | dict(encoding or {})
    asked = {} if epochs is None else {"num_train_epochs": epochs}  # a Trainer also takes fractions of an epoch
    backend = TrainerBackend(
        tokenizer,
        peft,
        reference=reference,
        in_place=in_place,
        figure_rows=figure_rows,
        training={"per_device_train_batch_size": batch_size, **asked, **training},
        record={"encoding": how, "overlap": overlap},
    )
    task = CausalLM(backend=backend, batch_size=batch_size)
    given = {} if lr is None else {"lr": lr}
    built = _method(method, options, given, task, model)
    if built.name == "auto":  # its class loads graphs
        choice = resolve_auto(built, task, model, backend, epochs)
        given, options = {}, choice.options
        built = build_method(choice.method, options, task, model)
        backend = replace(backend, record={**backend.record, "chosen": f"{choice.method}, because {choice.why}"})
        task = replace(task, backend=backend)
    looped = not backend.runs(built)
    if looped:
        built = by_loop.ready(built, {**given, **(options or {})}, epochs, backend, task)
    reads = not looped and reads_part(as_objective(built.objective()).parts, "alternative")
    if alternative is not None and not reads:
        raise InvalidInputError(
            f"Expected a method that teaches other answers beside 'alternative' (got {built.name!r}: it teaches none)"
        )
    rows, records = as_rows(forget, tokenizer, "forget", **how)
    kept = [] if retain is None else _retained(retain, (rows, records), tokenizer, overlap, how)
    paired = {"alternative": _alternative(alternative, records, tokenizer, seed, how)} if reads else {}
    request = split_rows([*rows, *kept], len(rows))
    if looped and parts:
        raise InvalidInputError(f"Expected no 'parts' for {built.name!r}, which reads none (got {sorted(parts)})")
    if looped:
        return by_loop.run_by_loop(
            built, model, request, replace(task, backend="loop"), backend, seed, callbacks, progress
        )
    drawn = {name: as_rows(more, tokenizer, name, **how)[0] for name, more in (parts or {}).items()}
    task = replace(task, backend=replace(backend, drawn=drawn, paired=paired))
    result = run_method(built, model, request, task, seed, callbacks, progress)
    return cast(LLMResult, result)


def _check_inputs(model: Any, tokenizer: Any, seed: Any, peft: Any) -> None:
    check_language_model(model)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidInputError(f"Expected 'seed' from 0 to {2**32 - 1} (got {seed!r})")
    check_trainable(model, peft)


def _retained(retain: Any, forgotten: Any, tokenizer: Any, overlap: str, how: Mapping[str, Any]) -> list[Any]:
    """Return the rows to keep, without forgotten ones; `forgotten` are rows and records to forget."""
    (rows, records), (kept, kept_records) = forgotten, as_rows(retain, tokenizer, "retain", **how)
    return separate(rows, kept, overlap, tokenizer, (records, kept_records))


def _alternative(alternative: Any, records: Any, tokenizer: Any, seed: int, how: Mapping[str, Any]) -> Any:
    """Return rows of other answers to the forgotten questions; refusals by default."""
    if alternative is None and records is None:
        raise InvalidInputError("Expected 'alternative' answers to forgotten rows of token ids (got none)")
    if alternative is None:
        alternative = refused(records or [], seed=seed, turns=how.get("turns", "all"))
    return as_rows(alternative, tokenizer, "alternative", **how)[0]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers of numpy as numbers of Python; refuse numbers out of range (`None` is a default)."""
    for name in (*_REAL, *_WHOLE):
        value = values.get(name)
        if value is not None:
            check_number(name, value, positive=name != "figure_rows", minimum=0.0)
            if name in _WHOLE and value != int(value):
                raise InvalidInputError(f"Expected {name!r} to be a whole number (got {value!r})")
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _method(
    method: Any, options: Mapping[str, Any] | None, given: Mapping[str, Any], task: CausalLM, model: Any
) -> Any:
    """Return the method with its published settings, overridden by the caller's."""
    if isinstance(method, str):
        return build_method(method, {**given, **(options or {})}, task, model)
    if options:
        raise InvalidInputError(f"Expected options with a method by name (got {sorted(options)} with an objective)")
    return (
        replace(cast(Any, method), **given) if isinstance(method, Method) else build_method(method, given, task, model)
    )
