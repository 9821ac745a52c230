"""One call from a model and two files to an unlearned model with its record."""

from __future__ import annotations

import copy
import dataclasses
import re
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from gunlearn import __version__
from gunlearn.errors import InvalidInputError
from gunlearn.llm.card import unchanged
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.data.records import refused
from gunlearn.llm.data.rows import as_rows, check_ids, separate
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.model.adapters import check_language_model, check_trainable, precision, with_adapter
from gunlearn.llm.model.causal_lm import CausalLM
from gunlearn.llm.recipes.methods import named_method
from gunlearn.llm.recipes.plan import LLMMethod, Plan
from gunlearn.llm.record import LLMResult
from gunlearn.llm.training.arguments import check_numbers, plain_number
from gunlearn.llm.training.progress import StepBar
from gunlearn.llm.training.settings import recorded, recorded_losses
from gunlearn.llm.training.trainer import UnlearnTrainer
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.seed import isolated_rng


def unlearn(
    model: nn.Module,
    tokenizer: Any,
    forget: Any,
    retain: Any = None,
    method: str | LLMMethod | Loss | Objective = "npo",
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
    """Unlearn rows in a copy of a model.

    Args:
        model: a causal language model of transformers, with a peft adapter or without. Not changed, unless `in_place`.
        tokenizer: its tokenizer. Not changed.
        forget: the path of a file (see `read_records`), records, or rows with `input_ids` and `labels`.
        retain: the same of what is to stay; methods whose objective reads it need it.
        method: a name of `METHODS`, a method, or any objective over the parts `"forget"` and `"retain"`.
        options: of the method, see `LLMMethod.options`.
        peft: `None` trains what the model has to train; `"lora"` an adapter on all linear layers, `"bounded"` one on
            the feed-forward layers (`BoundedConfig`), or a configuration of peft.
        alternative: other answers to the forgotten questions, in their order, for methods that prefer them; refusals by
            default.
        parts: rows of further parts that an objective of one's own reads, by name; any row will do.
        epochs: over the forgotten rows; the method's published number by default.
        lr: learning rate; the published one by default, ten times that for an adapter.
        batch_size: forgotten rows per step and device, beside as many of each other part.
        seed: of adapters, order and dropout.
        max_length: tokens per row; the model's context by default.
        encoding: arguments of `encode`, for records.
        overlap: what to do about rows to forget and to retain, see `separate`.
        reference: what losses compare with, see `Reference`.
        in_place: train the given model, which may be too large for a copy.
        figure_rows: rows of each part that are measured before and after, evenly spaced; 0 measures nothing.
        progress: a bar.
        callbacks: further callbacks of transformers.
        training: further `TrainingArguments` (`gradient_accumulation_steps=4`, `bf16=True`, `use_cpu=True`).

    Returns:
        The unlearned model with history, settings and figures; the caller's random state is as it was.

    Raises:
        InvalidInputError: rows, options or parts that do not fit; no step at all; a frozen or quantised model without
            an adapter.
        InvalidTypeError: the model is none (a path).
        UnsupportedModelError: it has no head over the vocabulary.
        DivergenceError: the loss became NaN or infinite.

    Warns:
        UserWarning: rows to retain that no loss reads, no measurable effect on those to forget, or weights of half
            precision to train.

    Example:
        >>> from gunlearn.llm import unlearn
        >>> result = unlearn(model, tokenizer, "forget.jsonl", "retain.jsonl", "npo", peft="lora")  # doctest: +SKIP
        >>> result.save("unlearned")  # doctest: +SKIP
    """
    start = time.perf_counter()
    method = named_method(method) if isinstance(method, str) else method
    check_numbers(training, epochs=epochs, lr=lr, batch_size=batch_size, figure_rows=figure_rows)
    epochs, lr, batch_size, figure_rows = map(plain_number, (epochs, lr, batch_size, figure_rows))
    training = {name: plain_number(value) for name, value in training.items()}
    check_language_model(model)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidInputError(f"Expected 'seed' from 0 to {2**32 - 1} (got {seed!r})")
    check_trainable(model, peft)
    context = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    how = {"max_length": max_length or context} | dict(encoding or {})
    rows, records = as_rows(forget, tokenizer, "forget", **how)
    kept = None
    if retain is not None:
        kept, kept_records = as_rows(retain, tokenizer, "retain", **how)
        kept = separate(rows, kept, overlap, tokenizer, (records, kept_records))
    measured = {"forget": rows} | ({} if kept is None else {"retain": kept})
    check_ids(model, measured)
    plan = _plan(method, options, model, tokenizer, rows, kept or ())
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if depth is not None and not (isinstance(plan.layer, int) and -depth - 1 <= plan.layer <= depth):
        raise InvalidInputError(
            f"Expected 'layer' from {-depth - 1} to {depth}, of {depth} layers (got {plan.layer!r})"
        )
    rows = rows if plan.forget is None else list(plan.forget)
    needed = {part.partition(":")[0] for part in plan.objective.parts}
    if "retain" in needed and kept is None:
        raise InvalidInputError(
            f"Expected rows to retain, which {plan.objective!r} reads (got none); give some, or retain_weight=0"
        )
    paired = {}
    if "alternative" in needed:
        if alternative is None and records is None:
            raise InvalidInputError("Expected 'alternative' answers to forgotten rows of token ids (got none)")
        answers = refused(records, seed=seed) if alternative is None else alternative
        paired["alternative"] = as_rows(answers, tokenizer, "alternative", **how)[0]
    drawn = {name: as_rows(more, tokenizer, name, **how)[0] for name, more in (parts or {}).items()}
    drawn |= {"retain": kept} if "retain" in needed else {}
    unread = sorted({*measured, *drawn} - needed - {"forget"})
    if "retain" in unread:
        warnings.warn(f"no loss of {_shown(plan)} reads the rows to retain", UserWarning, stacklevel=2)
    check_ids(model, paired | drawn)
    measured["forget"] = rows
    with isolated_rng(seed), tempfile.TemporaryDirectory() as scratch:
        trained = with_adapter(model if in_place else copy.deepcopy(model), peft)
        weights = precision(trained)
        published = method if isinstance(method, LLMMethod) else LLMMethod("", "", Loss)
        arguments = {
            "output_dir": scratch,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": published.epochs if epochs is None else epochs,
            "learning_rate": published.rate(hasattr(trained, "peft_config")) if lr is None else lr,
            "weight_decay": 0.01,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "seed": seed,
        } | training
        bar = StepBar()
        trainer = UnlearnTrainer(
            trained,
            plan.objective,
            _arguments(arguments),
            forget_dataset=rows,
            drawn=drawn,
            paired=paired,
            reference=reference,
            task=CausalLM(layer=plan.layer),
            data_collator=collator_of(model, tokenizer),
            callbacks=[*callbacks, *([bar] if progress else [])],
        )
        trainer.remove_callback(PrinterCallback)
        least = trainer.args.train_batch_size * trainer.args.world_size
        if trainer.args.dataloader_drop_last and len(rows) < least:
            raise InvalidInputError(
                f"Expected at least {least} rows to forget, a whole batch, for dataloader_drop_last (got {len(rows)})"
            )
        if plan.attach is not None:
            plan.attach(trainer)
        before = figures(trained, measured, figure_rows, batch_size)
        try:
            trainer.train()
        finally:
            bar.close()
        if not trainer.state.global_step:
            raise InvalidInputError("Expected at least one step of training (got none); raise epochs or max_steps")
        after = figures(trained, measured, figure_rows, batch_size)
    arguments.pop("output_dir")
    if unchanged(before, after):
        warnings.warn(
            f"no measurable effect: the model answers the rows to forget as it did before {trainer.state.global_step} "
            "steps; raise lr or epochs",
            UserWarning,
            stacklevel=2,
        )
    chosen = method.options() | dict(options or {}) | dict(plan.found) if isinstance(method, LLMMethod) else {}
    return LLMResult(
        model=trained.eval(),
        tokenizer=tokenizer,
        history=[entry for entry in trainer.state.log_history if "loss" in entry],
        settings={
            "base_model": getattr(getattr(model, "config", None), "_name_or_path", ""),
            "method": published.name,
            "options": recorded(chosen) | ({"words": len(chosen["words"])} if chosen.get("words") else {}),
            "objective": _shown(plan),
            "losses": recorded_losses(plan.objective),
            "in_no_loss": unread,
            "layer": plan.layer,
            "encoding": recorded(how),
            "overlap": overlap,
            "reference": reference if isinstance(reference, str) else type(reference).__name__,
            "peft": recorded(peft),
            "adapter": _adapter_settings(trained),
            "training": recorded(arguments),
            "steps": trainer.state.global_step,
            "rows": {name: len(part) for name, part in (measured | paired | drawn).items()},
            "parameters": {
                "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
                "all": sum(p.numel() for p in trained.parameters()),
                "precision": weights,
            },
            "versions": {"gunlearn": __version__} | {name: version(name) for name in ("torch", "transformers", "peft")},
        },
        seconds=time.perf_counter() - start,
        before=before,
        after=after,
        parts=measured,
        figure_rows=figure_rows,
        batch_size=batch_size,
    )


def _plan(method: Any, options: Mapping[str, Any] | None, *given: Any) -> Plan:
    if isinstance(method, LLMMethod):
        return method.plan(options, *given)
    if options:
        raise InvalidInputError(f"Expected options with a method by name (got {sorted(options)} with an objective)")
    return Plan(as_objective(method))


def _shown(plan: Plan) -> str:
    """The objective in a line. Records are handed on with the model: no token of what was forgotten is in them."""
    return re.sub(r"token_ids=\([^)]*\)", "token_ids=...", repr(plan.objective))


def _arguments(given: Mapping[str, Any]) -> TrainingArguments:
    if given.get("max_steps") == 0:
        raise InvalidInputError("Expected 'max_steps' of at least 1, or -1 to go by epochs (got 0)")
    unknown = sorted(set(given) - {f.name for f in dataclasses.fields(TrainingArguments) if f.init})
    if unknown:
        raise InvalidInputError(f"Expected arguments of 'unlearn' or of TrainingArguments (got {unknown})")
    try:
        return TrainingArguments(**given)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"Expected values that fit TrainingArguments (got: {error})") from error


def _adapter_settings(model: nn.Module) -> dict[str, Any] | None:
    """Fields of the active adapter's configuration that say something."""
    if not hasattr(model, "peft_config"):
        return None
    config = recorded(model.peft_config[model.active_adapter].to_dict())
    return {name: value for name, value in config.items() if value}
