"""GNNDelete: deletion operators trained layer by layer (arXiv 2302.13406), and INPO's objective on such operators."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.losses import MSEToReference, Objective, ObjectiveValue, Prediction
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.batches import SUBGRAPH, small_subgraph
from gunlearn.methods.deletion import (
    INITS,
    DeletionOperator,
    View,
    attach_operators,
    detach_operators,
    hops_of,
    layer_outputs,
    rows_in,
    viewed,
)
from gunlearn.methods.inpo import INPO
from gunlearn.methods.loop import TrainArguments, fit
from gunlearn.nn import Subgraph, message_passing_layers
from gunlearn.tasks import NegativeSampler

GRAPHS = ("retain", "full", "affected")
_PAPER = {
    "epochs": 1500, "lr": 1e-3, "init": "ones", "message_graph": "affected", "fixed_pairs": True, "dropout": True,
    "alpha": 0.5,
}  # fmt: skip
_DEFAULT = {"message_graph": "retain", "fixed_pairs": False, "dropout": False}


@dataclass(frozen=True)
class LayerWise(Method):
    r"""What GNNDelete and its NI-only form share: frozen weights, an operator after each layer, a loss per layer.

    After layer `l` the rows of the affected nodes `S^l` (within `l` hops of what is forgotten) become `h W_l`. Each
    `W_l` minimises its own layer's loss,

    .. math:: \alpha \, \mathrm{MSE}(h'_e, h_r) + (1 - \alpha) \, \mathrm{MSE}(h'_w, h_w)

    The first term (deleted edge consistency) sends what is forgotten, end points of edges in pairs and nodes one by
    one, to where random non-edges and random other nodes are. The second (neighbourhood influence) keeps all other
    affected nodes where the original model puts them. Forgotten nodes, and nodes that lose features, are read on the
    original graph, where they have something to forget.

    A step reads the subgraph around the affected nodes where that is exact and smaller than half of the graph, and
    computes what lies below the first operator once. Nothing is chosen on the forgotten items: the last epoch counts.
    """

    mode: str = "default"
    epochs: int | None = None
    lr: float | None = None
    init: str | None = None
    message_graph: str | None = None
    layerwise: bool = True
    fixed_pairs: bool | None = None
    dropout: bool | None = None
    subgraph: str = "auto"

    paper = "arXiv 2302.13406"
    requests = ("edges", "nodes", "features")
    tasks = ("link_prediction", "node_classification")
    needs = "retained data, reference model, layer outputs, trainable layers"
    cost = "`epochs` passes over the affected part, without the first layer"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}
    defaults: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        """Fill in the mode's settings, refuse what cannot be meant."""
        if self.mode not in ("default", "paper"):
            raise InvalidInputError(f"Expected 'mode' to be 'default' or 'paper' (got {self.mode!r})")
        for name, value in (_PAPER if self.mode == "paper" else {**_DEFAULT, **self.defaults}).items():
            if name in self.options() and getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, known in (("init", INITS), ("message_graph", GRAPHS), ("subgraph", SUBGRAPH)):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"Expected '{name}' among {known} (got {getattr(self, name)!r})")
        TrainArguments(self.epochs, self.lr)
        self.objective()

    @property
    def label(self) -> str:
        """The mode."""
        return self.mode

    @abstractmethod
    def objective(self) -> Objective:
        """The loss of one layer, on the parts `"forget"` and `"affected"`."""

    def objective_at(self, epoch: int) -> Objective:
        """The same at every step."""
        return self.objective()

    def run(self, problem: Problem) -> Outcome:
        """See `Method.run`."""
        partition, model = problem.partition, problem.model
        graph = partition.retain_data if self.message_graph == "retain" else partition.data
        calls = layer_outputs(problem.reference, problem.task, graph)
        affected = Affected(problem, [name for name, _ in calls])
        if self.message_graph == "affected":
            graph = affected.graph()
        passes = self._passes(problem, graph, affected)
        with frozen(model):
            attached = attach_operators(model, affected.operators(calls, self.init))
            operators = {deletion.name: deletion.operator for deletion in attached}
            views = {
                name: View({o: rows_in(o.nodes, part) for o in operators.values()}, self.layerwise, not self.dropout)
                for name, (_, part) in passes.items()
            }
            loss = LayerLosses(self.objective(), calls, affected, operators, views, self.fixed_pairs)

            def step() -> ObjectiveValue:
                set_mode(model, dropout=self.dropout)
                for name, (data, _) in passes.items():
                    with viewed(operators.values(), views[name]):
                        problem.task.encode(model, data)
                model.eval()
                return loss()

            args = TrainArguments(
                self.epochs,
                self.lr,
                progress=problem.progress,
                checkpoint_dir=problem.checkpoint_dir,
                fingerprint=problem.fingerprint,
            )
            state = fit(model, step, args, problem.callbacks)
            if state.epoch == 0:
                detach_operators(attached)
        part = passes["message"][1]
        read = "full" if part is None else f"subgraph, {part.ids.numel()} of {graph.num_nodes} nodes"
        notes = {"message_graph": self.message_graph, "graph": read, "affected": affected.sizes()}
        return Outcome(model, state, notes)

    def _passes(self, problem: Problem, graph: Data, affected: Affected) -> dict[str, tuple[Data, Subgraph | None]]:
        """What a step reads: the message graph, and the original one where what is forgotten is gone from that."""
        passes: dict[str, tuple[Data, Subgraph | None]] = {"message": (graph, None)}
        alone, original = affected.alone, problem.partition.data
        if self.message_graph == "retain" and alone.numel() and "forget" in self.objective().parts:
            passes["original"] = (original, None)
        if self.subgraph == "never":
            return passes
        always = self.subgraph == "always"
        for name, (data, _) in passes.items():
            seeds = affected.nodes(affected.last) if name == "message" else alone
            found = small_subgraph(problem.reference, problem.task, data, seeds, training=False, always=always)
            if found is not None:
                passes[name] = (found[0].data, found[0])
        return passes


