"""Simple baselines (UtU, fine-tuning, gradient ascent), and an objective of your own."""

from dataclasses import dataclass, field

from gunlearn.losses import NLL, GradientAscent, Loss, Objective, as_objective
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class UtU(Method):
    """Unlink to unlearn (arXiv 2402.10695): keep the weights, remove what is forgotten from the graph.

    The paper unlinks edges; nodes go with their edges, and features become zeros. Independent items, which no model
    reads but its own training, just go. The weights keep what they memorised.
    """

    name = "utu"
    summary = "keep the weights, unlink what is forgotten"
    paper = "arXiv 2402.10695"
    requests = ("edges", "nodes", "features", "graphs", "items")
    runs_model = False
    cost = "none"

    def run(self, problem: Problem) -> Outcome:
        why = "'utu' keeps them by design, and takes what is forgotten out of the data that the model reads"
        return Outcome(problem.model.eval(), unchanged=why)


@dataclass(frozen=True)
class FineTune(GradientMethod):
    """Continue training on the retained data alone."""

    epochs: int = 50

    name = "finetune"
    summary = "go on training on the retained data"
    needs = "retained data"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        return as_objective(NLL(on="retain"))


@dataclass(frozen=True)
class GradientAscentMethod(GradientMethod):
    """Raise the forget set's loss, nothing else; unbounded, so a long run collapses."""

    epochs: int = 10  # as the GNNDelete paper's baseline

    name = "gradient_ascent"
    summary = "raise the loss of the forget set"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        return as_objective(GradientAscent(on="forget"))


@dataclass(frozen=True)
class OwnObjective(GradientMethod):
    """Minimise any objective over the parts that the task names.

    Args:
        given: the objective, `NPO(beta=1) + NLL(on="retain")`.

    Example:
        >>> from gunlearn.losses import NLL, NPO
        >>> OwnObjective(given=NPO(beta=1.0) + NLL(on="retain"), epochs=20).objective().parts
        ('forget', 'retain')
    """

    given: Loss | Objective = field(default_factory=lambda: NLL(on="retain"))

    summary = "an objective of your own"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        return as_objective(self.given)
