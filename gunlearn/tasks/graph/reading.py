"""Input of a graph model in one step: the whole graph, or the part of it that the step's items depend on."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_geometric import typing as pyg
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader

from gunlearn.errors import GunlearnError, MissingExtraError, UnsupportedMethodError
from gunlearn.nn.kernels.subgraph import Subgraph, k_hop_subgraph, part_of, propagation_depth
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Reader, Task
from gunlearn.tasks.graph.node_places import looks_nodes_up
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.tasks.trial import private_copy

APART = "_apart"  # where a joint graph keeps the graphs that a model of one graph only reads one after the other


def parts_apart(data: Data) -> tuple[Data, ...]:
    """Return the graphs that a joint graph is read as, one after the other; none if it is read as one."""
    return data.__dict__.get(APART, ())


class GraphReader(Reader):
    """Reads subgraphs where they are smaller than half of the graph, and give the outputs of the whole.

    The arguments are those of `Task.reader`.

    Raises:
        UnsupportedMethodError: `subgraph="always"` or a sampler where the model or the context cannot work on a part.
        MissingExtraError: `sampler="neighbor"` without pyg-lib and torch-sparse.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        parts: Parts,
        names: tuple[str, ...],
        options: BatchOptions,
        around: AbstractContextManager | None = None,
    ) -> None:
        super().__init__(parts, around)
        self.task, self.names, self.options = task, names, options
        self.extract: Callable[[Tensor], Subgraph] | None = None
        self._kept: tuple[Subgraph, dict] | None = None
        self._beside: Subgraph | None = None
        self._narrow: tuple[Subgraph, AbstractContextManager] | None = None
        self.choose(model)

    def choose(self, model: nn.Module) -> None:
        """Decide what to read."""
        options, task = self.options, self.task
        if options.sampler == "random_node":
            raise UnsupportedMethodError(f"Expected link prediction for sampler='random_node' (got '{task.name}')")
        if options.sampler == "neighbor":
            self.extract = _neighbors(self.parts.data, options.num_neighbors or ())
            self.check_around()
            self.note = f"sampled neighbours {tuple(options.num_neighbors or ())}"
        elif options.subgraph != "never":
            self._choose_k_hop(model)

    def _choose_k_hop(self, model: nn.Module) -> None:
        """Read subgraphs where they are small and exact."""
        always, data = self.options.subgraph == "always", self.parts.data
        if not always and "retain" not in (self.parts.draws or {}) and set(self.names) - {"forget"}:
            return  # all retained items are read, so the whole graph is
        if always:
            self.check_around()
        with isolated_rng():
            seeds = self._seeds(self.parts.sample(self.names), needed=always)
        if seeds is None or not self._narrows():
            return
        found = small_subgraph(model, self.task, data, seeds, training=True, always=always)
        if found is not None:
            subgraph, depth = found
            self.extract = lambda nodes: k_hop_subgraph(data, nodes, depth)
            self.note = f"{depth}-hop subgraph, {subgraph.ids.numel()} of {data.num_nodes} nodes"

    def _seeds(self, items: dict, needed: bool) -> Tensor | None:
        """Return the nodes that the items read; `None` for items of another kind, unless nodes are needed."""
        given = [self.task.seeds(item) for item in items.values()]
        seeds = [s for s in given if s is not None]
        if len(seeds) == len(given):
            return torch.cat(seeds)
        if needed:
            raise UnsupportedMethodError(
                f"Expected a task of nodes or pairs to read a part of the graph (got '{self.task.name}')"
            )
        return None

    def _narrows(self) -> bool:
        return isinstance(self.around, nullcontext) or hasattr(self.around, "on")

    def check_around(self) -> None:
        """Refuse a context that works on the whole graph alone."""
        if not self._narrows():
            raise UnsupportedMethodError(
                f"Expected surroundings with a method 'on(subgraph)' to work on a part of the graph "
                f"(got {type(self.around).__name__})"
            )

    def read(self, items: dict, needed: Collection[str] | None = None) -> tuple[Data, dict, Subgraph | None]:
        if self.extract is None:
            if self.parts.apart and needed is not None and set(needed) <= {"forget"} <= set(items):
                original = self._original(items["forget"])
                if original is not None:
                    return original.data, {"forget": self.task.relabel(items["forget"], original)}, original
            return super().read(items, needed)
        if self._kept is None:
            seeds = cast(Tensor, self._seeds(items, needed=True))
            # A process without items reads one node, so that its gradient is zero, not missing.
            subgraph = self.extract(seeds if seeds.numel() else seeds.new_zeros(1))
            local = {name: self.task.relabel(item, subgraph) for name, item in items.items()}
            if not all(getattr(item, "fixed", False) for item in items.values()):
                return subgraph.data, local, subgraph
            self._kept = subgraph, local
        return self._kept[0].data, self._kept[1], self._kept[0]

    def _original(self, forget: Any) -> Subgraph | None:
        """Return the part of the original graph beside the retained one, if it holds all forgotten items."""
        retained, data, seeds = self.parts.retained, self.parts.data, self.task.seeds(forget)
        if retained is None or seeds is None or parts_apart(data) or not self._narrows():
            return None
        size = int(retained.num_nodes)
        if not seeds.numel() or int(seeds.min()) < size:
            return None
        if self._beside is None:
            edges = (data.edge_index[0] >= size).nonzero().view(-1)
            nodes = torch.arange(size, int(data.num_nodes), device=edges.device)
            self._beside = part_of(data, nodes, edges, data.edge_index[:, edges] - size)
        return self._beside

    def surroundings(self, subgraph: Subgraph | None) -> AbstractContextManager:
        if subgraph is None or isinstance(self.around, nullcontext):
            return self.around
        if self._narrow is None or self._narrow[0] is not subgraph:
            self._narrow = subgraph, self.around.on(subgraph)
        return self._narrow[1]


