"""Direct token optimisation: forget a few tokens of each answer, and keep the predictions of the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.data.marking import select_tokens
from gunlearn.llm.data.selectors import TokenSelector
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.training.projection import project_conflict, zeros_for_none
from gunlearn.llm.training.trainer import UnlearnTrainer
from gunlearn.llm.training.until import StopBelow
from gunlearn.losses import NPO, CrossEntropyUnlearning, GradientAscent, KLToReference, Loss, Objective

TARGET, REST = "forget:target", "forget:rest"


def dto(forget_loss: str | Loss = "npo", lambda_: float = 1.0, beta: float = 0.5) -> Objective:
    r"""Return the objective of `"Direct Token Optimization" <https://arxiv.org/abs/2510.00125>`_.

    .. math:: L_u(T) + \lambda \, \frac{1}{|N|} \sum_{t \in N} KL\big(p_0(\cdot | x_{<t}) \| p(\cdot | x_{<t})\big)

    over the target tokens :math:`T` of the forgotten rows (`target_mask`, see `select_tokens`) and the other tokens
    :math:`N` of their answers; :math:`p_0` is the model before unlearning. Reads no retain data: nothing protects
    knowledge beside the forgotten rows.

    A reconstruction without access to the paper's formulas: the form of :math:`L_u`, the direction of the divergence
    and all defaults are ours.

    Args:
        forget_loss: :math:`L_u`: `"npo"`, negative preference optimisation of each token by itself, bounded below;
            `"ga"`, gradient ascent; `"ceu"`, cross-entropy to the model's own prediction without the true token; or any
            loss with `on="forget:target"`.
        lambda_: weight of the divergence; 1 to 20 made little difference in our trials.
        beta: inverse temperature of `"npo"`.

    Raises:
        InvalidInputError: an unknown loss, one that reads another part, or numbers out of range.

    Example:
        >>> dto("ga", lambda_=5)
        GradientAscent(on='forget:target') + 5.0 * KLToReference(on='forget:rest')
    """
    check_number("lambda_", lambda_, minimum=0.0)
    if not isinstance(forget_loss, Loss):
        losses: dict[str, Loss] = {
            "npo": NPO(beta, per="token", on=TARGET),
            "ga": GradientAscent(on=TARGET),
            "ceu": CrossEntropyUnlearning(on=TARGET),
        }
        check_choice("forget_loss", forget_loss, tuple(losses))
        forget_loss = losses[forget_loss]
    if forget_loss.on != TARGET:
        raise InvalidInputError(f"Expected 'forget_loss' with on='{TARGET}' (got {forget_loss!r})")
    return forget_loss + lambda_ * KLToReference(on=REST)


class DTOTrainer(UnlearnTrainer):
    r"""An `UnlearnTrainer` that selects the target tokens itself; it has the same further options.

    Args:
        model: also selects the tokens, before the first step, on its current device.
        objective: `dto()` by default.
        forget_dataset: rows; without a `selector` they need `target_mask`.
        selector: scores the tokens; `None` takes the rows' own `target_mask`.
        selection: further arguments of `select_tokens` (`{"ratio": 0.1, "whole_word": tokenizer}`).
        refresh_steps: select again every so many steps, with the model in training. With workers in the data loader
            this takes effect in the next epoch. A resumed run begins with a first selection.
        stop_below: mean probability of the first selected tokens at which to end the run, see `StopBelow`.
        project: remove from the gradient of losses on `"forget:target"` what conflicts with that of all others (see
            `project_conflict`), over whole steps, with a second backward pass. We do not know the paper's projection.

    Raises:
        InvalidInputError: neither `target_mask` nor a selector; steps below 1; `project` with fp16 loss scaling, with
            several processes, or without losses on both sides.

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
        check_language_model(model)
        if refresh_steps is not None:
            check_integer("refresh_steps", refresh_steps, minimum=1)
            if selector is None:
                raise InvalidInputError("Expected a 'selector' for 'refresh_steps' (got None)")
        collator = kwargs.get("data_collator") or collator_of(model, kwargs.get("processing_class"))
        self.selector, self.selection = selector, {"collator": collator, **(selection or {})}
        rows = forget_dataset
        if selector is not None:
            rows = select_tokens(model, rows, selector, **self.selection)
        elif len(rows) and "target_mask" not in rows[0]:
            raise InvalidInputError(f"Expected rows with 'target_mask', or a 'selector' (got {sorted(rows[0])})")
        super().__init__(model, dto() if objective is None else objective, args, forget_dataset=rows, **kwargs)
        self.project = project
        self._forget_grads: list[Tensor] | None = None
        if project:
            self._check_projection()
        if refresh_steps is not None:
            self.add_callback(_Refresh(self, refresh_steps))
        if stop_below is not None:
            self.add_callback(StopBelow(rows, stop_below, collator))

    def _check_projection(self) -> None:
        self._halves = [
            [i for i, (_, loss) in enumerate(self.objective.terms) if (loss.on == TARGET) is wanted]
            for wanted in (True, False)
        ]
        if not all(self._halves):
            raise InvalidInputError(f"Expected losses on '{TARGET}' and others to project (got {self.objective!r})")
        if self.args.fp16:
            raise InvalidInputError("Expected bf16 or float32 for project=True (got fp16, whose losses are scaled)")
        if self.accelerator.num_processes > 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            number = self.accelerator.num_processes
            raise InvalidInputError(f"Expected one process with all gradients for project=True (got {number})")

    def refresh(self) -> None:
        """Select the target tokens again, with the current model."""
        if self.selector is None:
            raise InvalidInputError("Expected a 'selector' to select tokens with (got None)")
        rows, model = self.train_dataset, self.accelerator.unwrap_model(self.model)
        rows.forget = select_tokens(model, rows.forget, self.selector, **self.selection)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Run one micro-batch; with `project` run two backward passes, and project after a step's last micro-batch."""
        if not self.project:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs, counts = self._prepare_inputs(inputs), num_items_in_batch
        with self.compute_loss_context_manager():
            seen = self.predictions(model, inputs)
            total = self.total(*seen, counts)
            forget, keep = (
                Objective(tuple(self.objective.terms[i] for i in half))(
                    *seen, None if counts is None else [counts[i] for i in half]
                ).total
                for half in self._halves
            )
        del seen  # frees a batch of logits
        params = [p for p in model.parameters() if p.requires_grad]
        grads = zeros_for_none(torch.autograd.grad(forget, params, retain_graph=True, allow_unused=True), params)
        before = self._forget_grads
        self._forget_grads = grads if before is None else [a + b for a, b in zip(before, grads, strict=True)]
        self.accelerator.backward(keep)
        if self.accelerator.sync_gradients:
            kept = zeros_for_none([p.grad for p in params], params)
            for p, u, k in zip(params, project_conflict(self._forget_grads, kept), kept, strict=True):
                if p.grad is not None or bool(u.any()):  # optimisers pass over parameters that took no part
                    p.grad = u + k
            self._forget_grads = None
        return total.detach()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        finally:
            self._forget_grads = None


class _Refresh(TrainerCallback):
    """Make a trainer select again every `every` steps."""

    def __init__(self, trainer: DTOTrainer, every: int) -> None:
        self.trainer, self.every = trainer, every

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.trainer.refresh()
