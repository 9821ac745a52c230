"""How INPO damps messages by influence scores of edges other than its own."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.read_items import resolve_items
from gunlearn.attribution.removal.nora import min_max
from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Problem
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.seed import isolated_rng

#: How a score becomes a message scale.
DAMPING = ("rank", "min_max")


def check_influence(influence: Any, damping: str) -> None:
    """Refuse an `influence` that cannot damp messages."""
    check_choice("damping", damping, DAMPING)
    if isinstance(influence, Tensor):
        if influence.dim() != 1 or not influence.is_floating_point() or not torch.isfinite(influence).all():
            raise InvalidInputError(
                "Expected finite influence scores, one per column of 'edge_index' (got "
                f"{influence.dtype} of shape {tuple(influence.shape)}, or NaN or infinity among them)"
            )
    elif influence == "constant":
        if damping != "rank":
            raise InvalidInputError(f"Expected damping='rank' with influence='constant' (got '{damping}')")
    elif influence != "none":
        estimator, of = _estimator(influence)
        if estimator.question != "removal" or of not in estimator.of or "distance" not in estimator.targets:
            raise InvalidInputError(
                f"Expected an estimator of how far removing {of} moves the outputs (got '{estimator.name}')"
            )


def pair_scores(problem: Problem, data: Data, influence: str | Estimator | Tensor, index: Tensor) -> Tensor:
    """Return the influence (see `INPO`) of each pair of `index` on the graph `data`, `[num_pairs]`.

    `data` is the original or the retained graph. `index` `[2, num_pairs]` holds its edges in order; or those without
    self-loops, then a self-loop per node, which scores the mean of the edges into the node.
    """
    if isinstance(influence, str) and influence == "constant":
        return torch.zeros(index.size(1), device=index.device)
    of = "edges"
    if isinstance(influence, Tensor):
        mask = problem.partition.forget_mask
        if influence.shape != mask.shape:
            raise InvalidInputError(
                f"Expected influence scores of shape {tuple(mask.shape)}, one per column of 'edge_index' "
                f"(got {tuple(influence.shape)})"
            )
        score = influence.to(index.device)
        if data is not problem.partition.data:
            score = score[~mask]
    else:
        estimator, of = _estimator(influence)
        with isolated_rng(problem.seed):
            items, place = resolve_items(data, of)
            asked = InfluenceProblem.of(problem.reference, data, problem.task, items, "probabilities", problem.seed)
            score = estimator(asked)[place]
    if of == "nodes":
        return score[index].sum(dim=0)
    if torch.equal(index, data.edge_index):
        return score
    loop = data.edge_index[0] == data.edge_index[1]
    node = scatter(score, data.edge_index[1], dim=0, dim_size=data.num_nodes, reduce="mean")
    return torch.cat([score[~loop], node[index[0, int((~loop).sum()) :]]])


def damped(score: Tensor, scale: Tensor, edge_index: Tensor, damping: str = "rank") -> Tensor:
    """Return message scales in the order of `score`: the higher the score, the smaller the scale; `[num_edges]` each.

    - `"rank"`: the smallest value of `scale` goes to the highest score, and so on; equal scores share the mean of their
      values. The distribution stays, and only the order of scores matters. Self-loops share only their own values.
    - `"min_max"`: `exp(-2 m)` with scores `m` scaled to [0, 1], the range of INPO's formula; the spread counts too.
    """
    if damping == "min_max":
        return torch.exp(-2 * min_max(score)).to(scale)
    out, loop = scale.clone(), edge_index[0] == edge_index[1]
    for among in (loop, ~loop):
        # Highest score first; `rank` is the group of equal scores that each place belongs to.
        _, group, count = torch.unique(-score[among], return_inverse=True, return_counts=True)
        rank = torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)
        value = scale[among].double().sort().values
        out[among] = scatter(value, rank, dim=0, dim_size=count.numel(), reduce="mean")[group].to(scale)
    return out


def _estimator(influence: str | Estimator) -> tuple[Estimator, str]:
    """Return the estimator of `"name"`, `"name:edges"` or `"name:nodes"`, and the kind of item."""
    if not isinstance(influence, str):
        return ESTIMATORS.build(influence, {}), "edges"
    name, _, of = influence.partition(":")
    if of not in ("", "edges", "nodes") or name not in ESTIMATORS:
        known = sorted(n for n, cls in ESTIMATORS.items() if cls.question == "removal")
        raise InvalidInputError(
            f"Expected influence 'none', 'constant', or one of {known}, with ':nodes' if wanted (got '{influence}')"
        )
    return ESTIMATORS[name](), of or "edges"