_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d"}
_DROPOUTS |= {"alpha_dropout", "feature_dropout", "feature_alpha_dropout"}


class _NoDropout(TorchFunctionMode):
    """Dropout keeps everything inside the block, so that two passes in training mode can be compared."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "").rstrip("_") in _DROPOUTS and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def small_subgraph(
    model: nn.Module,
    task: Task,
    data: Data,
    seeds: Tensor,
    training: bool,
    always: bool = False,
    share: float = 0.5,
) -> tuple[Subgraph, int] | None:
    """Return the subgraph that the outputs of `seeds` depend on, and its number of hops.

    `None` where it holds more than a `share` of the edges, or the model's outputs on it differ from those on the whole
    graph (see `is_exact`). With `always`, `share` does not count, outputs are compared in evaluation mode alone (in
    training mode batch statistics may differ), and a difference raises `UnsupportedMethodError`.
    """
    probe, limit = private_copy(getattr(model, "_orig_mod", model), task), int(share * data.edge_index.size(1))
    reason = "other outputs than on the whole graph"
    try:
        if parts_apart(data) or looks_nodes_up(probe, int(data.num_nodes)):
            raise UnsupportedMethodError("a model that is made for the nodes of one graph")
        with isolated_rng():
            depth = propagation_depth(probe, data, task.encode)
        subgraph = k_hop_subgraph(data, seeds, depth, None if always else limit)
        if subgraph is not None and is_exact(probe, task, data, subgraph, seeds, training and not always):
            return subgraph, depth
    except (GunlearnError, RuntimeError, IndexError) as error:  # errors of a model made for one graph
        reason = str(error)
    if always:
        raise UnsupportedMethodError(
            f"Expected a model that works on a part of the graph for subgraph='always' (got {reason})"
        )
    return None


@torch.no_grad()
def is_exact(model: nn.Module, task: Task, data: Data, subgraph: Subgraph, seeds: Tensor, training: bool) -> bool:
    """Return whether `model` (a copy, which may be changed) gives the same outputs of `seeds` on the subgraph.

    It does not where it mixes nodes in other ways than by messages (batch normalisation in training mode, graph
    normalisation, global attention), or draws numbers other than dropout.
    """
    model.train(training)
    with isolated_rng(), _NoDropout():
        full = task.encode(model, data)[seeds]
        part = task.encode(model, subgraph.data)[subgraph.relabel(seeds)]
    return bool(torch.allclose(part, full, rtol=1e-4, atol=1e-5 * float(full.abs().max())))


def _neighbors(data: Data, num_neighbors: Collection[int]) -> Callable[[Tensor], Subgraph]:
    """Return a function that samples neighbours of seeds by PyG's `NeighborLoader`."""
    if not (pyg.WITH_PYG_LIB or pyg.WITH_TORCH_SPARSE):
        raise MissingExtraError(
            "Expected pyg-lib or torch-sparse for sampler='neighbor' (got neither); install pyg-lib as PyG's "
            "installation guide says, or use sampler='k_hop', which is exact and needs neither"
        )
    slim = Data(edge_index=data.edge_index, num_nodes=data.num_nodes)
    loader = NeighborLoader(slim, num_neighbors=list(num_neighbors), batch_size=1)

    def extract(seeds: Tensor) -> Subgraph:
        batch = loader(seeds.unique().cpu())
        device = data.edge_index.device
        return part_of(data, batch.n_id.to(device), batch.e_id.to(device), batch.edge_index.to(device))

    return extract
