"""ScaleGUN: certified removal from linear heads, with features propagated by local pushes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gunlearn.methods.base import check_interval
from gunlearn.methods.linear_head.certified import CGU, Features
from gunlearn.methods.linear_head.convex import SLOPE_CHANGE, Logistic, spectral_bound
from gunlearn.methods.linear_head.push import keep_state, pushed_state
from gunlearn.nn.layers.linear_head import HeadView


@dataclass(frozen=True)
class ScaleGUN(CGU):
    """ScaleGUN (arXiv 2408.09212): CGU's step on features that lazy forward push updates locally.

    Propagation costs what the request reaches (`notes["propagation"]`: rows repaired and pushed, of how many). The
    error of a feature column has a norm of at most `sqrt(n) K r_max`. Its effect on the gradient does not add up over
    requests: with `R` the residues it is at most `sqrt(n) c_1 sum ||R||_F + c_2 sigma_max(Z) sum ||R w||`, `c_1 = 1`
    and `c_2 = 1/4`, before and after. A graph's state, `2 K - 1` numbers per node and feature, is kept with its
    `edge_index`: unlearning from `result.data` continues on a copy of it; a new graph is propagated whole, once.

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

    def features(self, view: HeadView, partition: Any, old: Tensor, new: Tensor) -> Features:
        data, retain, depth = partition.data, partition.retain_data, len(view.hops) - 1
        state, known = pushed_state(data, depth, self.r_max, view.normalize)
        if not known:
            keep_state(data, state, depth)
        then = state.after(data, retain, partition.touched_nodes)
        keep_state(retain, then, depth)
        notes = {
            "rows": int(retain.num_nodes),
            "repaired": then.repaired,
            "pushed": then.pushed,
            "from_scratch": not known,
            "error_bound": math.sqrt(int(retain.num_nodes)) * depth * self.r_max,
        }
        return Features(
            state.rows(data, old, view.hops),
            then.rows(retain, new, view.hops),
            (state.residues(data, view.hops), then.residues(retain, view.hops)),
            "" if partition.is_undirected else "the error of pushed features is bounded on undirected graphs only",
            {"propagation": notes},
        )

    def gap(self, problem: Logistic, weight: Tensor, residues: Sequence[tuple[float, Tensor]]) -> Tensor:
        size = sum(c * float(r.norm()) for c, r in residues)
        if not size:
            return torch.zeros_like(weight[0])
        shift = sum(c * (r @ weight[: r.size(1)]).norm(dim=0) for c, r in residues)
        proven = math.sqrt(problem.z.size(0)) * size + SLOPE_CHANGE * spectral_bound(problem.z) * shift
        if self.bound == "tight":
            return proven
        total = sum((c * r.abs().sum(dim=0) for c, r in residues), start=weight.new_zeros(()))
        return proven.clamp(min=float(total.norm()))
