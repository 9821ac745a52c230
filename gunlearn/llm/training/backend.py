"""Train language models by a transformers Trainer: the default backend of the task `CausalLM`."""

import copy
import dataclasses
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from torch import nn
from transformers import PrinterCallback

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.llm.card import unchanged
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.data.rows import check_ids
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.model.adapters import check_trainable, precision, with_adapter
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.token_prediction import TokenPrediction, rows_of
from gunlearn.llm.recipes.plan import Given, Plan
from gunlearn.llm.record import LLMResult
from gunlearn.llm.training import settings
from gunlearn.llm.training.callback_adapter import as_trainer_callback
from gunlearn.llm.training.progress import StepBar
from gunlearn.llm.training.trainer import UnlearnTrainer
from gunlearn.llm.training.views import base_of
from gunlearn.losses import as_objective
from gunlearn.methods.any_task.baselines import OwnObjective
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.published import published
from gunlearn.seed import isolated_rng
from gunlearn.training.optimizers import make_optimizer, make_scheduler
from gunlearn.training.result import versions

#: Hooks that a Trainer does not call: it runs no method that overrides one.
_HOOKS = (
    "adapt", "make_optimizer", "make_scheduler", "objective_at", "parts", "penalty", "prepare", "rate_at",
    "reference_outputs", "surroundings", "teachers", "trainable",
)  # fmt: skip
#: Options that a Trainer does not read, with their neutral values.
_UNREAD = {"accumulate": False, "eval_every": None, "retain_samples": None, "until": "end", "num_neighbors": None}


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
        _check_options(method, checkpoint_dir)
        check_language_model(model)
        check_trainable(model, self.peft)
        rows, kept = (rows_of(partition.data, mask) for mask in (partition.forget_mask, partition.retain_mask))
        measured = {"forget": rows} | ({"retain": kept} if kept else {})
        check_ids(model, measured)
        plan = plan_of(method, Given(model, self.tokenizer, rows, kept))
        _check_layer(plan, model)
        needed = set(map(base_of, plan.objective.parts))
        if "retain" in needed and not kept:
            raise InvalidInputError(
                f"Expected rows to retain, which {plan.objective!r} reads (got none); give some, or retain_weight=0"
            )
        drawn = {**self.drawn, **({"retain": kept} if "retain" in needed else {})}
        unread = sorted({*measured, *drawn} - needed - {"forget"})
        if "retain" in unread:
            warnings.warn(
                f"no loss of {settings.shown(plan.objective)} reads the rows to retain", UserWarning, stacklevel=3
            )
        check_ids(model, {**self.paired, **drawn})
        if plan.forget is not None:
            measured["forget"] = rows = list(plan.forget)
        batch_size = method.batch_size or task.batch_size or 8
        with isolated_rng(seed), tempfile.TemporaryDirectory() as scratch, closing(StepBar()) as bar:
            trained = with_adapter(model if self.in_place else copy.deepcopy(model), self.peft)
            weights = precision(trained)
            arguments = settings.run_arguments(method, batch_size, seed, self.training)
            trainer = UnlearnTrainer(
                trained,
                plan.objective,
                settings.checked_arguments({"output_dir": scratch, **arguments}),
                forget_dataset=rows,
                drawn=drawn,
                paired=self.paired,
                reference=self.reference,
                task=dataclasses.replace(task, layer=plan.layer),
                data_collator=collator_of(model, self.tokenizer),
                callbacks=[*map(as_trainer_callback, callbacks), *([bar] if progress else [])],
                **_optimizers(method, trained),
            )
            trainer.remove_callback(PrinterCallback)
            least = trainer.args.train_batch_size * trainer.args.world_size
            if trainer.args.dataloader_drop_last and len(rows) < least:
                raise InvalidInputError(
                    f"Expected at least {least} rows to forget, a whole batch, for dataloader_drop_last "
                    f"(got {len(rows)})"
                )
            if plan.attach is not None:
                plan.attach(trainer)
            before = figures(trained, measured, self.figure_rows, batch_size, self.tokenizer)
            trainer.train()
            steps = trainer.state.global_step
            otherwise = _otherwise(method, task, trainer)
            if not steps:
                raise InvalidInputError("Expected at least one step of training (got none); raise epochs or max_steps")
            after = figures(trained, measured, self.figure_rows, batch_size, self.tokenizer)
        arguments.pop("output_dir", None)
        if unchanged(before, after):
            warnings.warn(
                f"no measurable effect: the model answers the rows to forget as it did before {steps} steps; "
                "raise lr or epochs",
                UserWarning,
                stacklevel=3,
            )
        source = published(method.name, task)
        config = method.config() | {name: settings.recorded(value) for name, value in plan.found.items()}
        words = getattr(method, "words", None)
        config |= {"words": len(words)} if words else {}
        record = {
            "base_model": getattr(getattr(model, "config", None), "_name_or_path", ""),
            "method": "" if method.name == "own" else method.name,
            "options": {k: v for k, v in config.items() if k not in _LOOP},
            "objective": settings.shown(plan.objective),
            "losses": settings.recorded_losses(plan.objective),
            "in_no_loss": unread,
            "layer": plan.layer,
            **settings.recorded(self.record),
            "reference": settings.recorded(self.reference),
            "peft": settings.recorded(self.peft),
            "adapter": settings.recorded_adapter(trained),
            "training": settings.recorded(arguments),
            "published": None if source is None else {"settings_of": source.source, "differences": otherwise},
            "steps": steps,
            "rows": {name: len(part) for name, part in {**measured, **self.paired, **drawn}.items()},
            "parameters": {
                "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
                "all": sum(p.numel() for p in trained.parameters()),
                "precision": weights,
            },
            "versions": {"gunlearn": versions()["gunlearn"]}
            | {name: version(name) for name in ("torch", "transformers", "peft")},
        }
        return LLMResult(
            model=trained.eval(),
            method=method.name,
            mode=method.label,
            config=config,
            seed=seed,
            request_hash=partition.request_hash,
            num_forget=partition.num_forget,
            epochs=steps,
            seconds=time.perf_counter() - start,
            history=[entry for entry in trainer.state.log_history if "loss" in entry],
            notes={} if source is None else {"settings_of": source.source, "otherwise": "; ".join(otherwise)},
            partition=partition,
            task=task,
            original=None if self.in_place else model,
            tokenizer=self.tokenizer,
            settings=record,
            before=before,
            after=after,
            parts=measured,
            figure_rows=self.figure_rows,
            batch_size=batch_size,
        )


