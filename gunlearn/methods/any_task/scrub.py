"""SCRUB and its rewound variant (arXiv 2302.09880)."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import NLL, Distillation, GradientAscent, Objective, as_objective, weighted
from gunlearn.methods.any_task.rewind import Candidates
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval, check_whole, fill_in
from gunlearn.methods.forget_part import predict_forget
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.tasks.base import Parts, Task
from gunlearn.training.optimizers import OptimizerSpec

_DEFAULT = {
    "epochs": 100, "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0, "max_grad_norm": 1.0, "temperature": 1.0,
    "alpha": 0.5, "gamma": 1.0, "max_epochs": 3, "max_steps": 5, "min_steps": 5, "ascent_first": True,
}  # fmt: skip
# Two of the authors' notebooks. Full steps over all items stand for the batches of an epoch.
_PAPER = {
    **_DEFAULT, "epochs": 172, "lr": 5e-4, "weight_decay": 0.1, "max_grad_norm": None, "temperature": 2.0,
    "max_steps": 4, "min_steps": 16, "ascent_first": False,
    "scheduler": "MultiStepLR", "scheduler_options": {"milestones": [92, 140, 156], "gamma": 0.1},  # epochs 5, 8 and 9
}  # fmt: skip
_PAPER_LARGE = {
    **_PAPER, "epochs": 56, "optimizer": "SGD", "optimizer_options": {"momentum": 0.9}, "temperature": 4.0,
    "alpha": 1e-3, "gamma": 0.99, "max_epochs": 2, "weight_decay": 5e-4, "scheduler": None, "scheduler_options": None,
}  # fmt: skip
_MODES: dict[str, dict[str, Any]] = {"default": _DEFAULT, "paper": _PAPER, "paper_large": _PAPER_LARGE}


@dataclass(frozen=True)
class Scrub(GradientMethod):
    r"""SCRUB: alternates steps away from the teacher on the forget set with steps towards it on the retained data.

    With the original model as the teacher and :math:`d = T^2 KL(p_T^{teacher} \| p_T)` (`losses.Distillation`),

    .. math:: \max: \; d_{forget}, \qquad \min: \; \gamma \, NLL_{retain} + \alpha \, d_{retain}

    A cycle is `max_steps` maximising steps, then `min_steps` minimising ones; after `max_epochs` cycles all steps
    minimise. More maximising steps forget more; a long tail of minimising ones can teach the forget set again.

    SCRUB reads no label of the forget set, so `d` also rises when the student becomes *more* certain of it. A softened
    teacher (`temperature` above 1) invites that: with 4, forgetting a class of digits mostly fails. `notes` hold
    `forget_nll` (before, after), `forget_divergence` and `direction`: "wrong", with a warning, if `d` rose and
    the loss fell.

    `mode="default"` repairs two things: the first step raises the forget set's loss, since the gradient of `d` is zero
    while teacher and student agree; and gradients are clipped, since `d` is unbounded. All modes keep batch statistics.

    `mode="paper"` is the authors' small-scale notebook: Adam, whose rate falls to a tenth after their epochs 5, 8 and
    9. `"paper_large"` is their large-scale one: SGD with momentum 0.9, T = 4. Their epochs in batches become 4
    maximising and 16 minimising steps over all items.

    Args:
        mode: `"default"`, `"paper"` or `"paper_large"`; fills in every option that is `None`.
        max_grad_norm: clip the gradient's norm; `math.inf` does not.
        temperature: T.
        alpha: weight of the distance to the teacher on the retained data.
        gamma: weight of the retained data's negative log-likelihood.
        max_epochs: cycles with maximising steps, `msteps` in the authors' code.
    """

    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    optimizer: OptimizerSpec = BY_MODE
    mode: str = "default"
    temperature: float = BY_MODE
    alpha: float = BY_MODE
    gamma: float = BY_MODE
    max_epochs: int = BY_MODE
    max_steps: int = BY_MODE
    min_steps: int = BY_MODE
    ascent_first: bool = BY_MODE

    name = "scrub"
    summary = "leave the original model on the forget set, follow it on the retained data, by turns"
    paper = "arXiv 2302.09880"
    needs = "retained data, reference model"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"mode": "paper"},
        "paper_large": {"mode": "paper_large"},
    }

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, ">= 0", "alpha", "gamma")
        if self.alpha == self.gamma == 0:
            raise InvalidInputError("Expected a positive 'alpha' or 'gamma' (got 0 for both)")
        check_whole(self, max_epochs=0, max_steps=1, min_steps=0)
        super().__post_init__()

    def objective(self) -> Objective:
        return self._maximise() + self._minimise()

    def objective_at(self, step: int) -> Objective:
        """Return the objective of the phase of a step."""
        cycle, place = divmod(step, self.max_steps + self.min_steps)
        if cycle >= self.max_epochs or place >= self.max_steps:
            return self._minimise()
        return as_objective(GradientAscent(on="forget")) if step == 0 and self.ascent_first else self._maximise()

    def _maximise(self) -> Objective:
        return -1.0 * Distillation(self.temperature, on="forget")

    def _minimise(self) -> Objective:
        return weighted((self.gamma, NLL(on="retain")), (self.alpha, Distillation(self.temperature, on="retain")))

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Keep running statistics: maximising steps read the forget set alone."""
        return FrozenStatistics

    def run(self, problem: Problem) -> Outcome:
        outcome = super().run(problem)
        parts = self.parts(problem, ("forget",))
        outcome.notes.update(_direction(problem, outcome.model.eval(), parts, self.temperature, self.batch_size))
        return outcome


