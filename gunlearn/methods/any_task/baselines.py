"""The simple baselines every method must beat: UtU, fine-tuning, gradient ascent, gradient difference."""

from __future__ import annotations

from dataclasses import dataclass

from gunlearn.losses import NLL, GradientAscent, Objective, as_objective
from gunlearn.methods.any_task.retained import held
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class UtU(Method):
    """Unlink to unlearn (arXiv 2402.10695): keep the weights, take what is forgotten out of the graph.

    The paper unlinks edges; nodes go with their edges, features become zeros.

    It costs nothing and is hard to beat; what the weights memorised stays.
    """

    name = "utu"
    summary = "keep the weights, unlink what is forgotten"
    paper = "arXiv 2402.10695"
    requests = ("edges", "nodes", "features", "graphs")
    cost = "none"

    def run(self, problem: Problem) -> Outcome:
        return Outcome(problem.model.eval())


@dataclass(frozen=True)
class FineTune(GradientMethod):
    """Go on training on the retained data alone.

    Args:
        epochs: passes over the items.
    """

    epochs: int = 50

    name = "finetune"
    summary = "go on training on the retained data"
    needs = "retained data"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Return the retained data's negative log-likelihood."""
        return as_objective(NLL(on="retain"))


@dataclass(frozen=True)
class GradientAscentMethod(GradientMethod):
    """Raise the forget set's loss, nothing else; unbounded, so it collapses if it runs long.

    Args:
        epochs: passes over the items, 10 in the GNNDelete paper's baseline.
    """

    epochs: int = 10

    name = "gradient_ascent"
    summary = "raise the loss of the forget set"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Return minus the forget set's negative log-likelihood."""
        return as_objective(GradientAscent(on="forget"))


@dataclass(frozen=True)
class GradDiff(GradientMethod):
    """Raise the forget set's loss while lowering the retained one's (arXiv 2203.12817).

    Args:
        epochs: passes over the items.
        retain_weight: weight of the retained data's loss.
        forget_weight: weight of the ascent.
        retain_loss: the retained data's loss, a name of `RETAIN_LOSSES`.
        max_grad_norm: clipping, since the ascent is unbounded.
    """

    epochs: int = 30
    max_grad_norm: float | None = 1.0
    retain_weight: float = 1.0
    forget_weight: float = 1.0
    retain_loss: str = "nll"

    name = "graddiff"
    summary = "gradient ascent on the forget set, descent on the retained data"
    paper = "arXiv 2203.12817"
    needs = "retained data"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Gradient ascent plus the weighted retained loss."""
        return held(self, GradientAscent(on="forget"))
