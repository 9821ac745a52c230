"""Link prediction: an item is a node pair, its label says whether it is an edge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, is_undirected

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.requests.apply import GONE
from gunlearn.tasks.base import Parts
from gunlearn.tasks.graph.base import GraphTask
from gunlearn.tasks.graph.beside import is_joint
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.sampling import Draw, edge_strata


@dataclass(frozen=True)
class EdgeItems:
    """Node pairs with labels.

    Args:
        chunks: patterns of pairs; their pairs follow each other.
        label: 1 for an edge, 0 for none, `[num_items]`.
        fixed: the same at every step, so that a reference prediction of them can be kept.
        embeddings: predictions carry the end points' embeddings `[num_items, 2, dim]`.
        weight: of each item's loss value, `[num_items]`; `None` for equal ones.
    """

    chunks: tuple[EdgePattern, ...]
    label: Tensor
    fixed: bool = True
    embeddings: bool = False
    weight: Tensor | None = None

    @property
    def edge_label_index(self) -> Tensor:
        """All pairs, `[2, num_items]`."""
        return torch.cat([chunk.edge_index for chunk in self.chunks], dim=1)

    @property
    def num_items(self) -> int:
        """Number of pairs."""
        return self.label.numel()

    def followed_by(self, other: EdgeItems) -> EdgeItems:
        """Both, drawn anew at each step; items without weights weigh 1."""
        weight = None
        if self.weight is not None or other.weight is not None:
            ones = (torch.ones_like(i.label) for i in (self, other))
            weight = torch.cat([w if i.weight is None else i.weight for i, w in zip((self, other), ones, strict=True)])
        return EdgeItems(self.chunks + other.chunks, torch.cat([self.label, other.label]), fixed=False, weight=weight)

    def share(self, rank: int, world: int) -> EdgeItems:
        """Every `world`-th pair, from `rank` on."""
        chunks, start = [], rank
        for chunk in self.chunks:
            chunks.append(_every(chunk, start, world))
            start = (start - chunk.edge_index.size(1)) % world
        weight = None if self.weight is None else self.weight[rank::world]
        return replace(self, chunks=tuple(chunks), label=self.label[rank::world], weight=weight)


class EdgeParts(Parts):
    """Parts of a link prediction problem; see `names`."""

    names: ClassVar[dict[str, str]] = {
        "forget": "the edges to forget, labelled 1, with the embeddings of their end points",
        "retain": "every retained edge, labelled 1, and as many fresh negatives, labelled 0",
        "retain_edges": "every retained edge, labelled 1",
        "non_edges": "fresh random pairs that are no edges, as many as retained edges, labelled 0",
    }

    def __init__(
        self,
        data: Data,
        forget: Tensor | None,
        retain: Tensor,
        known: Tensor,
        negatives: str,
        gone: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        """Edges that negatives avoid `[2, num_columns]`, nodes that they avoid, nodes that strata are distances to."""
        self.data, self.num_nodes, self.start = data, data.num_nodes, start
        self.forget, self.retain, self.known, self.negatives = forget, retain, known, negatives
        self.draw: Draw | None = None
        # In a joint graph, ids of the retained one come first, and `gone` ends with them.
        room = self.num_nodes if gone is None else gone.numel()
        self.sampler = NegativeSampler(known, room, negatives == "non_edges", gone)
        self._fixed = {"retain_edges": self._items(retain, 1.0)}
        if forget is not None:
            self._fixed["forget"] = self._items(forget, 1.0, embeddings=True)

    def _items(self, edge_index: Tensor, label: float, **options: Any) -> EdgeItems:
        pattern = EdgePattern(edge_index, self.num_nodes, keep=options.get("fixed", True))
        return EdgeItems((pattern,), torch.full((edge_index.size(1),), label, device=edge_index.device), **options)

    def strata(self) -> Tensor:
        """Distance of each retained edge to what is forgotten; one stratum without any."""
        if self.start is None:
            return torch.zeros_like(self.retain[0])
        return edge_strata(self.retain, self.start, self.data.edge_index, self.num_nodes)

    def limit(self, draw: Draw) -> None:
        """See `Parts.limit`; as many negatives as edges are drawn."""
        self.draw = draw

    def _retained(self) -> EdgeItems:
        if self.draw is None:
            return self._fixed["retain_edges"]
        index, weight = self.draw()
        return self._items(self.retain[:, index.to(self.retain.device)], 1.0, fixed=False, weight=weight)

    def sample(self, names: Collection[str]) -> dict[str, EdgeItems]:
        """See `Parts.sample`."""
        out, edges, fresh = {}, None, None
        for name in names:
            if name == "forget" and name in self._fixed:
                out[name] = self._fixed[name]
                continue
            if name not in self.names or name == "forget":
                known = [n for n in self.names if n in self._fixed or n != "forget"]
                raise InvalidInputError(f"Expected a part among {known} (got '{name}')")
            edges = self._retained() if edges is None else edges
            if name != "retain_edges" and fresh is None:
                fresh = self._items(self.sampler.sample(edges.label.numel()), 0.0, fixed=False)
            out[name] = {"retain_edges": edges, "non_edges": fresh}.get(name) or edges.followed_by(fresh)
        return out


class LinkPrediction(GraphTask):
    """Scores node pairs by the model's own `decode(z, edge_label_index)`, else by the inner product of embeddings.

    The model is called as `model(x, edge_index)` (or `model.encode`), with `edge_weight` and `edge_attr` too where its
    signature names them and the data has them, and returns node embeddings `[num_nodes, dim]`.

    `decode` returns logits; PyG's `GAE` and `VGAE`, whose `decode` has a `sigmoid` switch, are asked for them.

    Args:
        negatives: `"non_edges"` (uniform pairs that are no training edges) or `"uniform"` (any pairs).

    Raises:
        UnsupportedModelError: the model does not return one finite-sized floating point row per node.
    """

    name = "link_prediction"
    summary = "is this node pair an edge?"
    requests = ("edges", "nodes", "features")

    def __init__(self, negatives: str = "non_edges") -> None:
        """See the class."""
        if negatives not in ("non_edges", "uniform"):
            raise InvalidInputError(f"Expected 'negatives' to be 'non_edges' or 'uniform' (got '{negatives}')")
        self.negatives = negatives

    def entry(self, model: nn.Module) -> Callable[..., Any]:
        """See `GraphTask.entry`: the model's own `encode`, where it has one."""
        return model.encode if hasattr(model, "encode") else model

    def decode(self, model: nn.Module, outputs: Tensor, items: EdgeItems) -> Prediction:
        """Bernoulli prediction of each pair; `logits` `[num_items]` are the scores."""
        ends = outputs[items.edge_label_index.t()] if items.embeddings else None
        if hasattr(model, "decode"):
            score = model.decode(outputs, items.edge_label_index, **_as_logits(model))
            if not isinstance(score, Tensor) or score.numel() != items.label.numel():
                got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
                raise UnsupportedModelError(f"Expected 'decode' to score {items.label.numel()} pairs (got {got})")
            score = score.reshape(-1)
        elif ends is not None:  # gathered already: the gradient comes back in one piece as well
            score = (ends[:, 0] * ends[:, 1]).sum(dim=-1)
        else:
            score = [chunk.inner_product(outputs) for chunk in items.chunks]
            score = score[0] if len(score) == 1 else torch.cat(score)
        sign = 2 * items.label - 1
        weight = None if items.weight is None else items.weight.to(score)
        return Prediction(log_prob=logsigmoid(sign * score), logits=score, embeddings=ends, weight=weight)

    def seeds(self, items: EdgeItems) -> Tensor:
        """See `Task.seeds`: both end points."""
        return items.edge_label_index.flatten()

    def relabel(self, items: EdgeItems, subgraph: Subgraph) -> EdgeItems:
        """See `Task.relabel`."""
        size = subgraph.data.num_nodes
        chunks = tuple(EdgePattern(subgraph.relabel(chunk.edge_index), size) for chunk in items.chunks)
        return replace(items, chunks=chunks)

    def reading(self, items: EdgeItems, index: Tensor, ends: Tensor, num_rows: int) -> EdgeItems:
        """See `Task.reading`."""
        return EdgeItems((EdgePattern(ends, num_rows),), items.label[index], fixed=False)

    def parts(
        self,
        partition: Any,
        message_graph: str = "retain",
        model: nn.Module | None = None,
        names: Collection[str] | None = None,
    ) -> EdgeParts:
        """See `Task.parts`. With a node all its edges are to be forgotten, with features what they say of the edges.

        Pairs are scored, not triples: a pair that another relation keeps joined is not to be forgotten.
        """
        forget = forgotten_edges(partition)
        read = names is None or "forget" in names
        data, place = self.graphs(partition, message_graph, model, forget.flatten() if read else forget.flatten()[:0])
        known = partition.data.edge_index  # a forgotten edge is not offered as a negative either
        gone = partition.retain_data.get(GONE)
        start = partition.touched_nodes
        parts = EdgeParts(data, place(forget), partition.retain_edge_index, known, self.negatives, gone, start)
        parts.joint = is_joint(data, partition)
        return parts

    def training_parts(self, data: Data) -> EdgeParts:
        """See `Task.training_parts`; negatives avoid the edges of `data` alone."""
        return EdgeParts(data, None, one_direction(data), data.edge_index, self.negatives, data.get(GONE))

    def validation_items(self, data: Data) -> EdgeItems | None:
        """Validation edges and their negatives, where the data holds a split."""
        return self.held_out_items(data, "val")

    def held_out_items(self, data: Data, part: str) -> EdgeItems | None:
        """Held-out edges (label 1) and their negatives (label 0).

        Args:
            data: with `{part}_pos_edge_index` and `{part}_neg_edge_index`.
            part: `"val"` or `"test"`.
        """
        keys = f"{part}_pos_edge_index", f"{part}_neg_edge_index"
        if any(key not in data for key in keys):
            return None
        pos, neg = (data[key] for key in keys)
        label = torch.cat([torch.ones(pos.size(1)), torch.zeros(neg.size(1))]).to(pos.device)
        return EdgeItems((EdgePattern(torch.cat([pos, neg], dim=1), data.num_nodes),), label)

    def edge_items(self, data: Data, edge_index: Tensor) -> EdgeItems:
        """Any pairs as items labelled 1, for metrics."""
        label = torch.ones(edge_index.size(1), device=edge_index.device)
        return EdgeItems((EdgePattern(edge_index, data.num_nodes),), label)


