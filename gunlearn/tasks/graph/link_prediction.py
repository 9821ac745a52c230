"""Link prediction: an item is a node pair, its label says whether it is an edge."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.requests.graph_tensors import GONE
from gunlearn.requests.training_graph import distinct_pairs, first_of_pairs
from gunlearn.tasks.base import Parts, Reader, Task, View
from gunlearn.tasks.calling import Called, own_words
from gunlearn.tasks.graph.base import GraphTask
from gunlearn.tasks.graph.beside import is_joint
from gunlearn.tasks.graph.edge_items import EdgeItems, EdgeParts
from gunlearn.tasks.graph.link_lists import check_link_lists
from gunlearn.tasks.graph.node_kinds import node_kinds
from gunlearn.tasks.graph.own_decoder import check_inner_product
from gunlearn.tasks.graph.random_nodes import RandomNodeReader
from gunlearn.tasks.graph.reading import APART
from gunlearn.tasks.graph.retrained_scores import retrained_scores
from gunlearn.tasks.graph.score_targets import MIN_HELD_OUT, ScoreTarget, check_held_out, held_out_edges
from gunlearn.tasks.logits import logit_of_pairs, set_outputs
from gunlearn.tasks.sampling import BatchOptions

_TRIED = 256  # edges whose scores the trial pass reads


class LinkPrediction(GraphTask):
    """Scores node pairs by the model's own `decode(z, edge_label_index)`, else by the inner product of embeddings.

    The model (or `model.encode`) returns node embeddings `[num_nodes, dim]`; see `GraphTask` for how it is called. Its
    `decode` returns logits; PyG's `GAE` and `VGAE` are called with `sigmoid=False`.

    Args:
        negatives: `"non_edges"` (uniform pairs that are no training edges) or `"uniform"` (any pairs). In a graph of
            several node types (`data.node_type`, or two sides that are ranges of ids) each joins the types that an edge
            joins.
        outputs: what the model's `decode` returns, `"logits"` or `"probabilities"`.

    Raises:
        InvalidInputError: another value of `negatives` or `outputs`.
        UnsupportedModelError: the model does not return one floating point row per node, or one score per pair.
    """

    name = "link_prediction"
    summary = "is this node pair an edge?"
    requests = ("edges", "nodes", "features")
    items_are_pairs = True
    #: The caller's own function `decode(model, z, pairs)`.
    score: Called | None = None

    def __init__(self, negatives: str = "non_edges", outputs: str = "logits") -> None:
        if negatives not in ("non_edges", "uniform"):
            raise InvalidInputError(f"Expected 'negatives' to be 'non_edges' or 'uniform' (got '{negatives}')")
        self.negatives = negatives
        set_outputs(self, outputs)

    def outcomes(self, model: nn.Module) -> str:
        """Return what logits are of; empty for an inner product of embeddings, which may be anything."""
        return "bernoulli" if self.decoder(model) is not None else ""

    def decoder(self, model: nn.Module) -> Callable[..., Any] | None:
        """Return the caller's or the model's own function that scores pairs; `None` for an inner product."""
        return getattr(model, "decode", None) if self.score is None else self.score

    def called(self, call: Callable[..., Any] | None = None, decode: Callable[..., Any] | None = None) -> Task:
        task = cast(LinkPrediction, super().called(call))
        if decode is not None:
            task = copy.copy(task)
            task.score = decode if isinstance(decode, Called) else Called("decode", decode)
        return task

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        named = {} if self.score is None else {"decode": repr(self.score)}
        return {**super().remarks(model), **named}

    def trial_items(self, data: Data) -> EdgeItems:
        """Return some edges, and as many pairs of ends of different edges."""
        edges = data.edge_index[:, :_TRIED]
        pairs = torch.cat([edges, torch.stack([edges[0], edges[1].roll(1)])], dim=1)
        label = torch.arange(pairs.size(1), device=pairs.device).lt(edges.size(1)).float()
        return EdgeItems((EdgePattern(pairs, data.num_nodes),), label)

    def entry(self, model: nn.Module) -> Callable[..., Any]:
        """Return the model's own `encode`, where it has one."""
        return getattr(model, "encode", model)

    def decode(self, model: nn.Module, outputs: Tensor, items: EdgeItems) -> Prediction:
        """Return the Bernoulli prediction of each pair; `logits` `[num_items]` are the scores."""
        ends = outputs[items.edge_label_index.t()] if items.embeddings else None
        decode = self.decoder(model)
        if decode is None and self.outputs == "probabilities":
            raise UnsupportedModelError("Expected a model with 'decode' for outputs='probabilities' (got none)")
        if decode is not None:
            own = partial(decode, model) if isinstance(decode, Called) else partial(decode, **_as_logits(model, decode))
            with own_words(model, None, lambda: ("'decode'", "another decode=lambda model, z, pairs: ...")):
                score = _scores(outputs, items.edge_label_index, own)
            if not isinstance(score, Tensor) or score.numel() != items.label.numel():
                got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
                raise UnsupportedModelError(
                    f"Expected 'decode' to score {items.label.numel()} pairs (got {got}); pass "
                    "decode=lambda model, z, pairs: ..."
                )
            score = score.reshape(-1)
            score = logit_of_pairs(score) if self.outputs == "probabilities" else score
        elif ends is not None:  # gathered already: the gradient comes back in one piece as well
            score = (ends[:, 0] * ends[:, 1]).sum(dim=-1)
        else:
            scores = [chunk.inner_product(outputs) for chunk in items.chunks]
            score = scores[0] if len(scores) == 1 else torch.cat(scores)
        sign = 2 * items.label - 1
        weight = None if items.weight is None else items.weight.to(score)
        return Prediction(log_prob=logsigmoid(sign * score), logits=score, embeddings=ends, weight=weight)

    def seeds(self, items: EdgeItems) -> Tensor:
        return items.edge_label_index.flatten()

    def relabel(self, items: Any, subgraph: Subgraph) -> Any:
        size = subgraph.data.num_nodes
        chunks = tuple(EdgePattern(subgraph.relabel(chunk.edge_index), size) for chunk in items.chunks)
        return replace(items, chunks=chunks)

    def at_rows(self, items: EdgeItems, index: Tensor, ends: Tensor, num_rows: int) -> EdgeItems:
        return EdgeItems((EdgePattern(ends, num_rows),), items.label[index], fixed=False)

    def reader(
        self, model: nn.Module, parts: Parts, names: tuple[str, ...], options: BatchOptions, around: Any
    ) -> Reader:
        """Cut the graph into random parts for `sampler="random_node"`."""
        if options.sampler == "random_node" and isinstance(parts, EdgeParts):
            return RandomNodeReader(model, self, parts, names, options, around)
        return super().reader(model, parts, names, options, around)

    def check_trial(self, model: nn.Module, data: Data, outputs: Tensor) -> None:
        """Refuse a model that scores pairs itself where inner products would be read; see `own_decoder`."""
        super().check_trial(model, data, outputs)
        if self.decoder(model) is None:
            check_inner_product(self, model, data, outputs)

    def check_target(self, until: str, data: Data) -> None:
        if until == "unseen":
            check_held_out(data)

    def target(self, until: str, model: nn.Module, reference: nn.Module, partition: Any, narrow: bool) -> ScoreTarget:
        return ScoreTarget(until, self, model, reference, partition, narrow=narrow)

    def make_parts(self, view: View) -> EdgeParts:
        """Return the parts; `"forget"` holds all edges of forgotten nodes and of nodes that lose features, too.

        Pairs are scored, not triples: a pair that another relation keeps joined is not to be forgotten.
        """
        partition = view.partition
        forget = forgotten_edges(partition)
        data, place = self.graphs(view, forget.flatten())
        known = partition.data.edge_index  # a forgotten edge is not offered as a negative either
        gone, start = partition.retain_data.get(GONE), partition.touched_nodes
        retain = partition.retain_edge_index
        if partition.data.get("edge_type") is not None:
            retain = retain[:, first_of_pairs(retain, partition.is_undirected)]
        kinds, room = node_kinds(partition.data), int(partition.data.num_nodes)
        parts = EdgeParts(data, place(forget), retain, known, self.negatives, gone, start, kinds, room)
        parts.joint = is_joint(data, partition)
        return parts

    def training_parts(self, data: Data) -> EdgeParts:
        """Return all edges as retained ones; negatives avoid the edges of `data` alone."""
        return self._trained_parts(data, None)

    def training_items(self, data: Data) -> list[Tensor]:
        return [distinct_pairs(data)]

    def _trained_parts(self, data: Data, forget: Tensor | None) -> EdgeParts:
        """Return all edges of `data` as retained ones, and edges to forget `[2, k]` beside them."""
        edges, kinds = distinct_pairs(data), node_kinds(data)
        return EdgeParts(data, forget, edges, data.edge_index, self.negatives, data.get(GONE), kinds=kinds)

    def unseen(self, original: nn.Module, partition: Any) -> tuple[EdgeParts, Tensor] | None:
        """Return the forgotten edges and their expected scores after retraining; `None` with few validation edges."""
        data = partition.retain_data
        few = held_out_edges(data) < MIN_HELD_OUT
        if few or partition.forgets != ("edges",) or data.get("edge_type") is not None:
            return None
        parts = self._trained_parts(data, partition.forget_edge_index)
        return parts, retrained_scores(self, original, partition)

    def check_data(self, data: Any) -> Data:
        """Return the graph; see `check_graph` and `check_link_lists`."""
        data = super().check_data(data)
        check_link_lists(data)
        return data

    def held_out_items(self, data: Data, part: str) -> EdgeItems | None:
        """Return `{part}_pos_edge_index`, labelled 1, and `{part}_neg_edge_index`, labelled 0."""
        pos, neg = (data.get(f"{part}_{sign}_edge_index") for sign in ("pos", "neg"))
        if pos is None or neg is None:
            return None
        label = torch.cat([torch.ones(pos.size(1)), torch.zeros(neg.size(1))]).to(pos.device)
        return EdgeItems((EdgePattern(torch.cat([pos, neg], dim=1), data.num_nodes),), label)

    def edge_items(self, data: Data, edge_index: Tensor) -> EdgeItems:
        """Return any pairs as items labelled 1, for metrics."""
        return EdgeItems.of(edge_index, 1.0, data.num_nodes)


