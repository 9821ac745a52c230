"""GraphEraser: shards of the graph with a model each; a request retrains the shards it touches (arXiv 2103.14991)."""

import copy
import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.core.checks import check_choice
from gunlearn.cost import Stopwatch
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.base import Method, Outcome, Problem, check_interval, check_whole
from gunlearn.methods.shards.partitioning import balanced_kmeans, label_propagation, random_partition
from gunlearn.nn.kernels.subgraph import part_of
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.node_classification import training_nodes
from gunlearn.training.from_scratch import reset_model, train_from_scratch
from gunlearn.training.loop import TrainArguments


class ShardEnsemble(nn.Module):
    """Models of shards as one model: the logarithm of the weighted mean of their predicted probabilities.

    Called as `model(x, edge_index)` on the whole graph, with `edge_weight` and `edge_attr` if the shards' models take
    them. Weights start equal, see `fit_weights`. `draws` counts how often each shard got new parameters, so that they
    differ each time under the same seed.

    Args:
        model: each shard gets a copy of it.
        shard: the shard of each node, integers `[num_nodes]`.
    """

    shard: Tensor
    weight: Tensor
    draws: Tensor

    def __init__(self, model: nn.Module, shard: Tensor, num_shards: int) -> None:
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(model) for _ in range(num_shards))
        self.register_buffer("shard", shard)
        self.register_buffer("weight", torch.full((num_shards,), 1 / num_shards, device=shard.device))
        self.register_buffer("draws", torch.zeros(num_shards, dtype=torch.long, device=shard.device))
        names = inspect.signature(model.forward).parameters
        self.takes = tuple(name for name in ("edge_weight", "edge_attr") if name in names)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Return log-probabilities `[num_nodes, num_classes]`."""
        optional = {"edge_weight": edge_weight, "edge_attr": edge_attr}
        given = {name: optional[name] for name in self.takes if optional[name] is not None}
        logits = torch.stack([model(x, edge_index, **given).log_softmax(dim=-1) for model in self.models])
        return (logits + self.weight.log().view(-1, 1, 1)).logsumexp(dim=0)


@dataclass(frozen=True)
class GraphEraser(Method):
    r"""Trains a model on each shard of the graph; a request retrains the shards that hold what is forgotten.

    A shard is a set of nodes with the edges among them; edges between shards are lost. The result is a `ShardEnsemble`:
    each shard's model reads the whole retained graph, and its probabilities are averaged with weights
    :math:`w \ge 0, \sum w = 1` that maximise the likelihood of the retained training nodes, by EM (the authors take the
    softmax of a weighted sum, fitted by Adam).

    A request touches the shards of forgotten nodes, of nodes that lose features, and of forgotten edges; an edge
    between shards touches none. Touched shards are trained from new weights on the rest of their data, the others stay
    as they are, bit by bit. So the shards' *models* are exactly as if they had never seen the forgotten data; the
    partition was made with it, and stays.

    A model that is no `ShardEnsemble` is first partitioned and trained in shards; `notes` hold `touched` shards,
    `setup_seconds` and `request_seconds`. Pass the result and its `data` to the next request to skip the setup.

    No link prediction: shards train apart, so their embeddings have unrelated axes.

    Args:
        num_shards: k, 10 to 100 in the paper; more shards make requests cheaper and the model worse.
        partition: `"blpa"`, balanced label propagation; `"bekm"`, balanced k-means on the model's outputs; `"random"`.
        slack: how much larger than `n / k` a shard may be, as a share.
        aggregation: `"learned"` weights or the `"mean"`.
        shard_epochs: optimiser steps for each shard.
        weight_decay: Adam's L2 penalty.
        eval_every: steps between validations on the shard's validation nodes, to keep the best; `None` keeps the last.
    """

    num_shards: int = 4
    partition: str = "blpa"
    slack: float = 0.1
    aggregation: str = "learned"
    shard_epochs: int = 200
    lr: float = 1e-2
    weight_decay: float = 0.0
    eval_every: int | None = 50

    name = "grapheraser"
    summary = "a model per shard of the graph; those of touched shards are trained again"
    paper = "arXiv 2103.14991"
    rewrites = True
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "retained data, retraining"
    state = "own"
    cost = "a training of the touched shards"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "bekm": {"partition": "bekm"}}

    def __post_init__(self) -> None:
        check_whole(self, num_shards=1)
        check_choice("partition", self.partition, ("blpa", "bekm", "random"))
        check_choice("aggregation", self.aggregation, ("learned", "mean"))
        check_interval(self, ">= 0", "slack")
        self._arguments()

    @property
    def label(self) -> str:
        return "default" if self.partition == "blpa" else self.partition

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if getattr(task, "call", None) is not None:
            raise UnsupportedMethodError(
                "Expected a model called as model(x, edge_index) for 'grapheraser', whose result is an ensemble "
                "that is called in that way (got a 'call')"
            )

    def run(self, problem: Problem) -> Outcome:
        watch, request, model = Stopwatch(), problem.partition, problem.model
        data, given = request.data, isinstance(model, ShardEnsemble)
        if isinstance(model, ShardEnsemble):
            ensemble = model
            if ensemble.shard.numel() != data.num_nodes:
                raise UnsupportedModelError(
                    f"Expected an ensemble of shards of {data.num_nodes} nodes (got {ensemble.shard.numel()})"
                )
        else:
            ensemble = ShardEnsemble(model, self._shards(problem), self.num_shards).requires_grad_()
        touched = touched_shards(ensemble.shard, request)
        if not given:
            for number in sorted(set(range(self.num_shards)) - set(touched)):
                self._train(ensemble, number, data, problem)
        setup = 0.0 if given else watch.seconds
        for number in touched:
            self._train(ensemble, number, request.retain_data, problem)
        fit_weights(ensemble, request.retain_data, problem.task, self.aggregation == "learned")
        sizes = torch.bincount(ensemble.shard, minlength=len(ensemble.models)).tolist()
        notes = {
            "touched": touched,
            "shard_sizes": sizes,
            "weights": ensemble.weight.tolist(),
            "setup_seconds": setup,
            "request_seconds": watch.seconds - setup,
        }
        return Outcome(ensemble.eval(), notes=notes)

    @torch.no_grad()
    def _shards(self, problem: Problem) -> Tensor:
        """Return the shard of each node, before the first request."""
        data = problem.partition.data
        size = int(data.num_nodes)
        if self.num_shards > size:
            raise InvalidInputError(f"Expected at most {size} shards, one per node (got {self.num_shards})")
        if self.partition == "random":
            return random_partition(size, self.num_shards).to(data.edge_index.device)
        if self.partition == "blpa":
            return label_propagation(data.edge_index, size, self.num_shards, self.slack)
        return balanced_kmeans(problem.task.encode(problem.reference, data), self.num_shards, self.slack)

    def _train(self, ensemble: ShardEnsemble, number: int, data: Data, problem: Problem) -> None:
        """Train one shard's model from new weights, under a random state of its own."""
        learns = (ensemble.shard[training_nodes(data).index] == number).any()
        draws = int(ensemble.draws[number])
        ensemble.draws[number] += 1
        with isolated_rng(problem.seed * 1_000_003 + draws * len(ensemble.models) + number):
            fresh = reset_model(ensemble.models[number]).requires_grad_()
            ensemble.models[number] = fresh
            if learns:
                part = shard_graph(data, ensemble.shard, number)
                try:
                    train_from_scratch(fresh, part, problem.task, self._arguments())
                except RuntimeError as error:
                    raise UnsupportedModelError(
                        f"Expected a model that works on the nodes of one shard, not on the whole graph alone (got "
                        f"{str(error).splitlines()[0][:120]})"
                    ) from error

    def _arguments(self) -> TrainArguments:
        keep = "last" if self.eval_every is None else "best"
        return TrainArguments(self.shard_epochs, self.lr, self.weight_decay, eval_every=self.eval_every, keep=keep)