@dataclass(frozen=True)
class GNNDelete(LayerWise):
    """Deleted edge consistency and neighbourhood influence, see `LayerWise`.

    `mode="paper"` follows the authors' code: operators start at 1/1000 everywhere, Adam at 1e-3 for 1500 epochs,
    messages along the edges between affected nodes alone with the forgotten ones among them, one draw of random pairs
    for all epochs, dropout (if any) stays on; but the last epoch is returned, where the authors choose one by its
    score on the forgotten edges. `mode="default"` starts at the identity, passes messages over the retained graph as
    the model will be used, draws pairs anew at each step, and compares with the original model on that graph.

    Args:
        mode: `"default"` or `"paper"`.
        epochs: optimiser steps; `None` takes the mode's, as below.
        lr: Adam's learning rate.
        init: where operators start, see `DeletionOperator`.
        message_graph: `"retain"`, `"full"`, or `"affected"`: the original edges between affected nodes.
        layerwise: each operator learns from its own layer's loss; else from those of later layers too.
        fixed_pairs: draw random pairs once.
        dropout: the model's dropout is on while operators learn; batch statistics never change.
        subgraph: read only the part of the graph around the affected nodes: `"auto"` where it holds at most half of
            the edges and gives the outputs of the whole graph, `"always"` or `"never"`.
        alpha: weight of deleted edge consistency against neighbourhood influence, in [0, 1]; `None` takes the mode's,
            0.5 in the paper and 0.1 by default, which costs the other edges far less.
    """

    alpha: float | None = None

    name = "gnndelete"
    summary = "deletion operators after each layer: forgotten pairs look random, their neighbourhood stays"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "lr": 1e-3, "init": "identity", "alpha": 0.1}

    def objective(self) -> Objective:
        """Both terms, or the one with a weight."""
        if not 0 <= self.alpha <= 1:
            raise InvalidInputError(f"Expected 'alpha' in [0, 1] (got {self.alpha})")
        terms = (self.alpha, MSEToReference(on="forget")), (1 - self.alpha, MSEToReference(on="affected"))
        return Objective(tuple((weight, loss) for weight, loss in terms if weight))


@dataclass(frozen=True)
class GNNDeleteNI(LayerWise):
    """Neighbourhood influence alone, see `LayerWise`; options as of `GNNDelete`, without `alpha`.

    The operators learn, from small random numbers, to give back the affected nodes that are no end points, and treat
    the end points alike. Their optimum is the identity, where nothing but the missing messages is left (`utu`), and
    `init="identity"` starts there: it then is `utu` at a price.
    """

    name = "gnndelete_ni"
    summary = "deletion operators that learn to keep the neighbourhood of what is forgotten"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 200, "lr": 1e-2, "init": "normal"}

    def objective(self) -> Objective:
        """The one term."""
        return Objective(((1.0, MSEToReference(on="affected")),))


