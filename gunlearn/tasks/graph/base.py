"""The base of tasks on a graph: how a model is called on it."""

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.fast import fast_path
from gunlearn.nn.kernels.paths import path_of
from gunlearn.tasks.base import Parts, Reader, Task, View
from gunlearn.tasks.graph.beside import beside
from gunlearn.tasks.graph.fresh_values import FreshValues
from gunlearn.tasks.graph.node_state import forgotten_state
from gunlearn.tasks.graph.reading import APART, GraphReader, parts_apart
from gunlearn.tasks.sampling import BatchOptions


class GraphTask(Task):
    """A task whose model reads a graph in one pass and returns a row per node.

    The model is called as `model(x, edge_index)`, with `edge_weight` and `edge_attr` too where its signature names
    them and the data has them.
    """

    rows: ClassVar[tuple[str, str]] = ("embeddings", "dim")  # of the output, and their size, for error messages
    shared_pass = True

    def reader(
        self, model: nn.Module, parts: Parts, names: tuple[str, ...], options: BatchOptions, around: Any
    ) -> Reader:
        return GraphReader(model, self, parts, names, options, around)

    def check_data(self, data: Any) -> Data:
        check_graph(data)
        return data

    def adopt(self, model: nn.Module) -> nn.Module:
        """Empty the caches of layers with `cached=True`, which hold the forgotten edges, and turn caching off."""
        layer: Any
        for layer in model.modules():
            if getattr(layer, "cached", None) is True:
                layer.cached = False
                for name in CACHES:
                    if name in layer.__dict__:
                        setattr(layer, name, None)
        return model

    def forgotten_state(self, model: nn.Module, partition: Any, seed: int) -> FreshValues | None:
        """Return new values for rows of embeddings, biases and memories that belong to forgotten nodes."""
        found = forgotten_state(model, self, partition, seed)
        return found if found.slices or found.records else None

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        """Return how the layers ran: CSR products or gather-scatter."""
        path = path_of(model)
        return {} if path is None else {"path": path}

    def entry(self, model: nn.Module) -> Callable[..., Any]:
        """Return the callable to run."""
        return model

    def num_rows(self, data: Data) -> int:
        """Return the number of rows of the output."""
        return int(data.num_nodes)

    def encode(self, model: nn.Module, data: Data) -> Tensor:
        """Return one row per node, `[num_nodes, dim]`.

        A model that does not return a floating point row per node raises `UnsupportedModelError`.
        """
        apart = parts_apart(data)
        if apart:  # of a model of one graph only, which cannot read two joined
            out = torch.cat([self.encode(model, part) for part in apart])
            setattr(out, APART, int(apart[0].num_nodes))  # for decoders that look nodes up by number
            return out
        accepted = self.accepted(model)
        optional = {key: data[key] for key in accepted if key in data and data[key] is not None}
        x = data.x
        if isinstance(x, Tensor):
            sparse_features(x)  # made once, where features are bags of words; linear maps find it
        try:
            with fast_path(model):
                out = self.entry(model)(x, data.edge_index, **optional)
        except (RuntimeError, NotImplementedError) as error:
            if not isinstance(x, Tensor) or x.layout == torch.strided or "Sparse" not in str(error):
                raise
            raise UnsupportedModelError(
                f"Expected a model that takes features of layout {x.layout} (got {type(model).__name__}: "
                f"{str(error).splitlines()[0][:120]}); pass x.to_dense()"
            ) from error
        number, (name, size) = self.num_rows(data), self.rows
        if isinstance(out, Tensor) and out.dim() == 2 and out.size(0) == number and out.is_floating_point():
            return out
        got = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        raise UnsupportedModelError(f"Expected the model to return {name} of shape [{number}, {size}] (got {got})")

    def graphs(self, view: View, forget: Tensor) -> tuple[Data, Callable[[Tensor], Tensor]]:
        """Return the graph that is read while unlearning, and a function to the places of forgotten items' nodes in it.

        `forget` are the nodes of forgotten items, in any order `[k]`.
        """
        partition, which = view.partition, view.message_graph
        if which not in ("retain", "full"):
            raise InvalidInputError(f"Expected 'message_graph' to be 'retain' or 'full' (got '{which}')")
        data = partition.retain_data if which == "retain" else partition.data
        whole = which == "full" or partition.forgets == ("edges",)
        if whole or not view.reads("forget") or not forget.numel():
            return data, lambda nodes: nodes
        return self.joined(view, forget)

    def joined(self, view: View, forget: Tensor) -> tuple[Data, Callable[[Tensor], Tensor]]:
        """Return the retained graph with the original part for forgotten nodes beside it; see `graphs`."""
        return beside(view.partition.retain_data, view.partition.data, forget, view.model, self)

    @abstractmethod
    def held_out_items(self, data: Data, part: str) -> Any | None:
        """Return the items of the `"val"` or `"test"` part of a split; `None` where `data` holds none."""

    def validation_items(self, data: Data) -> Any | None:
        return self.held_out_items(data, "val")

    def accepted(self, model: nn.Module) -> list[str]:
        """Return the names of the optional arguments that the model takes."""
        inner = getattr(model, "_orig_mod", model)  # the wrapper of torch.compile takes anything
        function = self.entry(inner)
        names = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
        return [key for key in ("edge_weight", "edge_attr", "edge_type", "node_type") if key in names]


def check_graph(data: Any) -> None:
    """Refuse an object that is no graph, and features that are not finite or in a layout that no model reads."""
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected 'data' to be a torch_geometric Data (got {type(data).__name__})")
    x = data.get("x")
    if isinstance(x, Tensor) and x.layout not in (torch.strided, torch.sparse_csr):
        raise InvalidInputError(f"Expected dense or CSR features 'x' (got {x.layout}); pass x.to_sparse_csr()")
    if isinstance(x, Tensor) and x.is_floating_point():
        values = x.values() if x.layout == torch.sparse_csr else x
        if not torch.isfinite(values).all():
            raise InvalidInputError("Expected finite features 'x' (got NaN or infinity)")
