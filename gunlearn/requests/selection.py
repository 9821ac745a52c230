"""What a request picks from a graph, before anything is taken out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gunlearn.requests.training_graph import TrainingGraph


@dataclass(frozen=True, eq=False)
class Selection:
    """Edges, nodes and feature entries that go; selections add up with `|`.

    Args:
        edges: boolean `[E]` over the columns of `data.edge_index`; one column of an edge is enough.
        nodes: ids `[k]` of nodes that go with their features, labels and edges.
        features: blocks of feature entries: node ids `[k]` and columns `[c]` (`None` for all of them).
        graphs: ids `[k]` of whole graphs of a batch (`data.batch`).
    """

    edges: Tensor
    nodes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    features: tuple[tuple[Tensor, Tensor | None], ...] = ()
    graphs: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @classmethod
    def of(cls, graph: TrainingGraph, edges: Tensor | None = None, **parts: object) -> Selection:
        """A selection of a graph; no edges where none are given."""
        none = torch.zeros(graph.num_columns, dtype=torch.bool, device=graph.edge_index.device)
        return cls(none if edges is None else edges, **parts)  # type: ignore[arg-type]

    def __or__(self, other: Selection) -> Selection:
        """What either picks."""
        return Selection(
            self.edges | other.edges,
            torch.cat([self.nodes, other.nodes.to(self.nodes.device)]).unique(),
            (*self.features, *other.features),
            torch.cat([self.graphs, other.graphs.to(self.graphs.device)]).unique(),
        )

    @property
    def forgets(self) -> tuple[str, ...]:
        """Which kinds of thing are named: among `"edges"`, `"nodes"`, `"features"`, `"graphs"`."""
        named = {
            "edges": bool(self.edges.any()),
            "nodes": self.nodes.numel(),
            "features": any(ids.numel() for ids, _ in self.features),
            "graphs": self.graphs.numel(),
        }
        return tuple(name for name, there in named.items() if there)

    def closed(self, graph: TrainingGraph) -> Selection:
        """With all that goes along: nodes of graphs, edges of nodes, both directions and copies of edges; ids sorted.

        Feature blocks lose the nodes that go anyway; blocks of the same columns become one.
        """
        device = graph.edge_index.device
        nodes, graphs = self.nodes.to(device).unique(), self.graphs.to(device).unique()
        if graphs.numel():
            nodes = torch.cat([nodes, torch.isin(graph.data.batch, graphs).nonzero().view(-1)]).unique()
        edges = graph.columns_of(graph.edge_of_column[self.edges])
        if nodes.numel():  # no mask over the nodes: there may be very many numbers, and few nodes
            edges = edges | torch.isin(graph.edge_index, nodes).any(dim=0)
        blocks: dict[bytes | None, tuple[list[Tensor], Tensor | None]] = {}
        for ids, columns in self.features:
            columns = None if columns is None else columns.to(device).unique()
            key = None if columns is None else columns.cpu().numpy().tobytes()
            blocks.setdefault(key, ([], columns))[0].append(ids.to(device))
        merged = []
        for key in sorted(blocks, key=lambda k: (k is not None, k or b"")):
            ids = torch.cat(blocks[key][0]).unique()
            ids = ids[~torch.isin(ids, nodes)]
            if ids.numel():
                merged.append((ids, blocks[key][1]))
        return replace(self, edges=edges, nodes=nodes, features=tuple(merged), graphs=graphs)
