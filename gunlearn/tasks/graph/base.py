"""The base of tasks on a graph: how a model is called on it."""

import copy
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.fast import fast_path
from gunlearn.nn.kernels.paths import path_of
from gunlearn.requests.graph_tensors import GONE
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Reader, Task, View
from gunlearn.tasks.calling import Called, own_words, place_of_rows, suggested
from gunlearn.tasks.graph.beside import beside
from gunlearn.tasks.graph.check_graph import check_graph
from gunlearn.tasks.graph.derived import warn_of_derived
from gunlearn.tasks.graph.edge_arguments import warn_of_edge_arguments
from gunlearn.tasks.graph.enclosed import check_own_argument
from gunlearn.tasks.graph.feature_copies import add_feature_copies, warn_of_feature_copies
from gunlearn.tasks.graph.fresh_values import FreshValues
from gunlearn.tasks.graph.kept_outside import warn_of_kept_outside
from gunlearn.tasks.graph.modules_outside import warn_of_modules_outside
from gunlearn.tasks.graph.node_state import forgotten_state
from gunlearn.tasks.graph.own_caches import check_own_caches
from gunlearn.tasks.graph.reading import APART, GraphReader, parts_apart
from gunlearn.tasks.graph.stored_graphs import check_stored_graphs, check_weights_by_edge
from gunlearn.tasks.graph.what_is_read import check_edges_are_read, unread
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.tasks.trial import private_copy


