"""Training on random parts of the nodes with the edges inside them, as PyG's `RandomNodeLoader` cuts a graph up."""

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.core.sorting import argsort
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.nn.kernels.subgraph import Subgraph, part_of
from gunlearn.requests.graph_tensors import GONE
from gunlearn.tasks.base import Parts
from gunlearn.tasks.graph.edge_items import EdgeItems, EdgeParts
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.graph.reading import GraphReader
from gunlearn.tasks.sampling import ShuffledBatches


class RandomNodeParts(Parts):
    r"""Parts of a link prediction problem on one random part of the nodes after another.

    A pass cuts the nodes into parts of equal size at random (like PyG's `RandomNodeLoader` with `shuffle=True`); a step
    reads one part: the model sends messages along the edges inside it alone, which is an approximation, and the items
    are the retained edges inside it. An edge lies inside a part with probability

    .. math:: q = \sum_p \frac{N_p (N_p - 1)}{N (N - 1)} \quad (q = 1 \text{ for a self-loop}),

    so of all `R` retained edges the `m` in one of `P` parts weigh `P m / (R q)`: in the mean over random parts, a step
    reads the mean over all edges.

    Args:
        parts: the problem on the whole graph.
        batch_size: number of retained edges per part if no edge were cut.
        seed: of the partitions.

    Raises:
        InvalidInputError: parts of fewer than two nodes.

    Attributes:
        batches: hands out the parts; set its `step`.
        subgraph: the part that `sample` read last; its items carry its node ids.
    """

    names = EdgeParts.names

    def __init__(self, parts: EdgeParts, batch_size: int, seed: int) -> None:
        self.data, self.whole = parts.data, parts
        self.num_nodes, num_edges = int(parts.num_nodes), parts.retain.size(1)
        self.num_parts = max(1, -(-num_edges // batch_size))
        size = -(-self.num_nodes // self.num_parts)
        self.batches = ShuffledBatches(self.num_nodes, size, seed)
        self.num_parts = self.batches.num_batches  # rounding up the size may leave fewer
        sizes = [size] * (self.num_parts - 1) + [self.num_nodes - size * (self.num_parts - 1)]
        if min(sizes) < 2:
            raise InvalidInputError(f"Expected parts of at least 2 nodes (got {min(sizes)}); raise 'batch_size'")
        self.inside = sum(n * (n - 1) for n in sizes) / (self.num_nodes * (self.num_nodes - 1))
        self.subgraph: Subgraph | None = None
        self._cut: tuple[int, tuple] | None = None

    def _pass(self) -> tuple:
        """Return nodes by part, their new ids, and columns inside each part: of the graph, retained and known edges."""
        number = self.batches.step // self.num_parts
        if self._cut is None or self._cut[0] != number:
            whole, size = self.whole, self.batches.batch_size
            order = self.batches.order().to(self.data.edge_index.device)
            place = torch.arange(self.num_nodes, device=order.device)
            part, local = torch.empty_like(order), torch.empty_like(order)
            part[order] = place // size
            nodes = argsort(part, stable=True)  # within a part in the order of their ids
            local[nodes] = place % size
            lists = [_inside(part, e, self.num_parts) for e in (self.data.edge_index, whole.retain, whole.known)]
            self._cut = number, (nodes.split(size), local, *lists)
        return self._cut[1]

    def sample(self, names: Collection[str]) -> dict[str, EdgeItems]:
        """Return the items inside the current part; sets `subgraph`."""
        bad = [name for name in names if name == "forget" or name not in self.names]
        if bad:
            known = [name for name in self.names if name != "forget"]
            raise InvalidInputError(f"Expected parts among {known} for sampler='random_node' (got {bad})")
        place, whole = self.batches.place, self.whole
        nodes, local, graph, retained, known = self._pass()
        n_id, e_id = nodes[place], graph[place]
        self.subgraph = part_of(self.data, n_id, e_id, local[self.data.edge_index[:, e_id]])
        part = self.subgraph.data
        pairs = whole.retain[:, retained[place]]
        inside = torch.full_like(pairs[0], self.inside, dtype=torch.double).masked_fill_(pairs[0] == pairs[1], 1.0)
        weight = self.num_parts * pairs.size(1) / (whole.retain.size(1) * inside)
        size = int(part.num_nodes)
        out = {"retain_edges": EdgeItems.of(local[pairs], 1.0, size, fixed=False, weight=weight)}
        if set(names) - set(out):
            negatives = self._negatives(part, n_id, local[whole.known[:, known[place]]], local[pairs])
            out["non_edges"] = EdgeItems.of(negatives, 0.0, size, fixed=False)
            out["retain"] = out["retain_edges"].followed_by(out["non_edges"])
        return {name: out[name] for name in names}

    def _negatives(self, part: Data, n_id: Tensor, known: Tensor, like: Tensor) -> Tensor:
        """Draw absent pairs inside a part; none in a single node or a complete graph."""
        avoid, kinds = self.whole.negatives == "non_edges", self.whole.kinds
        kinds = None if kinds is None else kinds[n_id]
        try:
            sampler = NegativeSampler(known, int(part.num_nodes), avoid, part.get(GONE), kinds)
            return sampler.sample(like.size(1), like=like)
        except InvalidInputError:
            return known[:, :0]


def _inside(part: Tensor, edges: Tensor, num_parts: int) -> tuple[Tensor, ...]:
    """Return the columns of `edges` with both end points in part 0, in part 1, ..."""
    own = part[edges[0]]
    columns = (own == part[edges[1]]).nonzero().view(-1)
    own = own[columns]
    return columns[argsort(own, stable=True)].split(torch.bincount(own, minlength=num_parts).tolist())


class RandomNodeReader(GraphReader):
    """Reads one random part of the nodes per step.

    Raises:
        UnsupportedMethodError: the objective reads forgotten items, or the context works on the whole graph alone.
    """

    def choose(self, model: nn.Module) -> None:
        if "forget" in self.names:
            raise UnsupportedMethodError("Expected no forget part for sampler='random_node' (got one); use 'k_hop'")
        self.check_around()
        # Drawn here, before a checkpoint is read, so that a resumed run has the same permutations.
        size = cast(int, self.options.batch_size)  # `BatchOptions` refuses a sampler without
        self.cut = self.parts = RandomNodeParts(cast(EdgeParts, self.parts), size, int(torch.randint(2**31, ())))
        self.batches, self.note = self.cut.batches, f"{self.cut.num_parts} random parts of the nodes"

    def read(self, items: dict, needed: Collection[str] | None = None) -> tuple[Data, dict, Subgraph | None]:
        subgraph = cast(Subgraph, self.cut.subgraph)  # of `sample`, which drew the items
        return subgraph.data, items, subgraph
