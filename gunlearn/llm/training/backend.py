"""Train language models by a transformers Trainer: the default backend of the task `CausalLM`."""

import copy
import dataclasses
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

from torch import nn
from transformers import PrinterCallback

from gunlearn.errors import InvalidInputError
from gunlearn.llm.card import unchanged
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.model.adapters import check_trainable, precision, with_adapter
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.token_prediction import TokenPrediction
from gunlearn.llm.record import LLMResult
from gunlearn.llm.training import settings
from gunlearn.llm.training.callback_adapter import as_trainer_callback
from gunlearn.llm.training.progress import StepBar
from gunlearn.llm.training.run_parts import plan_of as plan_of  # re-exported
from gunlearn.llm.training.run_parts import run_parts
from gunlearn.llm.training.run_record import differences_from_published, run_config, run_record
from gunlearn.llm.training.salient_weights import hold_in_trainer
from gunlearn.llm.training.trainer import UnlearnTrainer
from gunlearn.llm.training.views import base_of
from gunlearn.losses import as_objective
from gunlearn.methods.any_task.baselines import OwnObjective
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.published import published
from gunlearn.seed import isolated_rng
from gunlearn.training.collapse import Knowledge, collapse

#: Hooks that a Trainer does not call: it runs no method that overrides one.
_HOOKS = (
    "adapt", "make_optimizer", "make_scheduler", "objective_at", "parts", "penalty", "prepare", "rate_at",
    "reference_outputs", "run", "surroundings", "teachers", "trainable",
)  # fmt: skip


@dataclass(frozen=True)
class TrainerBackend:
    """Run methods by `UnlearnTrainer`; see `gunlearn.llm.unlearn` for options that are not explained here.

    Args:
        tokenizer: the model's; collates rows, and is saved with the result.
        drawn: further parts to draw rows from at random, by name.
        paired: parts whose row `i` belongs to forgotten row `i`, by name.
        training: further `TrainingArguments`; they override the method's settings.
        record: further entries of the result's settings.
    """

    tokenizer: Any = None
    peft: Any = None
    drawn: Mapping[str, Any] = field(default_factory=dict)
    paired: Mapping[str, Any] = field(default_factory=dict)
    reference: str | nn.Module = "auto"
    in_place: bool = False
    figure_rows: int = 256
    training: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, method: Any) -> bool:
        """Return whether a method is only an objective over the forgotten rows."""
        if not isinstance(method, GradientMethod):
            return False
        read = set(map(base_of, as_objective(method.objective()).parts))
        if read <= {"retain"} and not isinstance(method, OwnObjective):
            return False
        return not any(method.overrides(hook) for hook in _HOOKS)

    def run(
        self,
        method: GradientMethod,
        model: nn.Module,
        partition: Any,
        task: TokenPrediction,
        seed: int = 0,
        callbacks: Sequence[Any] = (),
        progress: bool = False,
        checkpoint_dir: Any = None,
    ) -> LLMResult:
        """Unlearn `partition` from a copy of `model`, or from the model itself; see `gunlearn.methods.run_method`.

        Raises `UnsupportedMethodError` for options that a Trainer does not read, else as `gunlearn.llm.unlearn`.
        """
        start = time.perf_counter()
        settings.check_read_by_trainer(method, checkpoint_dir)
        check_language_model(model)
        check_trainable(model, self.peft)
        parts = run_parts(method, model, partition, self.tokenizer, self.drawn, self.paired)
        batch_size = method.batch_size or task.batch_size or 8
        arguments = settings.run_arguments(method, batch_size, seed, self.training)

        def measure() -> dict[str, Any]:
            return figures(trained, parts.measured, self.figure_rows, batch_size, self.tokenizer)

        with isolated_rng(seed), tempfile.TemporaryDirectory() as scratch, closing(StepBar()) as bar:
            trained = with_adapter(model if self.in_place else copy.deepcopy(model), self.peft)
            weights = precision(trained)
            trainer = UnlearnTrainer(
                trained,
                parts.plan.objective,
                settings.checked_arguments({"output_dir": scratch, **arguments}),
                forget_dataset=parts.forget,
                drawn=parts.drawn,
                paired=parts.paired,
                reference=self.reference,
                task=dataclasses.replace(task, layer=parts.plan.layer),
                data_collator=collator_of(model, self.tokenizer),
                callbacks=[*map(as_trainer_callback, callbacks), *([bar] if progress else [])],
                **settings.own_optimizers(method, trained),
            )
            trainer.remove_callback(PrinterCallback)
            _check_batch(trainer)
            if parts.plan.attach is not None:
                parts.plan.attach(trainer)
            held = None
            if method.saliency is not None:
                held = hold_in_trainer(trainer, parts.forget, method.saliency, batch_size)
            before = measure()
            trainer.train()
            steps = trainer.state.global_step
            if not steps:
                raise InvalidInputError("Expected at least one step of training (got none); raise epochs or max_steps")
            source, otherwise = published(method.name, task), differences_from_published(method, task, trainer)
            after = measure()
        if unchanged(before, after):
            warnings.warn(
                f"no measurable effect: the model answers the rows to forget as it did before {steps} steps; "
                "raise lr or epochs",
                UserWarning,
                stacklevel=3,
            )
        collapsed = _collapsed(trained, method.name, before, after, refuse="retain" in parts.drawn)
        given = {**self.record, "reference": self.reference, "peft": self.peft}
        origin = None if source is None else {"settings_of": source.source, "differences": otherwise}
        return LLMResult(
            model=trained.eval(),
            method=method.name,
            mode=method.label,
            config=run_config(method, parts),
            seed=seed,
            request_hash=partition.request_hash,
            num_forget=partition.num_forget,
            epochs=steps,
            seconds=time.perf_counter() - start,
            history=[entry for entry in trainer.state.log_history if "loss" in entry],
            notes=({} if source is None else {"settings_of": source.source, "otherwise": "; ".join(otherwise)})
            | ({"collapsed": collapsed} if collapsed else {})
            | ({} if held is None else {"salient": held.moving_share}),
            partition=partition,
            task=task,
            original=None if self.in_place else model,
            tokenizer=self.tokenizer,
            settings=run_record(method, model, trained, parts, given, arguments, origin, steps, weights),
            before=before,
            after=after,
            parts=parts.measured,
            figure_rows=self.figure_rows,
            batch_size=batch_size,
        )


def _check_batch(trainer: UnlearnTrainer) -> None:
    """Refuse to drop the last batch where there is no other."""
    rows, least = len(trainer.train_dataset), trainer.args.train_batch_size * trainer.args.world_size
    if trainer.args.dataloader_drop_last and rows < least:
        raise InvalidInputError(
            f"Expected at least {least} rows to forget, a whole batch, for dataloader_drop_last (got {rows})"
        )


def _collapsed(model: nn.Module, name: str, before: Any, after: Any, refuse: bool) -> str:
    """Return the sentence of `collapse` on the mean loss of retained tokens; empty where they were not measured."""
    if "nll" not in before.get("retain", {}) or "nll" not in after.get("retain", {}):
        return ""
    words = cast(Any, model).get_input_embeddings().weight.size(0)
    known = [
        Knowledge(found["retain"]["nll"], math.log(words), found["retain"].get("exact_memorization"), 1 / words)
        for found in (before, after)
    ]
    return collapse(known[0], known[1], name, refuse)