class GraphTask(Task):
    """A task whose model reads a graph in one pass and returns a row per node.

    The model is called as `model(x, edge_index)`, with `edge_weight`, `edge_attr`, `edge_type` and `node_type` too
    where its signature names them and the data has them; or as `call(model, data)`, where `called` was given a function
    of the caller's own.
    """

    rows: ClassVar[tuple[str, str]] = ("embeddings", "dim")  # of the output, and their size, for error messages
    shared_pass = True
    per_node: ClassVar[bool] = True  # a row of the output belongs to a node
    items_are_pairs: ClassVar[bool] = False  # of nodes: a forgotten edge is a label, too
    #: The caller's own function `call(model, data)`.
    call: Called | None = None

    def called(self, call: Callable[..., Any] | None = None, decode: Callable[..., Any] | None = None) -> Task:
        """Return the task with the caller's own way to call a model.

        Args:
            call: `call(model, data)` returns what the model computes, a row per node. It must read the graph that it is
                given, which changes: edges and features are missing, nodes renumbered, two graphs put side by side.
            decode: for link prediction, `decode(model, z, pairs)` returns a logit per pair `[2, num_pairs]` from the
                rows `z`.

        Raises:
            InvalidInputError: `decode` for another task.
            InvalidTypeError: not a function.
        """
        if decode is not None:
            raise InvalidInputError(f"Expected 'decode' for link prediction alone (got task '{self.name}')")
        if call is None:
            return self
        task = copy.copy(self)
        task.call = call if isinstance(call, Called) else Called("call", call)
        return task

    def reader(
        self, model: nn.Module, parts: Parts, names: tuple[str, ...], options: BatchOptions, around: Any
    ) -> Reader:
        return GraphReader(model, self, parts, names, options, around)

    def check_model(self, model: nn.Module) -> None:
        """Warn of modules that `call` or `decode` runs beside the model; see `modules_outside`."""
        warn_of_modules_outside(self, model)

    def check_data(self, data: Any) -> Data:
        """Return the graph; see `check_graph`."""
        return check_graph(data)

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
        """Return new values for what a model keeps of forgotten nodes (embeddings, memories) and features (copies)."""
        found = forgotten_state(model, self, partition, seed)
        add_feature_copies(found, model, partition)
        return found if found.slices or found.records else None

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        """Return how the layers ran: CSR products or gather-scatter."""
        path = path_of(model)
        named = {"call": repr(self.call)} if self.call is not None else {}
        return named if path is None else {"path": path, **named}

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
            out = torch.cat([GraphTask.encode(self, model, part) for part in apart])
            setattr(out, APART, int(apart[0].num_nodes))  # for decoders that look nodes up by number
            return out
        x = data.x
        if isinstance(x, Tensor):
            sparse_features(x)  # made once, where features are bags of words; linear maps find it
        words, run = self._call(model, data)
        with own_words(model, data, words), fast_path(model):
            try:
                out = run()
            except (RuntimeError, NotImplementedError) as error:
                if not isinstance(x, Tensor) or x.layout == torch.strided or "Sparse" not in str(error):
                    raise
                raise UnsupportedModelError(
                    f"Expected a model that takes features of layout {x.layout} (got {type(model).__name__}: "
                    f"{str(error).splitlines()[0][:120]}); pass x.to_dense()"
                ) from error
        number, (name, size) = self.num_rows(data), self.rows
        out = self.shaped(out, number)
        if isinstance(out, Tensor) and out.dim() == 2 and out.size(0) == number and out.is_floating_point():
            return out
        how, remedy = words(place_of_rows(out, number))
        got = f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        raise UnsupportedModelError(
            f"Expected the model to return {name} of shape [{number}, {size}] (got {got} from {how}); pass {remedy}"
        )

    def shaped(self, out: Any, number: int) -> Any:
        """Return the model's output for `number` items in the shape `[number, dim]`, where a task takes others."""
        return out

    def _call(self, model: nn.Module, data: Data) -> tuple[Callable[..., tuple[str, str]], Callable[[], Any]]:
        """Return a function to the call in words and what to pass if it fails, and the call itself.

        The function takes code that reads the rows out of what the model returns; see `place_of_rows`.
        """
        call = self.call
        if call is not None:

            def of_call(read: str = "") -> tuple[str, str]:
                part = f" that returns {read} of it" if read else ""
                return f"'call' ({call!r})", f"another 'call'{part}{_lost_ids(data)}"

            return of_call, lambda: call(model, data)
        entry, accepted = self.entry(model), self.accepted(model)
        optional = {key: data[key] for key in accepted if key in data and data[key] is not None}

        def words(read: str = "") -> tuple[str, str]:
            name = "model" if entry is model else f"model.{getattr(entry, '__name__', 'encode')}"
            how = f"{name}(x, edge_index{''.join(f', {key}={key}' for key in optional)})"
            return how, suggested(self.entry(getattr(model, "_orig_mod", model)), data, optional, read)

        return words, lambda: entry(data.x, data.edge_index, **optional)

    def check_trial(self, model: nn.Module, data: Data, outputs: Tensor) -> None:
        """Refuse a `call` that reads another graph than its argument, and a model with a cache of its own.

        See `what_is_read`, `enclosed` and `own_caches`.
        """
        check_edges_are_read(self, model, data, outputs)
        check_own_argument(self, model, data)
        check_own_caches(self, model, data, outputs)

    def warn_of_derived(self, data: Data, edges: bool, features: bool) -> None:
        """Warn of positional encodings, degrees, normalised weights and the like; see `derived`."""
        warn_of_derived(data, edges, features)

    def warn_of_arguments(self, model: nn.Module, data: Data, outputs: Tensor, passed: bool = True) -> str:
        """Warn of weights of edges; see `edge_arguments`."""
        return warn_of_edge_arguments(self, model, data, outputs, passed)

    def check_parts(self, model: nn.Module, partition: Any) -> None:
        """Refuse a model with a weight per edge that cannot be called on fewer edges; see `stored_graphs`."""
        check_weights_by_edge(model, self, partition)

    def check_request(self, model: nn.Module, partition: Any, outputs: Tensor | None, anew: bool) -> str:
        """Warn of what stays of a request where no method can take it out; see `derived` and `stored_graphs`.

        Without `outputs`, what the model reads is known from an earlier request of the same kind.
        """
        if partition.forgets != ("graphs",):  # what was computed from another graph of a batch knows nothing of it
            gone = bool(partition.forget_edge_index.numel())
            self.warn_of_derived(partition.data, gone, partition.forgets != ("edges",))
        around = warn_of_kept_outside(model, self, partition)
        if anew:
            warn_of_feature_copies(model, partition)
        stored = check_stored_graphs(model, self, partition, refuse=not anew)
        said = "" if stored or around or outputs is None else unread(self, model, partition, outputs)
        if said:
            warnings.warn(said, stacklevel=3)
        return f"{said}." if said else ""

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
        joint, place = self.joined(view, forget)
        if view.model is not None:
            self._check_joint(view.model, joint, data)
        return joint, place

    def _check_joint(self, model: nn.Module, joint: Data, alone: Data) -> None:
        """Refuse a model that cannot read two graphs side by side; warn of one that mixes their nodes.

        A model does where it holds a row for each node of one graph, or by global attention or normalisation.
        """
        probe = private_copy(getattr(model, "_orig_mod", model), self).eval()
        remedy = (
            "take a method that reads retained items alone, such as 'finetune', or one with an option "
            "message_graph='full', such as 'continued_training', which reads them on the original graph"
        )
        with torch.no_grad(), isolated_rng():
            apart = self.encode(probe, alone)
            try:
                together = self.encode(probe, joint)[: apart.size(0)]
            except UnsupportedModelError as error:
                said = error.__cause__ or str(error).partition("; pass ")[0]  # what it advises is not for this graph
                raise UnsupportedModelError(
                    "Expected a model that can read two graphs side by side, since forgotten items are read on the "
                    f"original graph beside the retained one (got {said}); {remedy}"
                ) from error
        if not torch.allclose(together, apart, rtol=1e-3, atol=1e-3 * float(apart.abs().max()), equal_nan=True):
            warnings.warn(
                "the model mixes nodes of unconnected graphs (global attention, or normalisation over all nodes): its "
                "outputs on the retained graph change where the original is read beside it for the forgotten items; "
                f"{remedy}",
                stacklevel=2,
            )

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


def _lost_ids(data: Data) -> str:
    """Return what to say of ids that forgotten nodes have lost, where a model may look them up."""
    ids = [name for name in sorted(data.keys()) if name.endswith("_id") and data.get(GONE) is not None]
    named = [f"data.{name}" for name in ids if isinstance(data[name], Tensor) and bool((data[name] == -1).any())]
    return f" (forgotten nodes have -1 in {', '.join(named)}: look up .clamp(min=0))" if named else ""
