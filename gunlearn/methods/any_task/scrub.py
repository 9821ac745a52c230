"""SCRUB and its rewound variant (arXiv 2302.09880)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import NLL, Distillation, GradientAscent, Objective, as_objective, weighted
from gunlearn.methods.any_task.rewind import Candidates
from gunlearn.methods.any_task.scrub_presets import DECAYS, MODES, NOTEBOOKS
from gunlearn.methods.any_task.scrub_warnings import FEW, direction, warn_of_few
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval, check_whole, fill_in
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec


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

    The authors' notebooks are modes, and variants (`"scrub:small"`): `"small"` (Adam, T = 2), `"large"` (SGD, T = 4),
    `"ic_small"` and `"ic_large"` (confused classes), `"mia"` (privacy). In these an epoch is a pass over the forget set
    in batches of `forget_batch_size`, then one over the retained data in batches of `batch_size`; the last `epochs -
    max_epochs` leave out the first pass. Rates and batches that are not known of `"ic_small"`, `"ic_large"` and
    `"mia"` are those of `"small"` and `"large"`. `"paper"` and `"paper_large"` are `"small"` and `"large"` for models
    that read all items in one pass: 4 maximising and 16 minimising steps over all of them stand for batches. With SGD
    and neither dropout nor batch statistics the maximising steps of these modes start, and may end, at a gradient of
    zero.

    Args:
        mode: fills in every option that is `None`.
        forget_batch_size: forgotten items per maximising step; `None` is `batch_size`.
        max_grad_norm: clip the gradient's norm; `math.inf` does not.
        temperature: T.
        alpha: weight of the distance to the teacher on the retained data.
        gamma: weight of the retained data's negative log-likelihood.
        max_epochs: cycles with maximising steps, `msteps` in the authors' code.
        max_steps: maximising steps of a cycle; in the notebooks' modes `None` is a pass over the forget set.
        min_steps: minimising steps of a cycle, likewise over the retained data.

    Warns:
        UserWarning: fewer than 8 maximising steps, or a model that left the original by becoming more certain.
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
    forget_batch_size: int | None = None

    name = "scrub"
    summary = "leave the original model on the forget set, follow it on the retained data, by turns"
    paper = "arXiv 2302.09880"
    needs = "retained data, reference model"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        **{mode: {"mode": mode} for mode in MODES if mode != "default"},
    }

    def __post_init__(self) -> None:
        fill_in(self, MODES)
        check_interval(self, ">= 0", "alpha", "gamma")
        if self.alpha == self.gamma == 0:
            raise InvalidInputError("Expected a positive 'alpha' or 'gamma' (got 0 for both)")
        least = {"max_epochs": 0, "max_steps": 1, "min_steps": 0}
        check_whole(self, **{name: n for name, n in least.items() if getattr(self, name) is not None})
        if self.accumulate and self.forget_batch_size is not None:
            raise InvalidInputError(
                f"Expected no 'accumulate' for '{self.name}' in mode '{self.mode}' with 'forget_batch_size' (got "
                f"{self.forget_batch_size}): each maximising step would read all forgotten items"
            )
        super().__post_init__()

    @property
    def reading(self) -> BatchOptions:
        return replace(super().reading, forget_batch_size=self.forget_batch_size)

    def objective(self) -> Objective:
        return self._maximise() + self._minimise()

    def objective_at(self, step: int) -> Objective:
        """Return the objective of the phase of a step."""
        if not self._maximises(step):
            return self._minimise()
        return as_objective(GradientAscent(on="forget")) if step == 0 and self.ascent_first else self._maximise()

    def turn(self, part: str, step: int) -> int:
        """Return the number of steps before this one that read the part, where a phase is a pass over it."""
        if self.mode not in NOTEBOOKS:
            return step
        away = self._ascents(step)
        return away if part == "forget" else step - away

    def _maximises(self, step: int) -> bool:
        cycle, place = divmod(step, self.max_steps + self.min_steps)
        return cycle < self.max_epochs and place < self.max_steps

    def _ascents(self, steps: int) -> int:
        """Return how many of the first steps maximise."""
        cycles, rest = divmod(steps, self.max_steps + self.min_steps)
        whole = min(cycles, self.max_epochs)
        return whole * self.max_steps + (min(rest, self.max_steps) if cycles < self.max_epochs else 0)

    def _after(self, epochs: int) -> int:
        """Return the number of steps of the first so many epochs of a notebook."""
        return min(epochs, self.max_epochs) * self.max_steps + epochs * self.min_steps

    def make_scheduler(self, problem: Problem, steps: int) -> SchedulerSpec | None:
        """Return the caller's scheduler, or the notebook's."""
        ends = DECAYS.get(self.mode, ())
        if self.scheduler is not None or not ends:
            return self.scheduler
        return partial(MultiStepLR, milestones=[self._after(epoch) for epoch in ends], gamma=0.1)

    def in_passes(self, problem: Problem) -> "Scrub":
        """Return the method with the steps of a notebook's epochs, for the items of a problem."""
        if self.mode not in NOTEBOOKS:
            return self
        parts = self.parts(problem, ("forget", "retain"))
        forget, retain = parts.count("forget"), parts.strata().numel()
        steps: dict[str, Any] = {
            "max_steps": self.max_steps or max(1, -(-forget // (self.forget_batch_size or self.batch_size or forget))),
            "min_steps": -(-retain // (self.batch_size or retain)) if self.min_steps is None else self.min_steps,
        }
        own = replace(self, **steps)
        total = own._after(self.epochs)
        return own if self.steps is not None or not total else replace(own, steps=total)

    def _maximise(self) -> Objective:
        return -1.0 * Distillation(self.temperature, on="forget")

    def _minimise(self) -> Objective:
        return weighted((self.gamma, NLL(on="retain")), (self.alpha, Distillation(self.temperature, on="retain")))

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Keep running statistics: maximising steps read the forget set alone."""
        return FrozenStatistics

    def run(self, problem: Problem) -> Outcome:
        own = self.in_passes(problem)
        known = own.steps is not None or self.batch_size is None  # else the loop knows how many batches there are
        taken = own._ascents(own.arguments().steps_of(1)) if known else FEW
        if self.max_epochs > 0 and self.epochs:
            warn_of_few(self.name, taken)
        outcome = GradientMethod.run(own, problem)
        parts = self.parts(problem, ("forget",))
        outcome.notes.update(direction(problem, outcome.model.eval(), parts, self.temperature, self.batch_size))
        return outcome


@dataclass(frozen=True)
class ScrubR(Scrub):
    """SCRUB+R: SCRUB, then back to the pass after which the forget set was predicted as badly as unseen items are.

    Candidates are the original model (number 0) and the model after each pass (in a notebook's mode, each epoch). The
    reference is the last model's error on validation items of the forgotten classes (link prediction: validation
    edges). The result is the candidate whose error on the forget set comes closest; `notes` hold `chosen`,
    `forget_error` and `reference_error`.

    Args:
        tie_break: take the `"latest"` of equally close candidates, or like the authors' code the `"earliest"`.
    """

    tie_break: str = "latest"

    name = "scrub_r"
    one_label = True
    summary = "SCRUB, rewound to where the forget set is predicted as badly as unseen items of its classes"
    cost = "`epochs` passes, and as many to look at the forget set"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "mia": {"mode": "mia"}}

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
        own = self.in_passes(problem)
        ends = {own._after(n) for n in range(1, self.epochs + 1)} if self.mode in NOTEBOOKS else None
        candidates = Candidates(problem, parts, self.tie_break, self.batch_size, ends)
        outcome = super().run(replace(problem, callbacks=[candidates, *problem.callbacks]))
        outcome.notes.update(candidates.notes)
        if candidates.notes["chosen"] == 0:
            outcome.unchanged = (
                f"of {candidates.notes['candidates']} candidates the original model's error on the forget set "
                f"({candidates.notes['forget_error']:.3g}) comes closest to that on validation items of its classes "
                f"({candidates.notes['reference_error']:.3g})"
            )
        return outcome