#: Options of the loop; the record has them under "training".
_LOOP = tuple(f.name for f in dataclasses.fields(GradientMethod))


def plan_of(method: Any, given: Given) -> Plan:
    """Return a method's plan for the given model and rows."""
    plan = getattr(method, "plan", None)
    return Plan(as_objective(method.objective())) if plan is None else plan(given)


def _check_options(method: GradientMethod, checkpoint_dir: Any) -> None:
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


def _check_layer(plan: Plan, model: nn.Module) -> None:
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if depth is not None and not (isinstance(plan.layer, int) and -depth - 1 <= plan.layer <= depth):
        raise InvalidInputError(
            f"Expected 'layer' from {-depth - 1} to {depth}, of {depth} layers (got {plan.layer!r})"
        )


def _optimizers(method: GradientMethod, model: nn.Module) -> dict[str, Any]:
    """Return the optimiser and scheduler where they are not the Trainer's own (AdamW, linear decay)."""
    own = isinstance(method.optimizer, str) and method.optimizer.lower() == "adamw" and not method.optimizer_options
    if own and method.scheduler is None:
        return {}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(method.optimizer, parameters, method.lr, method.weight_decay, method.optimizer_options)
    return {"optimizers": (optimizer, make_scheduler(method.scheduler, optimizer, method.scheduler_options))}


def _otherwise(method: GradientMethod, task: TokenPrediction, trainer: UnlearnTrainer) -> list[str]:
    """Return in words what a run did otherwise than the published configuration of its method."""
    source, args, state = published(method.name, task), trainer.args, trainer.state
    if source is None:
        return []
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    used = method.config() | {"lr": args.learning_rate, "epochs": args.num_train_epochs}
    used |= {"weight_decay": args.weight_decay, "max_grad_norm": args.max_grad_norm}
    epoch = max(1, -(-len(trainer.train_dataset) // batch))
    if method.steps is not None or args.max_steps > 0:
        used["epochs"] = state.max_steps / epoch
    warmup = args.get_warmup_steps(state.max_steps) if args.lr_scheduler_type != "constant" else 0
    return source.differences(used, batch, warmup, epoch)