def touched_shards(shard: Tensor, request: Any) -> list[int]:
    """Return the sorted shards that hold something forgotten; `shard` is that of each node `[num_nodes]`."""
    ends = shard[request.forget_edge_index]
    inside = ends[0, ends[0] == ends[1]]
    return torch.cat([inside, shard[request.forget_nodes], shard[request.feature_nodes]]).unique().tolist()


def shard_graph(data: Data, shard: Tensor, number: int) -> Data:
    """Return the nodes of one shard and the edges among them."""
    inside = shard == number
    place = inside.cumsum(0) - 1
    edges = inside[data.edge_index].all(dim=0).nonzero().view(-1)
    return part_of(data, inside.nonzero().view(-1), edges, place[data.edge_index[:, edges]]).data


@torch.no_grad()
def fit_weights(ensemble: ShardEnsemble, data: Data, task: Task, learned: bool, steps: int = 200) -> None:
    """Set the weights of shards with training nodes of the retained graph; the others get zero.

    With `learned` they maximise the mixture's likelihood by `steps` of EM; else they are equal.
    """
    items = training_nodes(data)
    alive = torch.zeros_like(ensemble.weight, dtype=torch.bool)
    alive[ensemble.shard[items.index].unique()] = True
    weight = alive / alive.sum()
    if learned:
        ensemble.eval()
        log_prob = [task.predict(model, data, items).log_prob for model in ensemble.models]
        prob = torch.stack(log_prob, dim=1).double().exp()
        weight = weight.double()
        for _ in range(steps):
            share = prob * weight
            weight = (share / share.sum(dim=1, keepdim=True).clamp_min(1e-300)).mean(dim=0)
        weight = weight / weight.sum()
    ensemble.weight.copy_(weight)
