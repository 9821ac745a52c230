"""What `UnlearnTrainer` makes of its arguments before it hands them to transformers' Trainer."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.pairing import PairedDataset
from gunlearn.llm.model.token_prediction import TokenPrediction
from gunlearn.llm.training.views import base_of, check_parts
from gunlearn.losses import Objective


def check_has_trainable(model: nn.Module) -> None:
    """Refuse a model with nothing to train."""
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError(
            "Expected a model with trainable parameters (got none that require grad); a quantised or frozen model "
            "needs an adapter: peft.get_peft_model(model, LoraConfig(...))"
        )


def trainer_arguments(args: TrainingArguments | None) -> TrainingArguments:
    """Return a copy of the arguments with which a Trainer can read rows of several parts."""
    args = TrainingArguments(output_dir="unlearned", report_to=[]) if args is None else copy.copy(args)
    args.remove_unused_columns = False  # parts are no arguments of the model
    args.dataloader_persistent_workers = False  # they would keep the pairs of the first epoch
    if getattr(args, "gradient_checkpointing", False) and args.gradient_checkpointing_kwargs is None:
        # The reentrant kind, once the default, trains nothing where inputs need no gradient (an adapter).
        args.gradient_checkpointing_kwargs = {"use_reentrant": False}
    return args


def paired_rows(
    objective: Objective,
    forget: Any,
    retain: Any,
    drawn: Mapping[str, Any] | None,
    paired: Mapping[str, Any] | None,
    seed: int,
) -> PairedDataset:
    """Return the rows of all parts; refuse parts that the objective reads and that are not there."""
    drawn = dict(drawn or {})
    if retain is not None:
        if "retain" in drawn:
            raise InvalidInputError("Expected part 'retain' once (got 'retain_dataset' and 'drawn')")
        drawn["retain"] = retain
    rows = PairedDataset(forget, drawn, paired, seed)
    check_parts(objective, {"forget", *rows.drawn, *rows.paired}, {"forget", *rows.paired})
    return rows


def tasks_by_part(objective: Objective, task: TokenPrediction) -> dict[str, TokenPrediction]:
    """Return for each part that losses read a task that computes only what they read."""
    fields: dict[str, list[str]] = defaultdict(list)
    for part in objective.parts:
        fields[base_of(part)].extend(objective.fields(part))
    return {part: replace(task, reads=dict.fromkeys(names)) for part, names in fields.items()}


class EpochCallback(TrainerCallback):
    """Tell the rows the epoch: data loaders of several processes tell only their sampler."""

    def __init__(self, rows: PairedDataset) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.rows.set_epoch(int(state.epoch or 0))