@dataclass(frozen=True)
class INPOS(INPO):
    """INPO's objective on GNNDelete's operators: the weights stay, an operator after each layer learns.

    NPO on the forgotten edges, the retained likelihood, topological entropy and a KL term to the reference, as in
    `INPO(mode="default")`, each forgotten edge let go once it is told apart (`until`). Operators start at the identity
    and work on the nodes within `l` hops after layer `l`. Messages are not damped unless `scale_messages` says so.

    Options are those of `INPO`, with `init` of `DeletionOperator`; there is no paper mode.
    """

    epochs: int = 150
    lr: float = 5e-3
    beta: float = 0.5
    entropy_weight: float = 0.1
    kl_weight: float = 1.0
    scale_messages: bool = False
    init: str = "identity"

    name = "inpo_s"
    summary = "INPO's objective on GNNDelete's deletion operators"
    needs = "retained data, reference model, layer outputs, trainable layers"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.mode != "default":
            raise InvalidInputError(f"Expected mode='default' for 'inpo_s' (got {self.mode!r})")
        if self.init not in INITS:
            raise InvalidInputError(f"Expected 'init' among {INITS} (got {self.init!r})")
        super().__post_init__()

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Nothing but operators learns: evaluation mode, and what lies below them computed once."""
        around, keep = super().surroundings(problem), self.batch_size is None
        return lambda model: _Frozen(model, around(model), keep)

    def run(self, problem: Problem) -> Outcome:
        """See `Method.run`."""
        calls = layer_outputs(problem.reference, problem.task, problem.partition.retain_data)
        affected = Affected(problem, [name for name, _ in calls])
        with frozen(problem.model):
            attached = attach_operators(problem.model, affected.operators(calls, self.init))
            outcome = super().run(problem)
            if outcome.state.epoch == 0:
                detach_operators(attached)
        outcome.notes["affected"] = affected.sizes()
        return outcome


class _Frozen:
    """Around a training pass over the whole graph of a model that only operators learn in."""

    def __init__(self, model: nn.Module, around: AbstractContextManager, keep: bool) -> None:
        self.model, self.around, self.view = model, around, View(keep=keep)
        self.operators = [m for m in model.modules() if isinstance(m, DeletionOperator) and m.weight.requires_grad]
        self.stacks: list[ExitStack] = []

    def __enter__(self) -> None:
        self.model.eval()
        with ExitStack() as stack:
            stack.enter_context(self.around)
            stack.enter_context(viewed(self.operators, self.view))
            self.stacks.append(stack.pop_all())

    def __exit__(self, *exception: object) -> None:
        self.stacks.pop().close()


class Affected:
    """Who is affected by a request, layer by layer.

    Args:
        problem: of a partition with what is forgotten.
        names: layers in the order in which a pass calls them.

    Attributes:
        ends: end points of forgotten edges that do not go with a node, `[2 * num_edges]`.
        alone: forgotten nodes, and nodes that lose features, `[k]`.
        last: hops after the last layer.
    """

    def __init__(self, problem: Problem, names: list[str]) -> None:
        """See the class."""
        self.partition, layers = problem.partition, message_passing_layers(problem.reference)
        self.last, self.hops = 0, {}
        for name in names:
            self.last += hops_of(layers[name])
            self.hops[name] = self.last
        partition = self.partition
        edges, gone = partition.forget_edge_index, partition.forget_nodes
        self.ends = edges[:, ~torch.isin(edges, gone).any(dim=0)].flatten()
        self.alone = torch.cat([gone, partition.feature_nodes]).unique()
        self._nodes: dict[int, Tensor] = {}

    def nodes(self, num_hops: int) -> Tensor:
        """Nodes within so many hops of what is forgotten, sorted ids `[k]`."""
        if num_hops not in self._nodes:
            self._nodes[num_hops] = self.partition.affected_nodes(num_hops).nonzero().view(-1)
        return self._nodes[num_hops]

    def kept(self, name: str) -> Tensor:
        """Affected nodes after a layer that are not forgotten themselves, sorted ids `[k]`."""
        nodes = self.nodes(self.hops[name])
        return nodes[~torch.isin(nodes, torch.cat([self.ends, self.alone]))]

    def operators(self, calls: list[tuple[str, Tensor]], init: str) -> dict[str, DeletionOperator]:
        """A new operator after each layer."""
        size = int(self.partition.data.num_nodes)
        outputs = dict(calls)
        return {
            name: DeletionOperator(self.nodes(hops), size, outputs[name].size(1), init, outputs[name].dtype)
            for name, hops in self.hops.items()
        }

    def graph(self) -> Data:
        """The original graph with the edges between affected nodes alone, the forgotten ones among them."""
        data = copy.copy(self.partition.data)
        inside = self.partition.affected_nodes(self.last)[data.edge_index].all(dim=0)
        for name in ("edge_index", "edge_weight", "edge_attr", "edge_type"):
            if name in data and data[name] is not None:
                data[name] = data[name][:, inside] if name == "edge_index" else data[name][inside]
        return data

    def sizes(self) -> dict[str, int]:
        """Number of affected nodes after each layer."""
        return {name: self.nodes(hops).numel() for name, hops in self.hops.items()}


class LayerLosses:
    """The objective after each call of a layer, added up.

    Args:
        objective: reads `"forget"` and `"affected"`.
        calls: layer and output `[num_nodes, channels]` of the original model, call by call.
        affected: who is affected.
        operators: by layer.
        views: of the pass over the message graph, and of the one over the original graph if there is one.
        fixed: draw random pairs once.
    """

    def __init__(
        self,
        objective: Objective,
        calls: list[tuple[str, Tensor]],
        affected: Affected,
        operators: dict[str, DeletionOperator],
        views: dict[str, View],
        fixed: bool,
    ) -> None:
        """See the class."""
        self.objective, self.calls, self.affected, self.views = objective, calls, affected, views
        self.operators = [operators[name] for name, _ in calls]
        self.fixed, data = fixed, affected.partition.data
        self.sampler = NegativeSampler(data.edge_index, int(data.num_nodes)) if self._forgets(affected.ends) else None
        others = torch.ones(int(data.num_nodes), dtype=torch.bool, device=data.edge_index.device)
        others[affected.alone] = False
        self.others = others.nonzero().view(-1)
        self.kept = [affected.kept(name) for name, _ in calls]
        self.kept_place = [self._place("message", i, kept) for i, kept in enumerate(self.kept)]
        self.kept_target = [h[kept] for (_, h), kept in zip(calls, self.kept, strict=True)]
        self.alone = "original" if "original" in views else "message"
        self.ends_place = [self._place("message", i, affected.ends) for i in range(len(calls))]
        self.alone_place = [self._place(self.alone, i, affected.alone) for i in range(len(calls))]
        self.drawn = self.draw() if fixed else None

    def _forgets(self, nodes: Tensor) -> bool:
        return "forget" in self.objective.parts and bool(nodes.numel())

    def _place(self, view: str, call: int, nodes: Tensor) -> Tensor:
        return torch.searchsorted(self.views[view].rows[self.operators[call]][1], nodes)

    def draw(self) -> Tensor:
        """Random nodes: the end points of non-edges for `ends`, others for `alone`, `[num_ends + num_alone]`."""
        ends, alone = self.affected.ends, self.affected.alone
        drawn = []
        if self._forgets(ends):
            pairs = self.sampler.sample(ends.numel() // 2)
            drawn.append(pairs[:, torch.randperm(pairs.size(1), device=pairs.device)].flatten())  # they come sorted
        if self._forgets(alone):
            drawn.append(self.others[torch.randint(self.others.numel(), (alone.numel(),), device=alone.device)])
        return torch.cat(drawn) if drawn else ends[:0]

    def __call__(self) -> ObjectiveValue:
        """The losses of the last passes."""
        drawn = self.draw() if self.drawn is None else self.drawn
        values = []
        for i, (_, before) in enumerate(self.calls):
            message = self.views["message"].record[i]
            gone = torch.cat([message[self.ends_place[i]], self.views[self.alone].record[i][self.alone_place[i]]])
            current = {"forget": gone, "affected": message[self.kept_place[i]]}
            target = {"forget": before[drawn], "affected": self.kept_target[i]}
            nothing = self.operators[i].weight.sum(dim=1)[None, :] * 0  # a layer without such nodes has loss zero
            for name in self.objective.parts:
                if not len(current[name]):
                    current[name], target[name] = nothing, torch.zeros_like(nothing)
            values.append(self.objective(*({k: _rows(v[k]) for k in self.objective.parts} for v in (current, target))))
        terms = {name: sum(value.terms[name] for value in values) for name in self.objective.labels}
        return ObjectiveValue(sum(value.total for value in values), terms)


def _rows(embeddings: Tensor) -> Prediction:
    return Prediction(log_prob=embeddings.new_zeros(embeddings.size(0)), embeddings=embeddings)


def set_mode(model: nn.Module, dropout: bool) -> None:
    """Evaluation mode; with dropout training mode, but for what would change running statistics."""
    model.train(dropout)
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.eval()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block the parameters that the model has now do not learn."""
    learns = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in learns:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)