@dataclass(frozen=True)
class ScrubR(Scrub):
    """SCRUB+R: SCRUB, then back to the pass after which the forget set was predicted as badly as unseen items are.

    Candidates are the original model (number 0) and the model after each pass. The reference is the last model's error
    on validation items of the forgotten classes (link prediction: validation edges). The result is the candidate whose
    error on the forget set comes closest; `notes` hold `chosen`, `forget_error` and `reference_error`.

    Args:
        tie_break: take the `"latest"` of equally close candidates, or like the authors' code the `"earliest"`.
    """

    tie_break: str = "latest"

    name = "scrub_r"
    summary = "SCRUB, rewound to where the forget set is predicted as badly as unseen items of its classes"
    cost = "`epochs` passes, and as many to look at the forget set"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __post_init__(self) -> None:
        check_choice("tie_break", self.tie_break, ("earliest", "latest"))
        super().__post_init__()

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if task.validation_items(partition.retain_data) is None:
            raise UnsupportedMethodError(
                "Expected validation items for 'scrub_r', which rewinds to their error (got none); use 'scrub'"
            )

    def run(self, problem: Problem) -> Outcome:
        parts = self.parts(problem, ("forget",))
        candidates = Candidates(problem, parts, self.tie_break, self.batch_size)
        outcome = super().run(replace(problem, callbacks=[candidates, *problem.callbacks]))
        outcome.notes.update(candidates.notes)
        if candidates.notes["chosen"] == 0:
            outcome.unchanged = (
                f"of {candidates.notes['candidates']} candidates the original model's error on the forget set "
                f"({candidates.notes['forget_error']:.3g}) comes closest to that on validation items of its classes "
                f"({candidates.notes['reference_error']:.3g})"
            )
        return outcome


@torch.no_grad()
def _direction(
    problem: Problem, model: nn.Module, parts: Parts, temperature: float, size: int | None
) -> dict[str, Any]:
    """Return how far the forget set moved from the teacher, and whether it became less or more likely."""
    after, before = (predict_forget(problem.task, m, parts, size) for m in (model, problem.reference))
    distance = float(Distillation(temperature)(after, before))
    nll: list[Tensor] = [NLL()(p.replace(weight=None)) for p in (before, after)]
    notes = {"forget_nll": [float(value) for value in nll], "forget_divergence": distance, "direction": "right"}
    if distance > 1e-2 and nll[1] < nll[0]:
        notes["direction"] = "wrong"
        warnings.warn(
            f"'scrub' left the original model by becoming more certain of what it was to forget (loss "
            f"{float(nll[0]):.3g} to {float(nll[1]):.3g}, divergence {distance:.3g}); lower 'temperature' or take more "
            "'max_steps'",
            stacklevel=2,
        )
    return notes
