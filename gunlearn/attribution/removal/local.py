"""Removal influence in closed form at the item's nodes, and to first order around them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.read_items import standing_still
from gunlearn.attribution.removal.balls import ball_batches
from gunlearn.attribution.removal.layer_rules import GCNRule, SAGERule
from gunlearn.attribution.removal.linear_rule import LinearRule
from gunlearn.attribution.removal.recording import Recording, record
from gunlearn.attribution.targets import Distance, Embeddings, Probabilities
from gunlearn.errors import UnsupportedMethodError
from gunlearn.nn.kernels.scatter import scatter

_ROWS = 8192  # rows at a time, so that their data stay in the cache


@dataclass(frozen=True)
class Local(Estimator):
    r"""A cheap estimate of removal influence: the sum of three shares.

    1. The rows of the nodes that the item touches (the end points of an edge), by `exact`'s rules as if their
       neighbours' inputs stayed: own degree, own message and the removed messages, through all layers.
    2. Their neighbours' rows. The message of a touched node `a` in the last layer changes by `\delta_a`, which moves
       `out_i` by `w_{ia} \delta_a`. With the weighted sum of neighbours' probabilities `P_a = \sum_i w_{ia} p_i`, from
       one sparse product, the L1 change of their softmaxed outputs is to first order

       .. math:: \sum_i \|J_i w_{ia} \delta_a\|_1 \approx \sum_c P_{ac} |\delta_{ac} - \langle P_a, \delta_a \rangle /
                 |P_a|_1|

       (for `"embeddings"`, `\sum_i w_{ia} \|\delta_a\|_2` exactly).
    3. In two-layer stacks where a node's degree scales its messages (GCN), its neighbours' hidden rows change too,
       equally for each of its edges. Computed once per edge, they give the end points' share exactly and that of nodes
       around the neighbours as in 2.

    Touched nodes are assumed to move independently: where the changes of two of them meet, their sizes add up.

    Args:
        neighbors: include the third share.

    Raises:
        UnsupportedMethodError: the last layer is no `GCNConv` or `SAGEConv` (mean, sum), something follows it, or the
            model does not work row by row between its layers, or predicts whole graphs; use `exact` then.
    """

    neighbors: bool = True

    name = "local"
    summary = "closed form at the item's nodes, first order around them (GCN, SAGE stacks)"
    of = ("edges", "nodes")
    targets = ("distance",)
    cost = "the item's own rows"

    def supports(self, problem: InfluenceProblem) -> None:
        super().supports(problem)
        if not problem.items.per_node:
            raise UnsupportedMethodError(
                "Expected outputs of nodes with 'local' (got those of whole graphs); use 'exact'"
            )

    @torch.no_grad()
    def scores(self, problem: InfluenceProblem) -> Tensor:
        target = problem.target
        if not isinstance(target, Distance) or type(target) not in (Probabilities, Embeddings):
            raise UnsupportedMethodError(
                f"Expected target 'probabilities' or 'embeddings' with 'local' (got '{target.name}')"
            )
        recording, why = record(problem, brute=False)
        if recording is None or recording.whole:
            raise _unsupported(why or "skip connections")
        last = recording.calls[-1]
        if not isinstance(last, GCNRule | SAGERule) or (isinstance(last, SAGERule) and last.layer.normalize):
            raise _unsupported(type(last.layer).__name__)
        probabilities = isinstance(target, Probabilities)
        if recording.outputs is not last.out and not (probabilities and _same_softmax(last.out, problem.outputs)):
            raise UnsupportedMethodError("Expected the last layer to give the output (got a head); use 'exact'")
        around, share = _Around(recording, last, problem, probabilities), None
        if self.neighbors and len(recording.calls) == 2 and recording.calls[0].degree_in_sender:
            share = _Share(recording, last, around)
        problem.notes["shares"] = ["touched", "neighbors"] if share is None else ["touched", "neighbors", "beyond"]
        return _collect(problem, target, recording, around, share)


def _unsupported(got: str) -> UnsupportedMethodError:
    return UnsupportedMethodError(f"Expected a stack that ends in GCNConv or SAGEConv (got {got}); use 'exact'")


def _same_softmax(out: Tensor, outputs: Tensor) -> bool:
    """Return whether at most a log-softmax, which keeps probabilities, follows the last layer."""
    out, outputs = out.softmax(dim=-1), outputs.softmax(dim=-1)
    return out.shape == outputs.shape and bool(torch.allclose(out, outputs, rtol=1e-4, atol=1e-6))


class _Around:
    """Output changes that follow from a changed message in the last layer."""

    def __init__(self, recording: Recording, last: LinearRule, problem: InfluenceProblem, probabilities: bool) -> None:
        structure, outputs, self.probabilities = recording.structure, problem.outputs, probabilities
        value = outputs.softmax(dim=-1) if probabilities else outputs.new_ones(structure.num_nodes, 1)
        self.value = value if last.r is None else value * last.r.view(-1, 1)
        self.weight = last.weights()
        self.out = structure.scatter(self.weight, self.value)

    def distance(self, weight: Tensor, delta: Tensor) -> Tensor:
        """Sum the distances of nodes reached with `weight` `[k, dim or 1]`, for messages that change by `[k, dim]`."""
        if not self.probabilities:
            return weight.view(-1) * delta.norm(dim=-1)
        total = weight.sum(dim=-1, keepdim=True).clamp_(min=torch.finfo(weight.dtype).tiny)
        mean = (weight * delta).sum(dim=-1, keepdim=True) / total
        return (weight * (delta - mean).abs_()).sum(dim=-1)


class _Share:
    """The effect of a node's degree on its neighbours' hidden rows, computed once per edge."""

    def __init__(self, recording: Recording, last: LinearRule, around: _Around) -> None:
        structure, n, value = recording.structure, recording.structure.num_nodes, around.value
        alone = standing_still(torch.arange(n, device=value.device), n)
        unit = around.weight[structure.proper].mean() if structure.proper.numel() else around.weight.new_ones(())
        count = structure.in_ptr.diff().to(value)
        self.keep = (1 - 1 / count.clamp(min=1)).view(-1, 1)  # the node keeps all neighbours but one
        self.incoming = torch.zeros_like(last.sums)
        self.beyond = value.new_zeros(n)
        weight = last.edge_weight
        for _, balls in ball_batches(alone, structure, 1, 2 * _ROWS):
            balls.lost = torch.where(count[balls.node[: balls.upto[0]]] > 0, unit, 0.0)
            hidden = recording.run_to(balls, [1, 1], 1)
            row = slice(balls.upto[0], balls.upto[1])
            node, item = balls.node[row], balls.item[row]
            owner = balls.items.ids[item]
            change = last.send(hidden[row]) - last.message[node]
            change = change if last.s is None else change * last.s[node].view(-1, 1)
            # The neighbours' own rows, and those around them but the node itself, which is counted with the item.
            reached = around.out[node] + last.loop[node].view(-1, 1) * value[node] - value[owner]
            self.beyond.index_add_(0, owner, around.distance(reached.clamp_(min=0), change))
            self.incoming.index_add_(0, owner, change if weight is None else change * unit)
        self.incoming *= self.keep
        self.beyond *= self.keep.view(-1)


def _collect(
    problem: InfluenceProblem, target: Distance, recording: Recording, around: _Around, share: _Share | None
) -> Tensor:
    items, before = problem.items, problem.outputs
    found = before.new_zeros(items.num_items)
    for index, balls in ball_batches(items, recording.structure, 0, _ROWS):
        node, item = balls.node, balls.item
        counts = torch.ones_like(node, dtype=torch.bool) if items.own_row is None else node != balls.items.ids[item]
        losing = torch.zeros(node.numel(), dtype=before.dtype, device=before.device)
        losing[balls.removed[1]] = 1
        losing *= counts  # 1 for rows that lose an incoming edge and stay in the graph
        if share is not None:
            balls.incoming = share.incoming[node] * losing.view(-1, 1)
        score = target.distance(before[node], recording.touched(balls)) * counts
        if balls.delta is not None:
            weight = around.out[node]
            column, at, sender = balls.removed
            weight.index_add_(0, sender, around.value[node[at]] * around.weight[column].view(-1, 1), alpha=-1)
            other = around.distance(weight.clamp_(min=0), balls.delta)
            score += other if share is None else other + share.beyond[node] * losing
        found[index] = scatter(score, item, dim=0, dim_size=index.numel(), reduce="sum")
    return found
