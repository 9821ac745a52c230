"""A `transformers.Trainer` that minimises an objective of `gunlearn.losses`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from gunlearn.core.modes import evaluating
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.llm.data.collate import Collator, collator_of, row_batch
from gunlearn.llm.data.pairing import PairedDataset, warn_of_overlap
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.frozen import FrozenReference
from gunlearn.llm.model.head import without_autocast
from gunlearn.llm.model.token_prediction import TokenPrediction
from gunlearn.llm.training.likelihoods import likelihoods
from gunlearn.llm.training.sharding import check_sharded, check_sharding, first_broken, place_reference
from gunlearn.llm.training.trainer_setup import (
    EpochCallback,
    check_has_trainable,
    paired_rows,
    tasks_by_part,
    trainer_arguments,
)
from gunlearn.llm.training.views import answer_mask, base_of, view_of
from gunlearn.losses import Loss, Objective, Prediction, as_objective
from gunlearn.seed import isolated_rng
from gunlearn.training.held_weights import HeldWeights

_ByPart = dict[str, Prediction]


class UnlearnTrainer(Trainer):
    r"""Minimise any objective over forget and retain data, with the Trainer of transformers, in place.

    An epoch reads each forgotten row once, beside as many rows of each other part. Each mean in a step's loss is over
    the tokens (or sequences) of the whole step, however they are split over accumulation steps and processes.

    A loss with `on="forget:target"` reads the tokens of `forget` that the rows' column `target_mask` marks,
    `on="forget:rest"` the other labelled tokens; one forward pass serves both.

    Several processes (`accelerate launch`) give the result of one and share evaluation. FSDP (version 2) shards the
    model and a copied reference; a reference of yours stays whole on each process. Its figures are those of one process
    too; `unlearning_metrics` get the sharded model, which all processes must call alike. DeepSpeed's stages 1 and 2
    share gradients and the optimizer's state; stage 3 is refused.

    Args:
        model: a causal language model of transformers, with or without a peft adapter.
        objective: a loss or a weighted sum of losses.
        args: as for any Trainer, like `callbacks` and `kwargs`.
        forget_dataset: rows of `input_ids`, `labels` (-100: no loss) and, if padded, `attention_mask`.
        retain_dataset: rows of the part `"retain"`.
        drawn: further parts to draw rows from at random, by name.
        paired: parts whose row `i` belongs to forgotten row `i`, by name (`"alternative"`: another answer).
        reference: the model before unlearning, see `FrozenReference`; made only if a loss needs it.
        task: computes predictions; `TokenPrediction()` by default.
        eval_dataset: rows, or named sets of them, for `evaluate`.
        unlearning_metrics: returns figures of the model to log at every evaluation, also for `metric_for_best_model`.
        processing_class: the tokenizer; gives the padding token and side, and is saved with the model.
        data_collator: makes batches; `PartCollator` by default.

    Raises:
        InvalidInputError: a part that the objective reads is missing, given twice, or drawn where rows must be paired;
            a model with nothing to train; a reference with another vocabulary; FSDP on CPUs, of version 1 or with
            `cpu_ram_efficient_loading`; ZeRO stage 3.
        UnsupportedModelError: an encoder-decoder, a bidirectional model, prompt tuning.
        EmptyForgetSetError: no forgotten rows.
        DivergenceError: in `train`, a loss or a trained weight is NaN or infinite.

    Warns:
        UserWarning: rows to forget are also in a drawn part: one loss unlearns what another one learns.

    Example:
        >>> from gunlearn.losses import NLL, NPO
        >>> objective = NPO(beta=0.1) + NLL(on="retain")
        >>> UnlearnTrainer(model, objective, forget_dataset=forget, retain_dataset=retain).train()  # doctest: +SKIP
    """

    model: nn.Module
    objective: Objective
    reference: FrozenReference | None
    train_dataset: PairedDataset
    data_collator: Collator

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
        task: TokenPrediction | None = None,
        eval_dataset: Any = None,
        unlearning_metrics: Callable[[nn.Module], Mapping[str, float]] | None = None,
        processing_class: Any = None,
        data_collator: Callable | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        args = trainer_arguments(args)
        check_sharding(args)
        check_language_model(model)
        self.objective = as_objective(objective)
        check_has_trainable(model)
        seed = args.seed if args.data_seed is None else args.data_seed
        rows = paired_rows(self.objective, forget_dataset, retain_dataset, drawn, paired, seed)
        warn_of_overlap(rows)
        if data_collator is None:
            data_collator = collator_of(model, processing_class)
        self.unlearning_metrics = unlearning_metrics
        self.tasks = tasks_by_part(self.objective, task or TokenPrediction())
        if unlearning_metrics is not None and eval_dataset is None:
            eval_dataset = {}  # a Trainer refuses to evaluate without one
        self.reference = None
        if self.objective.reference_parts:
            probe = row_batch(model, [forget_dataset[0]], data_collator)
            self.reference = FrozenReference(model, reference, probe)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks or ()),
            **kwargs,
        )
        check_sharded(self.accelerator, self.args)
        self.loss_is_scaled_for_ga = True  # means are over whole steps, see `get_batch_samples`
        self.model_accepts_loss_kwargs = False
        self.add_callback(EpochCallback(rows))
        self.step_terms: list[dict[str, Tensor]] = []  # values of each loss, by micro-batch of the present step
        self.held: HeldWeights | None = None
        self._terms: dict[str, Tensor] = {}  # sums since the last log
        self._steps = 0
        if self.reference is not None:
            place_reference(self.reference, copied=isinstance(reference, str), accelerator=self.accelerator)

    def predictions(self, model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]]) -> tuple[_ByPart, _ByPart]:
        """Return predictions of the model and of the reference for each part and view that the objective reads."""
        before = {}
        if self.reference is not None:
            needed = set(map(base_of, self.objective.reference_parts))
            with self.reference.of(model) as frozen:
                before = {part: self.tasks[part].decode(frozen, None, inputs[part]) for part in needed}
        current = {part: task.decode(model, None, inputs[part]) for part, task in self.tasks.items()}
        for part in self.objective.parts:
            base = base_of(part)
            if base != part:
                mask = answer_mask(inputs[base], view_of(part))
                current[part] = current[base].replace(mask=mask)
                if base in before:
                    before[part] = before[base].replace(mask=mask)
        return current, before

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return a micro-batch's share of the whole step's objective; refuse NaN and infinity."""
        current, before = self.predictions(model, inputs)
        total = self.total(current, before, num_items_in_batch)
        return (total, current) if return_outputs else total

    def total(self, current: _ByPart, before: _ByPart, counts: Any) -> Tensor:
        """Return the objective of predictions; keep its terms for the log."""
        value = self.objective(current, before, counts)
        self.step_terms.append(value.terms)
        for name, term in value.terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + term
        total = value.total
        if not math.isfinite(float(total.detach())):
            bad = [name for name, term in value.terms.items() if not math.isfinite(float(term))]
            steps = self.state.global_step
            raise DivergenceError(f"Expected finite losses (got NaN or infinity in {bad} after {steps} steps)")
        if counts is not None:
            total = total * self.accelerator.num_processes  # gradients are averaged over processes, counts are sums
        return total

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Add a micro-batch's gradients, without those of held weights."""
        loss = super().training_step(*args, **kwargs)
        if self.held is not None:
            self.held.clear_gradients()
        return loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the micro-batches of one step, and each term's count over all of them, which its mean divides by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._steps += 1
        self.step_terms.clear()
        each = [
            torch.stack([loss.count(answer_mask(batch[base_of(loss.on)], view_of(loss.on))) for batch in batches]).sum()
            for _, loss in self.objective.terms
        ]
        return batches, self._sum(torch.stack(each).to(device)).clamp_min(1).tolist()

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; then delete the last gradient, which reveals forgotten rows, and restore a changed objective."""
        broken = first_broken(self.model, self.accelerator)
        if broken is not None:
            raise InvalidInputError(f"Expected finite weights to start from (got NaN or infinity in {broken!r})")
        self._terms.clear()
        self._steps, objective = 0, self.objective
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.objective = objective
            self.model.zero_grad(set_to_none=True)
            without_autocast(self.accelerator, self.model)
        broken = first_broken(self.model, self.accelerator)
        if broken is not None:
            raise DivergenceError(f"Expected finite weights after training (got NaN or infinity in {broken!r})")
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, adding each term's mean over the steps since the last log."""
        if "loss" in logs and self._steps:
            terms = self._sum(torch.stack(list(self._terms.values())) / self._steps)
            logs = logs | dict(zip(self._terms, terms.tolist(), strict=True))
            self._terms.clear()
            self._steps = 0
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count the operations of the trained model on all parts, without the reference's."""
        count = super().floating_point_ops
        return sum([count(inputs[part]) for part in self.tasks])

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure and log `likelihoods` and the figures of `unlearning_metrics`, without any effect on training."""
        self._memory_tracker.start()
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if sets is None and self.unlearning_metrics is None:
            raise InvalidInputError("Expected 'eval_dataset' or 'unlearning_metrics' to evaluate (got neither)")
        named = sets if isinstance(sets, Mapping) else {} if sets is None else {"": sets}
        metrics: dict[str, float] = {}
        size = self.args.eval_batch_size
        with isolated_rng(), evaluating(self.model):
            for name, rows in named.items():
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
