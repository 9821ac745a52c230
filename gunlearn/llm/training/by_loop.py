"""Methods that are more than an objective over the forgotten rows: the package's loop trains."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.llm.card import unchanged
from gunlearn.llm.data.rows import check_ids
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.model.adapters import precision
from gunlearn.llm.model.token_prediction import rows_of
from gunlearn.llm.record import LLMResult
from gunlearn.llm.training.backend import TrainerBackend
from gunlearn.llm.training.causal_lm import CausalLM
from gunlearn.llm.training.run_record import shared_record
from gunlearn.llm.training.settings import recorded
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.methods.published import published
from gunlearn.training.result import Result
from gunlearn.training.state_sources import as_training_state

#: Arguments of a Trainer that hold for the loop as well, where the model is on the CPU.
_FINE = ("use_cpu", "per_device_train_batch_size", "num_train_epochs")


def read_by_trainer_alone(backend: TrainerBackend) -> list[str]:
    """Return the names of what the caller gave that the package's loop does not read."""
    more = sorted(set(backend.training) - set(_FINE))
    given = {"peft": backend.peft is not None, "reference": backend.reference != "auto", **dict.fromkeys(more, True)}
    return [name for name, there in given.items() if there]


def ready(
    method: Method, options: Mapping[str, Any], epochs: float | None, backend: TrainerBackend, task: CausalLM
) -> Method:
    """Return the method with its passes; refuse what only a Trainer reads.

    Raises:
        UnsupportedMethodError: an adapter, arguments of a Trainer, parts or a reference of the caller's own.
        InvalidInputError: a fraction of a pass.
    """
    refused = read_by_trainer_alone(backend)
    if refused:
        raise UnsupportedMethodError(
            f"Expected no {refused[0]!r} for '{method.name}', which the package's own loop trains (got one); methods "
            "that are an objective over the forgotten rows take it"
        )
    changes: dict[str, Any] = {}
    if "batch_size" in method.options() and getattr(method, "batch_size", None) is None:
        state = as_training_state(getattr(method, "training", None))
        if state is None or "batch_size" not in state.reading:  # else it reads as its training did
            changes["batch_size"] = task.batch_size
    if epochs is not None:
        if epochs != int(epochs) or "epochs" not in method.options() or "steps" in options:
            why = "no 'epochs' beside 'steps'" if "steps" in options else "a whole number of 'epochs'"
            why = why if "epochs" in method.options() else "no 'epochs'"
            raise InvalidInputError(f"Expected {why} for '{method.name}' (got {epochs:g})")
        changes["epochs"] = int(epochs)
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]  # methods are dataclasses


def run_by_loop(
    method: Method,
    model: nn.Module,
    partition: Any,
    task: CausalLM,
    backend: TrainerBackend,
    seed: int,
    callbacks: Sequence[Any],
    progress: bool,
) -> LLMResult:
    """Unlearn as `gunlearn.methods.run_method` does; the result has the figures and record of a language model."""
    theirs = [type(callback).__name__ for callback in callbacks if isinstance(callback, TrainerCallback)]
    if theirs:
        raise UnsupportedMethodError(
            f"Expected callbacks of gunlearn for '{method.name}', which the package's own loop trains (got {theirs[0]})"
        )
    rows, kept = (rows_of(partition.data, mask) for mask in (partition.forget_mask, partition.retain_mask))
    if not kept and "retained data" in method.needs:
        raise InvalidInputError(f"Expected rows to retain for '{method.name}' (got none)")
    parts = {"forget": rows} | ({"retain": kept} if kept else {})
    check_ids(model, parts)
    size = task.batch_size or 8
    if "batch_size" in method.options():  # its own says how many rows a step reads
        task = dataclasses.replace(task, batch_size=None)

    def measure(measured: nn.Module) -> dict[str, Any]:
        return figures(measured, parts, backend.figure_rows, size, backend.tokenizer)

    weights, before = precision(model), measure(model)
    result = run_method(method, model, partition, task, seed, callbacks, progress)
    if backend.in_place:
        model.load_state_dict(result.model.state_dict())
        result.model, result.original = model.eval(), None
    after, source = measure(result.model), published(method.name, task)
    if unchanged(before, after) and not result.unchanged:
        warnings.warn(
            "no measurable effect: the model answers the rows to forget as it did before; raise lr or epochs",
            UserWarning,
            stacklevel=3,
        )
    steps = int(result.history[-1]["step"]) if result.history else 0
    settings = {
        **shared_record(method, model, result.model, {**backend.record, "peft": None}, steps, weights),
        "options": recorded(method.config()),
        "objective": method.summary,
        "losses": [],
        "in_no_loss": [],
        "training": {"batch_size": getattr(method, "batch_size", size), "seed": seed},
        "published": None if source is None else {"settings_of": source.source, "differences": []},
        "rows": {name: len(part) for name, part in parts.items()},
        **{name: result.notes[name] for name in ("start",) if name in result.notes},
    }
    whole = {f.name: getattr(result, f.name) for f in dataclasses.fields(Result)}
    return LLMResult(
        **whole,
        tokenizer=backend.tokenizer,
        settings=settings,
        before=before,
        after=after,
        parts=parts,
        figure_rows=backend.figure_rows,
        batch_size=size,
    )