def forgotten_edges(partition: Any) -> Tensor:
    """Return the edges of the forget part, `[2, k]`: those that go, and those of nodes that lose features."""
    forget = partition.forget_edge_index
    if partition.data.get("edge_type") is not None:
        kept = partition.retain_edge_index
        first = first_of_pairs(torch.cat([kept, forget], dim=1), partition.is_undirected) - kept.size(1)
        forget = forget[:, first[first >= 0]]  # not joined by another relation, and each pair once
    if "features" not in partition.forgets:
        return forget
    retain = partition.retain_edge_index
    return torch.cat([forget, retain[:, torch.isin(retain, partition.feature_nodes).any(dim=0)]], dim=1)


def _scores(outputs: Tensor, pairs: Tensor, decode: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the scores of pairs `[2, k]`; of each of two graphs that were read apart by its own node numbers."""
    size = getattr(outputs, APART, None)
    if size is None:
        return decode(outputs, pairs)
    second = pairs[0] >= size
    order = torch.cat([(~second).nonzero().view(-1), second.nonzero().view(-1)])
    count = int(second.sum())
    scores = []
    if count < pairs.size(1):
        scores.append(decode(outputs[:size], pairs[:, ~second]).reshape(-1))
    if count:
        scores.append(decode(outputs[size:], pairs[:, second] - size).reshape(-1))
    return torch.cat(scores)[order.argsort()]


def _as_logits(model: nn.Module, decode: Callable[..., Any]) -> dict[str, bool]:
    """Return the arguments that make `decode` leave out its sigmoid: it must not be applied twice."""
    own = inspect.signature(decode).parameters
    handed_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
    decoder = getattr(model, "decoder", None) if handed_on else None
    inner = {} if decoder is None else inspect.signature(getattr(decoder, "forward", decoder)).parameters
    return {"sigmoid": False} if "sigmoid" in own or "sigmoid" in inner else {}
