"""A `transformers.Trainer` that minimises an objective of `gunlearn.losses`."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.data.pairing import PairedDataset, warn_of_overlap
from gunlearn.llm.model.causal_lm import CausalLM, answer_tokens
from gunlearn.llm.model.frozen import Reference
from gunlearn.llm.model.head import device_of, evaluating, without_autocast
from gunlearn.llm.training.likelihoods import likelihoods
from gunlearn.losses import Loss, Objective, Prediction, as_objective
from gunlearn.seed import isolated_rng

VIEWS = ("target", "rest")  # of a part whose rows have a `target_mask`


class UnlearnTrainer(Trainer):
    r"""Minimises any objective over forget and retain data; in all else the Trainer of transformers.

    Trains `model` in place, as every Trainer does. An epoch reads each forgotten row once, beside as many rows of the
    other parts. A step's loss is that of all its micro-batches taken together: each mean is over the tokens (or
    sequences) of the whole step, however they are split over accumulation steps and processes.

    A loss with `on="forget:target"` reads the tokens of `forget` where the column `target_mask` of the rows is true,
    `on="forget:rest"` the others that have a label; one forward pass serves both.

    Several processes (`accelerate launch`) train as one would: counts are summed over them, and evaluation is shared.
    Under FSDP and DeepSpeed all passes go through the wrapped model, and log-probabilities are read from whole logits,
    for the head's weights are not at hand between passes. Neither is part of the tests. A copied reference is whole in
    every process: where the model does not fit one device, train an adapter, whose reference is the model itself, or
    hand in a reference that is spread over devices. `unlearning_metrics` are called in every process, with the model
    out of its wrapper, which a sharded model may not survive.

    Args:
        model: a causal language model of transformers, with a peft adapter or without.
        objective: what to minimise, `NPO(beta=0.1) + NLL(on="retain")`.
        args: as for any Trainer.
        forget_dataset: rows of `input_ids`, `labels` (-100 where no loss is due) and, if padded, `attention_mask`.
        retain_dataset: the same for the part `"retain"`.
        drawn: further parts from which any row will do, by name.
        paired: parts whose row `i` belongs to forgotten row `i`, by name (`"alternative"`: another answer).
        reference: see `Reference`; made only if a loss needs it.
        task: how predictions are read; `CausalLM()` by default.
        eval_dataset: rows, or named sets of them, whose likelihoods evaluation reports.
        unlearning_metrics: called with the model at every evaluation; its figures are logged and can choose the best
            checkpoint (`metric_for_best_model`).
        processing_class: the tokenizer; its padding token and side are used, and it is saved along.
        data_collator: `PartCollator` by default.
        callbacks: as for any Trainer.
        kwargs: anything else that a Trainer takes.

    Raises:
        InvalidInputError: a part that the objective reads is missing, given twice, or drawn where its rows belong to
            others; the model has nothing to train; another vocabulary in the reference.
        EmptyForgetSetError: no forgotten rows.
        DivergenceError: at the first step whose loss is NaN or infinite, or after the last one if a weight is.

    Warns where rows to forget are among the rows to draw from: what one loss undoes another one learns.

    Example:
        >>> from gunlearn.losses import NLL, NPO
        >>> objective = NPO(beta=0.1) + NLL(on="retain")
        >>> UnlearnTrainer(model, objective, forget_dataset=forget, retain_dataset=retain).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Loss | Objective,
        args: TrainingArguments | None = None,
        *,
        forget_dataset: Any,
        retain_dataset: Any = None,
        drawn: Mapping[str, Any] | None = None,
        paired: Mapping[str, Any] | None = None,
        reference: str | nn.Module = "auto",
        task: CausalLM | None = None,
        eval_dataset: Any = None,
        unlearning_metrics: Callable[[nn.Module], Mapping[str, float]] | None = None,
        processing_class: Any = None,
        data_collator: Callable | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        self.objective = as_objective(objective)
        if not any(p.requires_grad for p in model.parameters()):
            raise InvalidInputError(
                "Expected a model with trainable parameters (got none that require grad); a quantised or frozen model "
                "needs an adapter: peft.get_peft_model(model, LoraConfig(...))"
            )
        args = TrainingArguments(output_dir="unlearned", report_to=[]) if args is None else copy.copy(args)
        args.remove_unused_columns = False  # rows of parts are no arguments of the model
        args.dataloader_persistent_workers = False  # they would never hear of a new epoch's pairs
        if getattr(args, "gradient_checkpointing", False) and args.gradient_checkpointing_kwargs is None:
            # The reentrant kind, once the default, trains nothing where the inputs need no gradient (an adapter).
            args.gradient_checkpointing_kwargs = {"use_reentrant": False}
        if retain_dataset is not None and "retain" in (drawn or {}):
            raise InvalidInputError("Expected part 'retain' once (got 'retain_dataset' and 'drawn')")
        drawn = dict(drawn or {}) | ({} if retain_dataset is None else {"retain": retain_dataset})
        rows = PairedDataset(
            forget_dataset, drawn, paired, seed=args.seed if args.data_seed is None else args.data_seed
        )
        self._check_parts({"forget", *rows.drawn, *rows.paired}, {"forget", *rows.paired})
        warn_of_overlap(rows)
        if data_collator is None:
            data_collator = collator_of(model, processing_class)
        self.unlearning_metrics = unlearning_metrics
        self.tasks = self._tasks(task or CausalLM())
        if unlearning_metrics is not None and eval_dataset is None:
            eval_dataset = {}  # without one a Trainer refuses to evaluate
        self.reference = None
        if self.objective.reference_parts:
            probe = data_collator([forget_dataset[0]])
            device = device_of(model)
            self.reference = Reference(model, reference, {k: v.to(device) for k, v in probe.items()})
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=None if callbacks is None else list(callbacks),
            **kwargs,
        )
        self.loss_is_scaled_for_ga = True  # means are over whole steps, see `get_batch_samples`
        self.model_accepts_loss_kwargs = False
        self.add_callback(_Epochs(rows))
        self._terms: dict[str, Tensor] = {}  # sums since the last log
        self._steps = 0
        if self.reference is not None:
            self.reference.to(self.args.device)

    def _check_parts(self, given: set[str], aligned: set[str]) -> None:
        for part in self.objective.parts:
            base, _, view = part.partition(":")
            if base not in given:
                raise InvalidInputError(
                    f"Expected data for part '{base}', which {self.objective!r} reads (got {sorted(given)})"
                )
            if view and view not in VIEWS:
                raise InvalidInputError(f"Expected a view of '{base}' among {VIEWS} (got '{view}')")
        for _, loss in self.objective.terms:
            loose = {part.partition(":")[0] for part in loss.aligned_parts} - aligned
            if loose:
                raise InvalidInputError(
                    f"Expected 'paired' rows for {sorted(loose)}, which {loss!r} compares row by row with others "
                    "(got drawn ones)"
                )

    def _tasks(self, task: CausalLM) -> dict[str, CausalLM]:
        """The task for each part, reading what the losses on it (and on its views) read."""
        fields: dict[str, list[str]] = defaultdict(list)
        for part in self.objective.parts:
            fields[part.partition(":")[0]].extend(self.objective.fields(part))
        return {part: task.reading(tuple(dict.fromkeys(names))) for part, names in fields.items()}

    def predictions(
        self, model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
        """What the model and the reference say about each part that the objective reads, views included.

        Args:
            model: the model in training.
            inputs: a batch per part.
        """
        needed = {part.partition(":")[0] for part in self.objective.reference_parts}
        before = {}
        if needed:
            with self.reference.of(model) as frozen:
                before = {part: self.tasks[part].decode(frozen, None, inputs[part]) for part in needed}
        current = {part: task.decode(model, None, inputs[part]) for part, task in self.tasks.items()}
        for part in self.objective.parts:
            base, _, view = part.partition(":")
            if view:
                mask = answer_mask(inputs[base], view)
                current[part] = current[base].replace(mask=mask)
                if base in before:
                    before[part] = before[base].replace(mask=mask)
        return current, before

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: list[float] | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Prediction]]:
        """The objective on one micro-batch: its share of the whole step's value.

        Raises:
            DivergenceError: it is NaN or infinite.
        """
        current, before = self.predictions(model, inputs)
        value = self.objective(current, before, num_items_in_batch)
        for name, term in value.terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + term
        total = value.total
        if not math.isfinite(float(total.detach())):
            bad = [name for name, term in value.terms.items() if not math.isfinite(float(term))]
            raise DivergenceError(
                f"Expected finite losses (got NaN or infinity in {bad} after {self.state.global_step} steps)"
            )
        if num_items_in_batch is not None:
            total = total * self.accelerator.num_processes  # gradients are averaged over processes, counts are sums
        return (total, current) if return_outputs else total

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The micro-batches of one step, and for each term of the objective what its mean divides by in all of them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._steps += 1
        counts = []
        for _, loss in self.objective.terms:
            base, _, view = loss.on.partition(":")
            counts.append(sum(loss.count(answer_mask(batch[base], view)) for batch in batches))
        counts = torch.stack(counts).to(device)
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, counts.clamp_min(1).tolist()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As for any Trainer. The last gradient, which speaks of what was to be forgotten, is wiped.

        The objective is put back where a callback has changed it.

        Raises:
            DivergenceError: a loss, or at the end a trained weight, is NaN or infinite.
        """
        self._terms.clear()
        self._steps, objective = 0, self.objective
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.objective = objective
            self.model.zero_grad(set_to_none=True)
            without_autocast(self.accelerator, self.model)
        bad = [name for name, p in self.model.named_parameters() if p.requires_grad and not p.isfinite().all()]
        if bad:
            raise DivergenceError(f"Expected finite weights after training (got NaN or infinity in {bad[0]!r})")
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds each term's mean over the steps since the last log, under its label."""
        if "loss" in logs and self._steps:
            terms = torch.stack(list(self._terms.values())) / self._steps
            if self.accelerator.num_processes > 1:
                terms = self.accelerator.reduce(terms, "sum")
            logs = logs | dict(zip(self._terms, terms.tolist(), strict=True))
            self._terms.clear()
            self._steps = 0
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> int:
        """Of the trained model's passes over all parts; the reference's are left out."""
        return sum(super(UnlearnTrainer, self).floating_point_ops(inputs[part]) for part in self.tasks)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`likelihoods` of the evaluation sets and whatever `unlearning_metrics` measures, logged.

        The model is in evaluation mode; training goes on afterwards as if there had been no evaluation.

        Args:
            eval_dataset: rows, or named sets of them; those of the trainer by default.
            ignore_keys: nothing; a Trainer hands it over.
            metric_key_prefix: of the figures' names, followed by the set's, if it has one.
        """
        self._memory_tracker.start()
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if sets is None and self.unlearning_metrics is None:
            raise InvalidInputError("Expected 'eval_dataset' or 'unlearning_metrics' to evaluate (got neither)")
        metrics, size = {}, self.args.eval_batch_size
        with isolated_rng(), evaluating(self.model):
            for name, rows in (_named(sets) if sets is not None else {}).items():
                figures = likelihoods(self.model_wrapped, rows, self.data_collator, size, self.accelerator)
                stem = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
                metrics.update({f"{stem}_{key}": value for key, value in figures.items()})
            if self.unlearning_metrics is not None:
                found = self.unlearning_metrics(self.accelerator.unwrap_model(self.model))
                metrics.update({f"{metric_key_prefix}_{key}": value for key, value in found.items()})
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics


class _Epochs(TrainerCallback):
    """Tells the rows which epoch it is: data loaders of several processes tell their sampler alone."""

    def __init__(self, rows: PairedDataset) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.rows.set_epoch(int(state.epoch or 0))


def answer_mask(batch: Mapping[str, Tensor], view: str = "") -> Tensor:
    """Which tokens count, `[batch, tokens - 1]`: `answer_tokens`, in the view `"target"` or `"rest"` of them.

    Raises:
        InvalidInputError: a view of rows without `target_mask`.
    """
    mask = answer_tokens(batch)
    if not view:
        return mask
    if "target_mask" not in batch:
        raise InvalidInputError(f"Expected rows with 'target_mask' for the view '{view}' (got {sorted(batch)})")
    target = batch["target_mask"][:, 1:]
    return mask & (target if view == "target" else ~target)


def _named(sets: Any) -> dict[str, Any]:
    return dict(sets) if isinstance(sets, Mapping) else {"": sets}