def forgotten_edges(partition: Any) -> Tensor:
    """Training edges that a request concerns, `[2, k]`: those that go, and those of nodes that lose features."""
    forget = partition.forget_edge_index
    if partition.data.get("edge_type") is not None:
        key, kept = (row * partition.data.num_nodes + col for row, col in (forget, partition.retain_edge_index))
        forget = forget[:, ~torch.isin(key, kept)]
    if "features" not in partition.forgets:
        return forget
    blank = torch.zeros(partition.data.num_nodes, dtype=torch.bool, device=partition.forget_edge_index.device)
    blank[partition.feature_nodes] = True
    retain = partition.retain_edge_index
    return torch.cat([forget, retain[:, blank[retain].any(dim=0)]], dim=1)


_SHARES: WeakKeyDictionary[EdgePattern, tuple[int, int, EdgePattern]] = WeakKeyDictionary()


def _every(pattern: EdgePattern, start: int, step: int) -> EdgePattern:
    """Every `step`-th pair, from `start` on; made once per pattern, since its layout takes sorting."""
    if _SHARES.get(pattern, ())[:2] != (start, step):
        share = EdgePattern(pattern.edge_index[:, start::step].contiguous(), pattern.num_nodes)
        _SHARES[pattern] = (start, step, share)
    return _SHARES[pattern][2]


def one_direction(data: Data) -> Tensor:
    """One column per distinct edge: `row <= col` where the graph is undirected, every distinct column elsewhere."""
    edges = coalesce(data.edge_index, num_nodes=data.num_nodes)
    return edges[:, edges[0] <= edges[1]] if is_undirected(edges, num_nodes=data.num_nodes) else edges


def _as_logits(model: nn.Module) -> dict[str, bool]:
    """The switch that makes `decode` leave out its sigmoid, where there is one: it must not be applied twice."""
    own = inspect.signature(model.decode).parameters
    handed_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
    decoder = getattr(model, "decoder", None) if handed_on else None
    inner = {} if decoder is None else inspect.signature(getattr(decoder, "forward", decoder)).parameters
    return {"sigmoid": False} if "sigmoid" in own or "sigmoid" in inner else {}
