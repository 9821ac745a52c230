"""Certified removal from linear heads: one Newton step with a bound on its residual (CGU)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.core.checks import check_choice
from gunlearn.errors import UnsupportedModelError
from gunlearn.methods.base import Method, Outcome, Problem, check_interval
from gunlearn.methods.linear_head.accountant import Accountant
from gunlearn.methods.linear_head.convex import (
    CURVATURE_CHANGE,
    SLOPE_CHANGE,
    Logistic,
    one_vs_rest,
    rounding,
    spectral_bound,
    with_ones,
)
from gunlearn.methods.linear_head.head_training import problem_of, solve_head
from gunlearn.methods.linear_head.propagation import propagated
from gunlearn.nn.layers.linear_head import HeadView, head_of
from gunlearn.tasks.graph.node_classification import training_nodes


@dataclass(eq=False)
class Sides:
    """The convex problems before and after a request, and what the bound reads of them; features are exact here.

    Args:
        before: of the training nodes before the request.
        after: of those that stay.
        doubt: why there is no bound; empty if there is one.
        notes: for the result.
    """

    before: Logistic
    after: Logistic
    doubt: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def outputs(self, weight: Tensor) -> Tensor:
        """Return the logits before the request at the weights `[f, num_classes]`: `[n_old, num_classes]`."""
        return self.before.z @ weight

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients before and after the request, `[f, num_classes]` each."""
        return self.before.gradient(weight), self.after.gradient(weight)

    def newton(self, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `H'^-1 target`, the norms of its residual, and `Z'` times it; `H'` is the Hessian afterwards."""
        step, left = self.after.newton(weight, target)
        return step, left, self.after.z @ step

    def longest(self) -> float:
        """Return the length of the longest row afterwards."""
        return float(self.after.z.norm(dim=1).max())

    def largest(self) -> float:
        """Return a bound of the largest singular value of the rows afterwards."""
        return spectral_bound(self.after.z)

    def gaps(self, weight: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the gradient's distance to that on exact features, before at `weight` and after at `moved`.

        Both are `[f, num_classes]`; returns `[num_classes]` each.
        """
        return torch.zeros_like(weight[0]), torch.zeros_like(weight[0])

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return features and signs of all training nodes that stay, for a training anew."""
        return self.after.z, self.after.sign

    def done(self, weight: Tensor) -> None:
        """Take note of the weights `[f, num_classes]` with which the run ends."""


@dataclass(frozen=True)
class CGU(Method):
    """Certified graph unlearning (arXiv 2206.09140): a Newton step on exactly propagated features.

    `w + Delta` with `Delta = H'^-1 (grad L(w; D) - grad L(w; D'))`, `H'` the Hessian on the retained data, raises the
    gradient's norm by at most `gamma max_i ||z_i|| ||Delta|| ||Z' Delta|| sigma_max(Z')`. The paper assumes rows of
    length at most 1, which symmetric normalisation does not give; so the longest row's length is a factor here. The
    variant `"paper"` has the paper's `gamma = 1/4`; half the Lipschitz constant of the logistic loss's second
    derivative, `1 / (12 sqrt 3)`, is enough, and leaves budget for five times as many requests. The bound includes the
    residual of conjugate gradients and the rounding to the model's precision. Once the bounds of all requests exceed
    the budget, the head is trained anew with a new perturbation.

    `result.notes["certificate"]` has `status` (`"certified"`, `"retrained"` or `"uncertified"`), `epsilon`, `delta`,
    `spent`, `budget` and `reason`; see `Accountant` and `fit_linear_head` for the assumptions. A model trained in
    another way takes the same step, uncertified.

    Args:
        epsilon: of the certificate, in (0, 1]; `delta` in (0, 1).
        lam: ridge per training node, for a model without a record of its own.
        bound: `"tight"` or `"paper"`, the `gamma` above.
    """

    epsilon: float = 1.0
    delta: float = 1e-4
    lam: float = 1e-3
    bound: str = "tight"

    name = "cgu"
    summary = "one Newton step on a linear head, its residual accounted for"
    paper = "arXiv 2206.09140"
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "retained data, second order, linear head, retraining"
    state = "own"
    certified = True
    runs_model = False
    cost = "a propagation and one Newton step; a training of the head once the budget is spent"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"bound": "paper"}}

    def __post_init__(self) -> None:
        Accountant(self.epsilon, self.delta)
        check_interval(self, "> 0", "lam")
        check_choice("bound", self.bound, ("tight", "paper"))

    @property
    def label(self) -> str:
        return "paper" if self.bound == "paper" else "default"

    def sides(self, view: HeadView, partition: Any, problem: Callable[..., Logistic]) -> Sides:
        """Return the problems before and after; `problem(z, label)` makes one of rows, with a column for the bias."""

        def of(data: Data) -> Logistic:
            items = training_nodes(data)
            z = propagated(data, items.index.to(data.edge_index.device), view.hops, view.normalize)
            return problem(z if view.lin.bias is None else with_ones(z), items.label)

        rows = int(partition.retain_data.num_nodes)
        return Sides(of(partition.data), of(partition.retain_data), notes={"propagation": {"rows": rows}})

    @torch.no_grad()
    def run(self, problem: Problem) -> Outcome:
        view, partition = head_of(problem.model), problem.partition
        head = view.record
        if head is not None and head.loss != "logistic":
            raise UnsupportedModelError(f"Expected a logistic head (got '{head.loss}'); see method 'graph_editor'")
        weight = view.weight

        def objective(z: Tensor, label: Tensor, count: int | None = None) -> Logistic:
            sign = one_vs_rest(label, view.num_classes)
            if head is not None and float(head.lam) > 0:
                return replace(problem_of(head, z, sign), count=count)
            return Logistic(z, sign, self.lam, torch.zeros_like(weight), count)

        sides = self.sides(view, partition, objective)
        before, after = sides.before, sides.after
        if head is None:
            check_output(problem, sides.outputs(weight), training_nodes(partition.data).index)

        gradient, later = sides.gradients(weight)
        step, left, image = sides.newton(weight, gradient - later)
        moved = view.put(weight + step)
        largest, longest = sides.largest(), sides.longest()
        gamma = CURVATURE_CHANGE / 2 if self.bound == "tight" else 1 / 4
        bound = gamma * longest * step.norm(dim=0) * image.norm(dim=0) * largest
        lost = (SLOPE_CHANGE * largest**2 + after.ridge) * (moved - weight - step).norm(dim=0)
        bound = bound + left + lost + rounding(after.num_items)

        gap_old, gap_new = sides.gaps(weight, moved)
        known = (torch.zeros_like(bound),) * 2 if head is None else (head.spent.double(), head.gap.double())
        residual, slack = gradient.norm(dim=0), rounding(before.num_items)
        allowed = known[0] + known[1] + gap_old + slack
        # The features' error does not add up if they are computed as at the last request.
        spent = torch.where(residual <= known[0] + slack, known[0] + slack, allowed) + bound
        total, alpha = float((spent + gap_new).norm()), 0.0 if head is None else float(head.alpha)
        accountant = Accountant(self.epsilon, self.delta)
        doubt = accountant.doubt(head, before, residual, allowed) or sides.doubt
        notes, reason = sides.notes | {"bound": float(bound.norm()), "longest_row": longest}, ""
        status, budget = "certified", accountant.budget(alpha)
        if head is not None and not doubt and not total <= budget:
            status, reason = "retrained", f"{total:.3g} would have been spent: trained anew with a new perturbation"
            solve_head(head, *sides.rows(), float(head.lam), alpha, new_seed(problem))
            head.gap.copy_(sides.gaps(weight, view.weight)[1])
            total = float((head.spent + head.gap).norm())
            doubt = "" if total <= budget else f"even a new head leaves {total:.3g}, over the budget"
        elif head is not None:
            head.spent.copy_(spent)
            head.gap.copy_(gap_new)
        sides.done(view.weight)
        certificate = {
            "status": "uncertified" if doubt else status,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "spent": total,
            "budget": budget,
            "reason": doubt or reason,
        }
        return Outcome(problem.model.eval(), notes=notes | {"certificate": certificate}, proven=not doubt)


def new_seed(problem: Problem) -> int:
    """Return a seed from the present perturbation, so that the next one differs under any seed of the run.

    The request has no part in it: who knows both perturbations could try out which request leads from one to the other.
    """
    old = problem.model.get_buffer("perturbation").double().cpu().contiguous().numpy().tobytes()
    digest = hashlib.sha256(f"{problem.seed}:".encode() + old).digest()
    return int.from_bytes(digest[:7], "big")


def check_output(problem: Problem, logits: Tensor, nodes: Tensor) -> None:
    """Refuse a model whose output is not the head's logits."""
    out = problem.task.encode(problem.reference, problem.partition.data)[nodes].double()
    size = 1e-2 * float(logits.abs().max())
    if out.shape != logits.shape or not torch.allclose(out, logits, rtol=1e-2, atol=size):
        raise UnsupportedModelError(
            "Expected a linear head, whose output is one linear map of propagated features "
            f"(got {type(problem.model).__name__}, which computes something else)"
        )
