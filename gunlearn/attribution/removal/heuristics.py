"""Cheap stand-ins for removal influence: NORA, INPO's sum of it, degrees."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.utils import degree

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.removal.nora import inpo_edge_scores, nora


@dataclass(frozen=True)
class Nora(Estimator):
    """NORA (arXiv 2403.08333); for an edge, INPO's sum of both end points' scaled scores (arXiv 2510.19479).

    Args `beta`, `p`, `k1` and `k3`: see `nora`.
    """

    beta: float = 8.0
    p: float = 1.0
    k1: float = 1.0
    k3: float = 1.0

    name = "nora"
    summary = (
        "one forward and one backward pass, of probabilities whatever the target; edges: sum of the ends' scaled scores"
    )
    paper = "arXiv 2403.08333"
    of = ("edges", "nodes")
    targets = ("distance",)
    cost = "two passes"

    def scores(self, problem: InfluenceProblem) -> Tensor:
        score = nora(problem.model, problem.data, self.beta, self.p, self.k1, k3=self.k3, task=problem.task).detach()
        items = problem.items
        return score[items.ids] if items.of == "nodes" else inpo_edge_scores(score, items.ids)


@dataclass(frozen=True)
class Degree(Estimator):
    """`1 / degree(u) + 1 / degree(v)` for an edge, `degree(v)` for a node; never reads the model."""

    name = "degree"
    summary = "edges: sum of the end points' 1/degree; nodes: degree"
    of = ("edges", "nodes")
    targets = ("distance",)
    cost = "none"

    def scores(self, problem: InfluenceProblem) -> Tensor:
        items, target = problem.items, problem.data.edge_index[1]
        size = degree(target, problem.data.num_nodes, problem.outputs.dtype)
        return size[items.ids] if items.of == "nodes" else (1 / size.clamp(min=1))[items.ids].sum(dim=0)


@dataclass(frozen=True)
class Random(Estimator):
    """Uniform random scores, which every estimator must beat."""

    name = "random"
    summary = "uniform random scores, the control"
    cost = "none"

    def scores(self, problem: InfluenceProblem) -> Tensor:
        generator = torch.Generator().manual_seed(problem.seed)
        return torch.rand(problem.items.num_items, generator=generator).to(problem.outputs)
