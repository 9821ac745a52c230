"""GNNDelete: deletion operators trained layer by layer (arXiv 2302.13406)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch_geometric.data import Data

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.losses import MSEToReference, Objective, ObjectiveValue, weighted
from gunlearn.methods.base import BY_MODE, Method, Outcome, Problem, check_interval, fill_in
from gunlearn.methods.gradient import only
from gunlearn.methods.operators.layer_losses import Affected, LaterGradients, LayerLosses, layer_outputs, set_mode
from gunlearn.nn.attach.operators import (
    OPERATOR_INITS,
    OperatorView,
    attach_operators,
    detach_operators,
    rows_in,
    viewed,
)
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.tasks.graph.reading import small_subgraph
from gunlearn.tasks.sampling import SUBGRAPH
from gunlearn.training.loop import TrainArguments, fit

GRAPHS = ("retain", "full", "affected")
_PAPER = {
    "epochs": 1500, "lr": 1e-3, "init": "ones", "message_graph": "affected", "fixed_pairs": True, "dropout": True,
    "leftover": False,
}  # fmt: skip
_DEFAULT = {
    "epochs": 100, "lr": 1e-3, "init": "identity", "message_graph": "retain", "fixed_pairs": False, "dropout": False,
    "leftover": False,
}  # fmt: skip


@dataclass(frozen=True)
class LayerWise(Method):
    r"""Base class of GNNDelete and its NI-only form: frozen weights, an operator after each layer, a loss per layer.

    After layer `l` the rows of the affected nodes `S^l` (within `l` hops of what is forgotten) become `h W_l`. Each
    `W_l` minimises its own layer's loss,

    .. math:: \alpha \, \mathrm{MSE}(h'_e, h_r) + (1 - \alpha) \, \mathrm{MSE}(h'_w, h_w)

    The first term (deleted edge consistency) moves what is forgotten to random embeddings: end points of edges, in
    pairs, to those of random non-edges, nodes to those of random other nodes. The second (neighbourhood influence)
    keeps all other affected nodes where the original model puts them. Forgotten nodes, and nodes that lose features,
    are read on the original graph. The original model is compared with on the retained graph, unless
    `message_graph="full"`. Everything below the first operator is computed once. The last epoch is returned.
    """

    mode: str = "default"
    epochs: int = BY_MODE
    lr: float = BY_MODE
    init: str = BY_MODE
    message_graph: str = BY_MODE
    layerwise: bool = True
    fixed_pairs: bool = BY_MODE
    dropout: bool = BY_MODE
    leftover: bool = BY_MODE
    subgraph: str = "auto"

    paper = "arXiv 2302.13406"
    rewrites = True
    requests = ("edges", "nodes", "features")
    tasks = ("link_prediction", "node_classification")
    needs = "retained data, reference model, layer outputs, trainable layers"
    cost = "`epochs` passes over the affected part, without the first layer"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}
    modes: ClassVar[dict[str, dict[str, Any]]]

    def __post_init__(self) -> None:
        fill_in(self, self.modes)
        for name, known in (("init", OPERATOR_INITS), ("message_graph", GRAPHS), ("subgraph", SUBGRAPH)):
            check_choice(name, getattr(self, name), known)
        if self.leftover and not self.layerwise:
            raise InvalidInputError("Expected layerwise=True with leftover=True (got False)")
        TrainArguments(self.epochs, self.lr)
        self.objective()

    @abstractmethod
    def objective(self) -> Objective:
        """Return the loss of one layer, on the parts `"forget"` and `"affected"`."""

    def run(self, problem: Problem) -> Outcome:
        partition, model = problem.partition, problem.model
        graph = partition.retain_data if self.message_graph == "retain" else partition.data
        compared = partition.data if self.message_graph == "full" else partition.retain_data
        calls = layer_outputs(problem.reference, problem.task, compared)
        affected = Affected(problem, [name for name, _ in calls])
        if self.message_graph == "affected":
            graph = affected.graph()
        passes = self._passes(problem, graph, affected)
        with only(model, ()):
            attached = attach_operators(model, affected.operators(calls, self.init))
            operators = {deletion.name: deletion.operator for deletion in attached}
            views = {
                name: OperatorView(
                    {o: rows_in(o.get_buffer("nodes"), part) for o in operators.values()},
                    self.layerwise and not self.leftover,
                    keep=not self.dropout,
                )
                for name, (_, part) in passes.items()
            }
            loss = LayerLosses(self.objective(), calls, affected, operators, views, self.fixed_pairs)
            later = LaterGradients([operators[name].weight for name, _ in calls]) if self.leftover else None

            def step() -> ObjectiveValue:
                set_mode(model, self.dropout)
                for name, (data, _) in passes.items():
                    with viewed(operators.values(), views[name]):
                        problem.task.encode(model, data)
                model.eval()
                values = loss.by_call()
                if later is not None:
                    later.see([value.total for value in values])
                return loss.sum(values)

            args = TrainArguments(self.epochs, self.lr, **problem.loop_settings)
            callbacks = problem.callbacks if later is None else [later, *problem.callbacks]
            state = fit(model, step, args, callbacks, penalty=None if later is None else later.swap)
            if state.epoch == 0:
                detach_operators(attached)
        part = passes["message"][1]
        read = "full" if part is None else f"subgraph, {part.ids.numel()} of {graph.num_nodes} nodes"
        notes = {"message_graph": self.message_graph, "graph": read, "affected": affected.sizes()}
        return Outcome(model, state, notes)

    def _passes(self, problem: Problem, graph: Data, affected: Affected) -> dict[str, tuple[Data, Subgraph | None]]:
        """Return what a step reads: the message graph, and the original one if it lacks forgotten nodes."""
        seeds = {"message": (graph, affected.nodes(affected.last))}
        if self.message_graph == "retain" and affected.alone.numel() and "forget" in self.objective().parts:
            seeds["original"] = (problem.partition.data, affected.alone)
        passes: dict[str, tuple[Data, Subgraph | None]] = {name: (data, None) for name, (data, _) in seeds.items()}
        for name, (data, nodes) in seeds.items() if self.subgraph != "never" else ():
            always = self.subgraph == "always"
            found = small_subgraph(problem.reference, problem.task, data, nodes, training=False, always=always)
            if found is not None:
                passes[name] = (found[0].data, found[0])
        return passes


@dataclass(frozen=True)
class GNNDelete(LayerWise):
    """Deleted edge consistency and neighbourhood influence, see `LayerWise`.

    `mode="paper"` follows the authors' code: operators start at 1/1000 everywhere, Adam at 1e-3 for 1500 epochs,
    messages only along the original edges between affected nodes (forgotten ones included), one draw of random pairs
    for all epochs, dropout (if any) stays on, and an operator's step also takes the gradient that the losses of later
    layers left in it at the step before, since their code clears gradients too early. But it returns the last epoch;
    the authors choose one by its score on the forgotten edges. `mode="default"` starts at the identity, passes messages
    over the retained graph, draws new pairs at each step, and lets no other layer's gradient in.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        init: initial value of operators, see `DeletionOperator`.
        message_graph: `"retain"`, `"full"`, or `"affected"`: the original edges between affected nodes.
        layerwise: each operator learns from its own layer's loss only; else from those of later layers too.
        fixed_pairs: draw random pairs once.
        dropout: keep the model's dropout on while operators learn; batch statistics never change.
        leftover: with `layerwise`, add to each step the gradient of later layers' losses at the step before.
        subgraph: read only the part of the graph around the affected nodes: `"auto"` if it holds at most half of the
            edges and gives the outputs of the whole graph, `"always"` or `"never"`.
        alpha: weight of deleted edge consistency against neighbourhood influence, in [0, 1]: 0.5 in the paper, and 0.1
            by default, which changes the other edges far less.
    """

    alpha: float = BY_MODE

    name = "gnndelete"
    summary = "deletion operators after each layer: forgotten pairs look random, their neighbourhood stays"
    compared = "experiments/paper_modes"
    modes: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {**_DEFAULT, "alpha": 0.1},
        "paper": {**_PAPER, "leftover": True, "alpha": 0.5},
    }

    def objective(self) -> Objective:
        check_interval(self, "in [0, 1]", "alpha")
        return weighted((self.alpha, MSEToReference(on="forget")), (1 - self.alpha, MSEToReference(on="affected")))


@dataclass(frozen=True)
class GNNDeleteNI(LayerWise):
    """Neighbourhood influence alone, see `LayerWise`; options of `GNNDelete` without `alpha`.

    The optimum of the operators is the identity, which leaves only the missing messages (`utu`). They start from small
    random numbers; with `init="identity"` the method is `utu` at a higher cost.
    """

    name = "gnndelete_ni"
    summary = "deletion operators that learn to keep the neighbourhood of what is forgotten"
    modes: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {**_DEFAULT, "epochs": 200, "lr": 1e-2, "init": "normal"},
        "paper": _PAPER,
    }

    def objective(self) -> Objective:
        return Objective(((1.0, MSEToReference(on="affected")),))
