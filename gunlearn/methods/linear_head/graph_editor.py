"""GraphEditor: exact removal from least-squares heads by the Woodbury identity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.errors import UnsupportedModelError
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.linear_head.convex import one_vs_rest
from gunlearn.methods.linear_head.propagation import propagated
from gunlearn.nn.layers.linear_head import head_of
from gunlearn.tasks.graph.node_classification import training_nodes

_CHUNK = 256  # rows removed, and as many added, per solve


@dataclass(frozen=True)
class GraphEditor(Method):
    """GraphEditor (Cong and Mahdavi, 2023): the ridge regression that a fit without the forgotten data gives.

    Rows of training nodes whose propagated features change are removed, and those of nodes that stay added again with
    new features. With `U` these rows, `T` their targets, `J` the diagonal of -1 (out) and 1 (in),
    `S = (Z^T Z + lam I)^-1` and the weights `W` become `S - S U^T (J + U S U^T)^-1 U S` and
    `W + S U^T (J + U S U^T)^-1 (T - U W)`.

    Exact up to rounding: the head keeps `S` and `W` in double precision. Head and data must be as `fit_linear_head`, or
    this method, left them. `result.notes["rows"]` counts removed and added rows. Not here: the paper's fine-tuning.
    """

    name = "graph_editor"
    summary = "the exact least-squares head without the forgotten data, by low-rank updates"
    paper = "GraphEditor: An Efficient Graph Representation Learning and Unlearning Approach (2023)"
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "linear head"
    state = "own"
    cost = "num_features^2 for each training node whose propagated features change"

    @torch.no_grad()
    def run(self, problem: Problem) -> Outcome:
        view, partition = head_of(problem.model), problem.partition
        head = view.record
        if head is None or head.loss != "least_squares" or not float(head.lam) > 0:
            raise UnsupportedModelError(
                "Expected a linear head for least squares, fitted by gunlearn.methods.fit_linear_head: "
                "LinearHead(..., loss='least_squares') "
                f"(got {type(head or problem.model).__name__}{'' if head is None else f' for {head.loss}'})"
            )
        kept, now = head.solution.float(), head.lin.weight.float()  # in case weights were stored in low precision
        if not torch.allclose(kept, now, rtol=1e-6, atol=1e-6 * float(kept.abs().max())):
            raise UnsupportedModelError(
                "Expected the weights that least squares gave (got others: the head was trained on, or converted)"
            )
        near, rows = partition.affected_nodes(len(view.hops) - 1), []
        for data in (partition.data, partition.retain_data):
            items = training_nodes(data)
            nodes, label = items.index[near[items.index]], items.label[near[items.index]]
            z = propagated(data, nodes, view.hops, view.normalize)
            rows.append((nodes, z, one_vs_rest(label, view.num_classes)))
        (old, out, old_target), (new, into, new_target) = rows
        stays = torch.isin(old, new)  # `new` is a subset of `old`
        same = (out[stays] == into).all(dim=1)
        leaves, enters = torch.ones_like(stays).index_fill(0, stays.nonzero().view(-1)[same], False), ~same
        inverse, weight = head.inverse.double(), head.solution.double().t().contiguous()
        inverse, weight = edited(inverse, weight, (out[leaves], old_target[leaves]), (into[enters], new_target[enters]))
        head.inverse.copy_(inverse)
        head.solution.copy_(weight.t())
        view.put(head.solution.double().t())
        count = {"removed": int(leaves.sum()), "added": int(enters.sum())}
        return Outcome(problem.model.eval(), notes={"rows": count})


def edited(
    inverse: Tensor, weight: Tensor, out: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the inverse `[f, f]` and the weights `[f, num_classes]` of a ridge regression on other rows.

    `out` and `into` are the removed and the added rows `[k, f]`, each with targets `[k, num_classes]`.
    """
    for start in range(0, max(out[0].size(0), into[0].size(0)), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows, target = torch.cat([out[0][part], into[0][part]]), torch.cat([out[1][part], into[1][part]])
        sign = rows.new_ones(rows.size(0))
        sign[: out[0][part].size(0)] = -1
        reach = inverse @ rows.t()
        core = sign.diag() + rows @ reach
        weight = weight + reach @ torch.linalg.solve(core, target - rows @ weight)
        inverse = inverse - reach @ torch.linalg.solve(core, reach.t())
        inverse = (inverse + inverse.t()) / 2
    return inverse, weight
