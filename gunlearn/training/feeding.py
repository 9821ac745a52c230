"""What the model reads in one step: the whole graph, or the part of it that the step's items depend on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_geometric import typing as pyg
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError, InvalidInputError, MissingExtraError, UnsupportedMethodError
from gunlearn.nn.kernels.subgraph import Subgraph, k_hop_subgraph, part_of, propagation_depth
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.graph.link_prediction import EdgeParts
from gunlearn.tasks.graph.random_nodes import RandomNodeParts
from gunlearn.tasks.sampling import ShuffledBatches, StratifiedSampler
from gunlearn.training.callbacks import Callback, TrainState

SAMPLERS = ("k_hop", "random_node", "neighbor")
SUBGRAPH = ("auto", "never", "always")


@dataclass(frozen=True)
class BatchOptions:
    """How much a step reads; see `GradientMethod` for the fields.

    Raises:
        InvalidInputError: unknown names, numbers below 1, or options that exclude each other.
    """

    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    retain_samples: int | None = None
    subgraph: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, known in (("sampler", SAMPLERS), ("subgraph", SUBGRAPH)):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"Expected '{name}' among {known} (got {getattr(self, name)!r})")
        for name in ("batch_size", "retain_samples"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidInputError(f"Expected '{name}' to be an integer >= 1 or None (got {value!r})")
        if self.batch_size is not None and self.retain_samples is not None:
            raise InvalidInputError("Expected either 'batch_size' or 'retain_samples' (got both)")
        if self.sampler != "k_hop" and self.batch_size is None:
            raise InvalidInputError(f"Expected 'batch_size' for sampler='{self.sampler}' (got None)")
        if (self.num_neighbors is not None) != (self.sampler == "neighbor"):
            raise InvalidInputError(
                f"Expected 'num_neighbors' (one number per layer) with sampler='neighbor' alone "
                f"(got {self.num_neighbors} with '{self.sampler}')"
            )
        if self.sampler == "neighbor" and not (pyg.WITH_PYG_LIB or pyg.WITH_TORCH_SPARSE):
            raise MissingExtraError(
                "Expected pyg-lib or torch-sparse for sampler='neighbor' (got neither); install pyg-lib as PyG's "
                "installation guide says, or use sampler='k_hop', which is exact and needs neither"
            )


class Feed(Callback):
    """Hands out a step's items, and what the model must read for them.

    Args:
        model: the model that will be trained.
        task: what it predicts.
        parts: the problem's parts; limited to what the options ask for.
        names: the parts that the objective reads.
        options: how much a step reads.
        around: the context around training passes; see `GradientMethod.surroundings`.

    Raises:
        UnsupportedMethodError: `subgraph="always"` or a sampler where the model or the task cannot work on a part.

    Attributes:
        note: what the steps read, for the result.
        epoch: steps taken, where the loop tells.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        parts: Parts,
        names: Collection[str],
        options: BatchOptions,
        around: AbstractContextManager | None = None,
    ) -> None:
        """Decide what to read."""
        self.task, self.parts, self.names, self.options = task, parts, tuple(names), options
        self.around = nullcontext() if around is None else around
        self.batches: ShuffledBatches | None = None
        self.extract: Callable[[Tensor], Subgraph] | None = None
        self.note = "full"
        self.epoch = 0
        self._kept: tuple[Subgraph, dict] | None = None
        self._narrow: tuple[Subgraph, AbstractContextManager] | None = None
        self._limit()
        if options.sampler == "neighbor":
            self.extract = _neighbors(parts.data, options.num_neighbors)
            self._check_around()
            self.note = f"sampled neighbours {tuple(options.num_neighbors)}"
        elif options.sampler == "k_hop" and options.subgraph != "never":
            self._choose_k_hop(model)

    def _limit(self) -> None:
        """Let the parts hand out batches or samples of retained items."""
        parts, options = self.parts, self.options
        if options.retain_samples is not None and set(self.names) - {"forget"}:
            strata = parts.strata()
            if options.retain_samples < strata.numel():
                parts.limit(StratifiedSampler(strata, options.retain_samples))
        if options.batch_size is None:
            return
        if not set(self.names) - {"forget"}:
            raise UnsupportedMethodError(
                f"Expected a method that reads retained items for 'batch_size' (got {self.names})"
            )
        # Drawn here, before a checkpoint is read, so that a resumed run has the same permutations.
        seed = int(torch.randint(2**31, ()))
        if options.sampler == "random_node":
            if not isinstance(parts, EdgeParts):
                raise UnsupportedMethodError(
                    f"Expected link prediction for sampler='random_node' (got '{self.task.name}')"
                )
            if "forget" in self.names:
                raise UnsupportedMethodError("Expected no forget part for sampler='random_node' (got one); use 'k_hop'")
            self.parts = RandomNodeParts(parts, options.batch_size, seed)
            self.batches, self.note = self.parts.batches, f"{self.parts.num_parts} random parts of the nodes"
            self._check_around()
            return
        self.batches = ShuffledBatches(parts.strata().numel(), options.batch_size, seed)
        if self.batches.num_batches > 1:
            parts.limit(self.batches)

    def _choose_k_hop(self, model: nn.Module) -> None:
        """Use subgraphs where they are smaller than half of the graph, and right."""
        always, data = self.options.subgraph == "always", self.parts.data
        limited = getattr(self.parts, "draw", None) is not None
        if not always and not limited and set(self.names) - {"forget"}:
            return  # all retained items are read, so the whole graph is
        with isolated_rng():
            seeds = self._seeds(self.parts.sample(self.names))
        if always:
            self._check_around()
            if seeds is None:
                raise UnsupportedMethodError(
                    f"Expected a task on a graph for subgraph='always' (got '{self.task.name}')"
                )
        if seeds is None or not self._narrows():
            return
        found = small_subgraph(model, self.task, data, seeds, training=True, always=always)
        if found is not None:
            subgraph, depth = found
            self.extract = lambda nodes: k_hop_subgraph(data, nodes, depth)
            self.note = f"{depth}-hop subgraph, {subgraph.ids.numel()} of {data.num_nodes} nodes"

    def _seeds(self, items: dict) -> Tensor | None:
        seeds = [self.task.seeds(item) for item in items.values()]
        return None if any(s is None for s in seeds) else torch.cat(seeds)

    def _narrows(self) -> bool:
        return isinstance(self.around, nullcontext) or hasattr(self.around, "on")

    def _check_around(self) -> None:
        if not self._narrows():
            raise UnsupportedMethodError(
                f"Expected surroundings with a method 'on(subgraph)' to work on a part of the graph "
                f"(got {type(self.around).__name__})"
            )

    def on_epoch_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        """Go to the phase and the batch of this step, also after a resume."""
        self.epoch = state.epoch
        if self.batches is not None:
            self.batches.step = state.epoch

    def sample(self) -> dict:
        """Items of every part for one step."""
        return self.parts.sample(self.names)

    def read(self, items: dict) -> tuple[Data, dict, Subgraph | None]:
        """What the model must read for `items`, the items in its terms, and the part of the graph it is, if any."""
        if isinstance(self.parts, RandomNodeParts):
            return self.parts.subgraph.data, items, self.parts.subgraph
        if self.extract is None:
            return self.parts.data, items, None
        if self._kept is None:
            seeds = self._seeds(items)  # none where a process has no share: some node stands in, for its zero gradient
            subgraph = self.extract(seeds if seeds.numel() else seeds.new_zeros(1))
            local = {name: self.task.relabel(item, subgraph) for name, item in items.items()}
            if not all(getattr(item, "fixed", False) for item in items.values()):
                return subgraph.data, local, subgraph
            self._kept = subgraph, local
        return self._kept[0].data, self._kept[1], self._kept[0]

    def surroundings(self, subgraph: Subgraph | None) -> AbstractContextManager:
        """The context around a pass over `subgraph`."""
        if subgraph is None or isinstance(self.around, nullcontext):
            return self.around
        if self._narrow is None or self._narrow[0] is not subgraph:
            self._narrow = subgraph, self.around.on(subgraph)
        return self._narrow[1]


