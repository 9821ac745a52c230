"""Direct token optimisation: forgets a few tokens of each answer, and holds the others in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gunlearn.core.checks import check_choice, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import PartCollator, batches, collator_of
from gunlearn.llm.data.marking import select_tokens
from gunlearn.llm.data.selectors import TokenSelector
from gunlearn.llm.model.causal_lm import CausalLM
from gunlearn.llm.model.head import evaluating
from gunlearn.llm.training.projection import project_conflict, zeros_for_none
from gunlearn.llm.training.trainer import UnlearnTrainer, answer_mask
from gunlearn.losses import NPO, CrossEntropyUnlearning, GradientAscent, KLToReference, Loss, Objective

TARGET, REST = "forget:target", "forget:rest"
FORGET_LOSSES = ("npo", "ga", "ceu")


def dto(forget_loss: str | Loss = "npo", lambda_: float = 1.0, beta: float = 0.5) -> Objective:
    r"""Direct token optimisation, `"Direct Token Optimization" <https://arxiv.org/abs/2510.00125>`_.

    .. math:: L_u(T) + \lambda \, \frac{1}{|N|} \sum_{t \in N} KL\big(p_0(\cdot | x_{<t}) \| p(\cdot | x_{<t})\big)

    over the target tokens :math:`T` of the forgotten rows (`target_mask`, see `select_tokens`) and the other tokens
    :math:`N` of their answers; :math:`p_0` is the model before unlearning. No retain data is read, and what the model
    knows beside the forgotten rows is not protected by the second term.

    A reconstruction: the paper's structure is public, its formulas were not at hand. The form of :math:`L_u`, the
    direction of the divergence and all defaults are ours.

    Args:
        forget_loss: :math:`L_u`: `"npo"`, negative preference optimisation of each token for itself, bounded below;
            `"ga"`, gradient ascent; `"ceu"`, cross-entropy to the model's own prediction without the true token; or any
            loss of one's own with `on="forget:target"`.
        lambda_: weight of the divergence; 1 to 20 made little difference where we tried.
        beta: inverse temperature of `"npo"`.

    Raises:
        InvalidInputError: an unknown loss, one that reads another part, or numbers out of range.

    Example:
        >>> dto("ga", lambda_=5)
        GradientAscent(on='forget:target') + 5.0 * KLToReference(on='forget:rest')
    """
    check_number("lambda_", lambda_, minimum=0.0)
    if isinstance(forget_loss, Loss):
        loss = forget_loss
        if loss.on != TARGET:
            raise InvalidInputError(f"Expected 'forget_loss' with on='{TARGET}' (got {forget_loss!r})")
    else:
        check_choice("forget_loss", forget_loss, FORGET_LOSSES)
        losses = {"npo": lambda: NPO(beta, per="token", on=TARGET), "ga": lambda: GradientAscent(on=TARGET)}
        loss = losses.get(forget_loss, lambda: CrossEntropyUnlearning(on=TARGET))()
    return loss + lambda_ * KLToReference(on=REST)


class DTOTrainer(UnlearnTrainer):
    r"""An `UnlearnTrainer` that selects the target tokens itself.

    Args:
        model: as for `UnlearnTrainer`; it selects before the first step, on the device that it is on.
        objective: `dto()` by default.
        args: as for `UnlearnTrainer`.
        forget_dataset: rows; with `target_mask` already, if there is no `selector`.
        selector: scores the tokens; `None` takes the rows' own `target_mask`.
        selection: further arguments of `select_tokens` (`{"ratio": 0.1, "whole_word": tokenizer}`).
        refresh_steps: select anew with the model in training every so many steps. With workers in the data loader it
            takes effect in the next epoch. A run that goes on from a checkpoint starts with a first selection again.
        stop_below: end the run where the target tokens' mean probability is at most this, the chance of guessing them;
            looked at after each epoch. Those selected first are meant, whatever is refreshed.
        project: take out of the gradient of the losses on `"forget:target"` what works against that of all others, see
            `project_conflict`; a second backward pass. Gradients are whole steps', accumulated over micro-batches.
            Praised by summaries of the paper; what exactly is projected there is not known to us.
        kwargs: as for `UnlearnTrainer`.

    Raises:
        InvalidInputError: rows without `target_mask` and no selector; steps below 1; `project` with fp16 loss scaling,
            with several processes, or with an objective that has nothing to project on.

    Example:
        >>> from gunlearn.llm.data.selectors import ProbeDelta
        >>> DTOTrainer(model, forget_dataset=rows, selector=ProbeDelta(), stop_below=0.1).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Loss | Objective | None = None,
        args: TrainingArguments | None = None,
        *,
        forget_dataset: Any,
        selector: TokenSelector | None = None,
        selection: Mapping[str, Any] | None = None,
        refresh_steps: int | None = None,
        stop_below: float | None = None,
        project: bool = False,
        **kwargs: Any,
    ) -> None:
        """See the class."""
        if refresh_steps is not None and (
            isinstance(refresh_steps, bool) or not isinstance(refresh_steps, int) or refresh_steps < 1
        ):
            raise InvalidInputError(f"Expected 'refresh_steps' to be a whole number from 1 on (got {refresh_steps!r})")
        if refresh_steps is not None and selector is None:
            raise InvalidInputError("Expected a 'selector' for 'refresh_steps' (got None)")
        collator = kwargs.get("data_collator") or collator_of(model, kwargs.get("processing_class"))
        self.selector, self.selection = selector, {"collator": collator, **(selection or {})}
        rows = forget_dataset
        if selector is not None:
            rows = select_tokens(model, rows, selector, **self.selection)
        elif len(rows) and "target_mask" not in rows[0]:
            raise InvalidInputError(
                f"Expected rows with 'target_mask', or a 'selector' such as ProbeDelta() (got {sorted(rows[0])})"
            )
        super().__init__(model, dto() if objective is None else objective, args, forget_dataset=rows, **kwargs)
        self.project = project
        self._forget_grads: list[Tensor] | None = None
        if project:
            self._halves = [
                [i for i, (_, loss) in enumerate(self.objective.terms) if (loss.on == TARGET) is wanted]
                for wanted in (True, False)
            ]
            self._check_projection()
        if refresh_steps is not None:
            self.add_callback(_Refresh(self, refresh_steps))
        if stop_below is not None:
            self.add_callback(StopBelow(rows, stop_below, collator))

    def _check_projection(self) -> None:
        if not all(self._halves):
            raise InvalidInputError(
                f"Expected losses on '{TARGET}' and others for project=True (got {self.objective!r})"
            )
        if self.args.fp16:
            raise InvalidInputError("Expected bf16 or float32 for project=True (got fp16, whose losses are scaled)")
        if self.accelerator.num_processes > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InvalidInputError(
                f"Expected one process that holds all gradients for project=True (got {self.accelerator.num_processes})"
            )

    def refresh(self) -> None:
        """Select the target tokens anew, with the model as it is now."""
        rows = self.train_dataset
        rows.forget = select_tokens(
            self.accelerator.unwrap_model(self.model), rows.forget, self.selector, **self.selection
        )

    def predictions(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """See `UnlearnTrainer.predictions`."""
        out = super().predictions(model, inputs)
        if self.project and model.training:
            self._seen = out
        return out

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch; with `project` two backward passes, and on the last one of a step the projection."""
        if not self.project:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs, counts = self._prepare_inputs(inputs), num_items_in_batch
        try:
            with self.compute_loss_context_manager():
                total = self.compute_loss(model, inputs, num_items_in_batch=counts)
                forget, keep = (
                    Objective(tuple(self.objective.terms[i] for i in half))(
                        *self._seen, None if counts is None else [counts[i] for i in half]
                    ).total
                    for half in self._halves
                )
        finally:
            self._seen = None  # holds a batch of logits
        params = [p for p in model.parameters() if p.requires_grad]
        grads = zeros_for_none(torch.autograd.grad(forget, params, retain_graph=True, allow_unused=True), params)
        self._forget_grads = (
            grads if self._forget_grads is None else [a + b for a, b in zip(self._forget_grads, grads, strict=True)]
        )
        self.accelerator.backward(keep)
        if self.accelerator.sync_gradients:
            kept = zeros_for_none([p.grad for p in params], params)
            for p, u, k in zip(params, project_conflict(self._forget_grads, kept), kept, strict=True):
                if p.grad is not None or bool(u.any()):  # optimisers pass over parameters that took no part
                    p.grad = u + k
            self._forget_grads = None
        return total.detach()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `UnlearnTrainer.train`."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._forget_grads = None


class StopBelow(TrainerCallback):
    """Ends a run where the target tokens are as improbable as if guessed.

    Args:
        rows: with `target_mask`.
        threshold: mean probability of the target tokens at which to stop, in (0, 1).
        collator: pads rows.
        every_steps: look after so many steps; `None` looks after each epoch.
        batch_size: rows at a time.

    Raises:
        InvalidInputError: a threshold outside (0, 1), or rows without targets.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        threshold: float,
        collator: Any = None,
        every_steps: int | None = None,
        batch_size: int = 8,
    ) -> None:
        """See the class."""
        check_number("threshold", threshold, positive=True)
        if threshold >= 1:
            raise InvalidInputError(f"Expected 'threshold' below 1 (got {threshold!r})")
        if not any(bool(torch.as_tensor(row.get("target_mask", False)).any()) for row in rows):
            raise InvalidInputError("Expected rows with a token in 'target_mask' (got none)")
        self.rows, self.threshold, self.every_steps, self.batch_size = rows, threshold, every_steps, batch_size
        self.collator = PartCollator() if collator is None else collator

    @torch.no_grad()
    def probability(self, model: nn.Module) -> float:
        """Mean probability of the target tokens."""
        task, found = CausalLM(("log_prob",)), []
        with evaluating(model):
            for batch in batches(model, self.rows, self.collator, self.batch_size):
                found.append(task.decode(model, None, batch).log_prob[answer_mask(batch, "target")].exp())
        return float(torch.cat(found).mean())

    def _look(self, model: nn.Module, control: TrainerControl) -> None:
        if self.probability(model) <= self.threshold:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look, if it is time."""
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._look(kwargs["model"], control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look, unless steps are counted."""
        if self.every_steps is None:
            self._look(kwargs["model"], control)


class _Refresh(TrainerCallback):
    """Has a trainer select anew every few steps."""

    def __init__(self, trainer: DTOTrainer, every: int) -> None:
        self.trainer, self.every = trainer, every

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Select, if it is time."""
        if state.global_step % self.every == 0:
            self.trainer.refresh()
