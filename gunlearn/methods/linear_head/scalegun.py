"""ScaleGUN: certified removal from linear heads, with features propagated by local pushes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gunlearn.methods.base import Outcome, Problem, check_interval
from gunlearn.methods.linear_head.certified import CGU, Sides
from gunlearn.methods.linear_head.convex import SLOPE_CHANGE, Logistic, slope_of, transposed
from gunlearn.methods.linear_head.hessian_factor import HessianFactor, Newton, newton_step
from gunlearn.methods.linear_head.kept_states import LOCK, keep_state, pushed_state
from gunlearn.methods.linear_head.push import Pushed
from gunlearn.nn.layers.linear_head import HeadView
from gunlearn.tasks.graph.node_classification import labels, training_nodes

_MOST_PASSES = 6  # of a factor that still serves the next request


@dataclass(eq=False)
class LocalSides(Sides):
    """The problems of pushed features: `after` on all rows, `before` on those that the request changed, as they were.

    The gradients differ by the terms of the changed rows and by the ridge, which counts the nodes.

    Args:
        state: the features afterwards.
        entering: the problem of the changed rows as they are now.
        gap: bound of the features' error before, `[num_classes]`; see `ScaleGUN`.
        bound: `"tight"` or `"paper"`.
        factor: of a Hessian close by.
        places: of the changed rows, `[k]`.
        alive: rows of training nodes before, `[n]`.
    """

    state: Pushed = field(kw_only=True)
    entering: Logistic = field(kw_only=True)
    gap: Tensor = field(kw_only=True)
    bound: str = field(kw_only=True)
    factor: HessianFactor | None = field(kw_only=True)
    places: Tensor = field(kw_only=True)
    alive: Tensor = field(kw_only=True)
    margin: Tensor = field(init=False)
    solved: Newton = field(init=False)

    def outputs(self, weight: Tensor) -> Tensor:
        out = self.after.z @ weight
        out[self.places] = self.before.z @ weight
        return out[self.alive]

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        self.margin = self.after.z @ weight
        slope = slope_of(self.margin, self.after.sign)
        after = transposed(self.after.z, slope) + self.after.ridge * weight + self.after.perturbation
        return after + self.before.gradient(weight) - self.entering.gradient(weight), after

    def newton(self, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.solved = newton_step(self.after, self.margin, target, self.factor)
        return self.solved[:3]

    def longest(self) -> float:
        return self.state.longest()

    def largest(self) -> float:
        return self.state.largest()

    def gaps(self, weight: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        return self.gap, feature_gap(self.state, moved, self.bound)

    def rows(self) -> tuple[Tensor, Tensor]:
        return self.after.z[self.state.alive], self.after.sign[self.state.alive]

    def done(self, weight: Tensor) -> None:
        if self.factor is not None and self.solved.passes <= _MOST_PASSES:
            self.state.kept["factor"] = weight, self.after.lam, self.factor


@dataclass(frozen=True)
class ScaleGUN(CGU):
    """ScaleGUN (arXiv 2408.09212): CGU's step on features that lazy forward push updates locally.

    Propagation costs what the request reaches (`notes["propagation"]`: rows repaired and pushed, of how many). The
    error of a feature column has a norm of at most `sqrt(n) K r_max`. Its effect on the gradient does not add up over
    requests: with `R` the residues it is at most `sqrt(n) c_1 sum ||R||_F + c_2 sigma_max(Z) sum ||R w||`, `c_1 = 1`
    and `c_2 = 1/4`, before and after.

    A graph's state, `2 K - 2` numbers per node and feature and one per training node and feature, is kept with its
    `edge_index`: unlearning from `result.data` continues on it, and from the graph before, too; both share one copy and
    differ in the rows that the request changed. `Z^T Z`, `R^T R` and the longest row, from which the bound follows, are
    updated by these rows; the factor of the first Hessian preconditions the later ones, so that a Newton step takes two
    or three passes over the training nodes' features. A graph that is new, was edited, or has other training nodes is
    propagated whole, once; a head with other weights makes its own factor.

    The paper's bound is `c_1 ||1^T R||`; it ignores that the slope of the loss changes with the features, and that the
    residues travel on, so that the gradient may be larger. The variant `"paper"` takes the paper's factor of the Newton
    step's bound (see `CGU`), and the larger of the two bounds for the features.

    Args:
        r_max: rows of residues with an entry above this are pushed: 1e-7 on Cora, 1e-8 on ogbn-arxiv in the paper.
    """

    r_max: float = 1e-7

    name = "scalegun"
    summary = "CGU's step on features that are propagated by local pushes"
    paper = "arXiv 2408.09212"
    cost = "a local propagation and one Newton step; a training of the head once the budget is spent"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, ">= 0", "r_max")

    @torch.no_grad()
    def run(self, problem: Problem) -> Outcome:
        with LOCK:
            return super().run(problem)

    def sides(self, view: HeadView, partition: Any, problem: Callable[..., Logistic]) -> Sides:
        data, retain, weight = partition.data, partition.retain_data, view.weight
        old, new = (training_nodes(graph).index.to(data.edge_index.device) for graph in (data, retain))
        state, known = pushed_state(data, old, view.hops, self.r_max, view.normalize, view.lin.bias is not None)
        label = labels(data).to(old.device)[state.nodes]
        gap = feature_gap(state, weight, self.bound)
        factor = kept_factor(state, problem(state.hold()[-1], label, old.numel()), weight)
        edges = data.edge_index[:, partition.forget_columns]
        then = state.after(data, retain, edges, partition.touched_nodes, new)
        keep_state(retain, then, data)
        places, out, into = then.changes()
        notes = {
            "rows": int(retain.num_nodes),
            "repaired": then.repaired,
            "pushed": then.pushed,
            "from_scratch": not known,
            "error_bound": math.sqrt(int(retain.num_nodes)) * then.depth * self.r_max,
        }
        return LocalSides(
            problem(out, label[places], old.numel()),
            problem(then.hold()[-1], label, new.numel()),
            "" if partition.is_undirected else "the error of pushed features is bounded on undirected graphs only",
            {"propagation": notes},
            state=then,
            entering=problem(into, label[places], new.numel()),
            gap=gap,
            bound=self.bound,
            factor=factor,
            places=places,
            alive=state.alive,
        )


def kept_factor(state: Pushed, problem: Logistic, weight: Tensor) -> HessianFactor | None:
    """Return the factor that was handed on with a graph's state if it was for these weights, else a new one.

    `None` where it would be larger than the rows of `problem`, all training nodes.
    """
    *known, factor = state.kept.get("factor", (weight[:0], 0.0, None))
    if problem.lam != known[1] or not torch.equal(weight, known[0]):
        factor = HessianFactor.of(problem, weight) if state.grams and weight.numel() <= problem.z.size(0) else None
        state.kept["factor"] = weight, problem.lam, factor
    return factor


def feature_gap(state: Pushed, weight: Tensor, bound: str) -> Tensor:
    """Bound the distance of the gradient at `weight` `[f, num_classes]` to that on exact features, `[num_classes]`.

    See `ScaleGUN`. `||R||_F` and `||R w||` come from sums that a request brings up to date in the rows that it changed;
    `Gram` bounds their rounding. For many features, and for the paper's bound, the residues are read.
    """
    weight, size, shift, ones = weight[: state.num_features], 0.0, torch.zeros_like(weight[0]), weight.new_zeros(1)
    for level, share in enumerate(state.shares(), start=1):
        size += share * float(state.square[level - 1].sum().sqrt()) * (1 + 1e-9)
        if state.grams:
            shift = shift + share * state.grams[level - 1].lengths(weight)
        else:
            blocks = ((rows @ weight).square().sum(dim=0) for rows in state.residue_blocks(level))
            shift = shift + share * torch.stack(list(blocks)).sum(dim=0).sqrt() * (1 + 1e-9)
        if bound == "paper":
            ones = ones + share * torch.stack([r.abs().sum(dim=0) for r in state.residue_blocks(level)]).sum(dim=0)
    if not size:
        return torch.zeros_like(shift)
    proven = math.sqrt(state.num_items) * size + SLOPE_CHANGE * state.largest() * shift
    return proven if bound == "tight" else proven.clamp(min=float(ones.norm()))