_DROPOUTS = (
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
)


class _NoDropout(TorchFunctionMode):
    """Dropout keeps everything inside the block, so that two passes in training mode can be compared."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "").rstrip("_") in _DROPOUTS and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def small_subgraph(
    model: nn.Module, task: Task, data: Data, seeds: Tensor, training: bool, always: bool = False
) -> tuple[Subgraph, int] | None:
    """The subgraph that the outputs of `seeds` depend on, and its number of hops.

    `None` where it holds more than half of the edges, or the model does not give on it the outputs of the whole graph
    (see `is_exact`): it may hold an embedding per node, say, or mix nodes in other ways than by messages.

    Raises:
        UnsupportedMethodError: with `always`, where the outputs differ in evaluation mode (in training mode batch
            statistics may differ), or it cannot run on a part.
    """
    probe, limit = copy.deepcopy(getattr(model, "_orig_mod", model)), data.edge_index.size(1) // 2
    subgraph, depth, reason = None, 0, "other outputs than on the whole graph"
    try:
        with isolated_rng():
            depth = propagation_depth(probe, data, task.encode)
        subgraph = k_hop_subgraph(data, seeds, depth, None if always else limit)
        exact = subgraph is not None and is_exact(probe, task, data, subgraph, seeds, training and not always)
    except (GunlearnError, RuntimeError, IndexError) as error:  # whatever a model made for one graph raises on another
        exact, reason = False, str(error)
    if exact:
        return subgraph, depth
    if always:
        raise UnsupportedMethodError(
            f"Expected a model that works on a part of the graph for subgraph='always' (got {reason})"
        )
    return None


@torch.no_grad()
def is_exact(model: nn.Module, task: Task, data: Data, subgraph: Subgraph, seeds: Tensor, training: bool) -> bool:
    """Whether the outputs on `seeds` of `model` (a copy to try things on) are the same on the subgraph.

    They are not where it mixes nodes in other ways than by messages (batch normalisation in training mode, graph
    normalisation, global attention), or draws numbers other than dropout.
    """
    model.train(training)
    with isolated_rng(), _NoDropout():
        full = task.encode(model, data)[seeds]
        part = task.encode(model, subgraph.data)[subgraph.relabel(seeds)]
    return bool(torch.allclose(part, full, rtol=1e-4, atol=1e-5 * float(full.abs().max())))


def _neighbors(data: Data, num_neighbors: Collection[int]) -> Callable[[Tensor], Subgraph]:
    """Random neighbours of the seeds by PyG's `NeighborLoader`, through pyg-lib or torch-sparse."""
    from torch_geometric.loader import NeighborLoader

    slim = Data(edge_index=data.edge_index, num_nodes=data.num_nodes)
    loader = NeighborLoader(slim, num_neighbors=list(num_neighbors), batch_size=1)

    def extract(seeds: Tensor) -> Subgraph:
        batch = loader(seeds.unique().cpu())
        device = data.edge_index.device
        return part_of(data, batch.n_id.to(device), batch.e_id.to(device), batch.edge_index.to(device))

    return extract
