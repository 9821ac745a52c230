"""Settings of a run: the Trainer's arguments, and plain values for a record without secrets and forgotten tokens."""

import dataclasses
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import TrainingArguments

from gunlearn.core.options import check_options
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Objective
from gunlearn.methods.gradient import GradientMethod
from gunlearn.training.optimizers import make_optimizer, make_scheduler

SECRETS = ("token", "key", "password")
HIDDEN = "<hidden>"
#: Options that a Trainer does not read, with their neutral values.
_UNREAD = {"accumulate": False, "eval_every": None, "retain_samples": None, "until": "end", "num_neighbors": None}


def recorded(value: Any) -> Any:
    """Return a setting in plain values for a record, mappings and sequences item by item.

    A value whose name ends in `token`, `key` or `password` becomes `"<hidden>"`, any other object the name of its type.
    """
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if inner is not None and str(name).lower().endswith(SECRETS) else recorded(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [recorded(inner) for inner in (value if isinstance(value, list | tuple) else sorted(value, key=str))]
    if isinstance(value, PathLike):
        return Path(value).as_posix()
    return value if value is None or isinstance(value, str | bool | int | float) else type(value).__name__


def recorded_losses(objective: Objective) -> list[dict[str, Any]]:
    """Return each loss of an objective with its weight and all fields; of a field with several values, their number."""
    out = []
    for weight, loss in objective.terms:
        values = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
        # Several values may be tokens of the forgotten rows.
        plain = {name: f"{len(v)} values" if _several(v) else recorded(v) for name, v in values.items()}
        out.append({"weight": weight, "loss": type(loss).__name__, **plain})
    return out


def shown(objective: Objective) -> str:
    """Return the objective as text without token ids: records are published, and must not hold forgotten tokens."""
    return re.sub(r"token_ids=\([^)]*\)", "token_ids=...", repr(objective))


def _several(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def recorded_adapter(model: Any) -> dict[str, Any] | None:
    """Return the fields of the active adapter's configuration that are not empty."""
    if not hasattr(model, "peft_config"):
        return None
    config = recorded(model.peft_config[model.active_adapter].to_dict())
    return {name: value for name, value in config.items() if value}


def run_arguments(method: GradientMethod, batch_size: int, seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `TrainingArguments` of a run: the method's, overridden by the caller's."""
    check_checkpoints(given)
    return {
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": method.epochs,
        "learning_rate": method.lr,
        "weight_decay": method.weight_decay,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": seed,
        **({} if method.steps is None else {"max_steps": method.steps}),
        **({} if method.max_grad_norm == 1.0 else {"max_grad_norm": method.max_grad_norm or 0.0}),
        **given,
    }


def check_checkpoints(given: Mapping[str, Any]) -> None:
    """Refuse checkpoints that would be written to a folder which goes at the end of the run."""
    if given.get("save_strategy", "no") != "no" and "output_dir" not in given:
        raise InvalidInputError(
            f"Expected 'output_dir', a folder of checkpoints, beside save_strategy={given['save_strategy']!r} (got "
            "none; the command line keeps none)"
        )


def checked_arguments(given: Mapping[str, Any]) -> TrainingArguments:
    """Return `TrainingArguments`; refuse unknown ones, values that do not fit, and FSDP."""
    if given.get("max_steps") == 0:
        raise InvalidInputError("Expected 'max_steps' of at least 1, or -1 to go by epochs (got 0)")
    if given.get("fsdp") or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise InvalidInputError(
            "Expected a whole model on each process for 'unlearn', which measures and saves it (got FSDP); use "
            "gunlearn.llm.UnlearnTrainer"
        )
    unknown = sorted(set(given) - {f.name for f in dataclasses.fields(TrainingArguments) if f.init})
    if unknown:
        raise InvalidInputError(f"Expected arguments of 'unlearn' or of TrainingArguments (got {unknown})")
    plain = {name: value for name, value in given.items() if not isinstance(value, PathLike | tuple)}  # both fit
    check_options(TrainingArguments, plain, "TrainingArguments")
    try:
        return TrainingArguments(**given)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"Expected values that fit TrainingArguments (got: {error})") from error


def check_read_by_trainer(method: GradientMethod, checkpoint_dir: Any) -> None:
    """Refuse options that a Trainer does not read."""
    for name, usual in _UNREAD.items():
        if getattr(method, name) != usual:
            raise UnsupportedMethodError(
                f"Expected no '{name}' for a language model, which transformers' Trainer trains "
                f"(got {getattr(method, name)!r})"
            )
    if checkpoint_dir is not None:
        raise InvalidInputError(
            "Expected no 'checkpoint_dir' for a language model (got one); give transformers' own arguments, "
            "save_strategy='steps' and output_dir"
        )


def own_optimizers(method: GradientMethod, model: nn.Module) -> dict[str, Any]:
    """Return the optimiser and scheduler where they are not the Trainer's own (AdamW, linear decay)."""
    own = isinstance(method.optimizer, str) and method.optimizer.lower() == "adamw" and not method.optimizer_options
    if own and method.scheduler is None:
        return {}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(method.optimizer, parameters, method.lr, method.weight_decay, method.optimizer_options)
    return {"optimizers": (optimizer, make_scheduler(method.scheduler, optimizer, method.scheduler_options))}
