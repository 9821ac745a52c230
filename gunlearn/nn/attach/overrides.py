"""Callables that replace a layer's `forward`, `propagate` or `message` while something is attached to it.

They are instance attributes, not hooks: `torch.compile` puts no guard on empty hook dictionaries, so it ignores a hook
registered after the first compiled call of a model without graph breaks (SAGE, GIN), and it always skips PyG's message
hooks. It guards instance attributes, so overrides take effect without a `torch._dynamo.reset()`, which would discard
every compiled model of the process. They also keep PyG's generated `propagate`, faster than that of `explain=True`.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidTypeError, UnsupportedModelError
from gunlearn.nn.attach.edge_lookup import EdgeLookup, adjacency_values, edge_pairs, keep_edges
from gunlearn.nn.kernels.memo import Store


class Override:
    """Replaces one method of one layer, and can call the previous method.

    Module-level and picklable: a copy of the layer taken meanwhile carries its own copy of the override.
    """

    method = "forward"

    def __init__(self, layer: nn.Module, name: str) -> None:
        self.layer = layer
        self.name = name
        # `None` means the class's own method: a bound method could not be pickled inside its own layer.
        self.previous: Callable[..., Any] | None = None

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """Call the replaced method."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return getattr(type(self.layer), self.method)(self.layer, *args, **kwargs)

    def install(self) -> None:
        """Replace the method, and remember the previous one."""
        self.previous = self.layer.__dict__.get(self.method)
        self.layer.__dict__[self.method] = self

    def uninstall(self) -> None:
        """Restore the method, also from under overrides installed later."""
        top = self.layer.__dict__.get(self.method)
        if top is self:
            if self.previous is None:
                del self.layer.__dict__[self.method]
            else:
                self.layer.__dict__[self.method] = self.previous
            return
        while isinstance(top, Override):
            if top.previous is self:
                top.previous = self.previous
                return
            top = top.previous


@contextmanager
def installed(overrides: Iterable[Override]) -> Iterator[None]:
    """Inside the block the overrides replace their methods; the last one is called first."""
    with ExitStack() as stack:
        for override in overrides:
            override.install()
            stack.callback(override.uninstall)
        yield


class EdgeOverride(Override):
    """An override that treats some edges of the layer's graph differently."""

    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, lookup: EdgeLookup, strict: bool) -> None:
        super().__init__(layer, name)
        self.lookup = lookup
        self.strict = strict

    def find(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `EdgeLookup.find`, which with `strict` must find every named edge."""
        row, found = self.lookup.find(pairs)
        if self.strict:
            self.lookup.require_all(row, found, self.name)
        return row, found


class RemoveEdges(EdgeOverride):
    """`forward` of a layer on the graph without the named edges, all per-edge arguments included."""

    def __init__(
        self, layer: MessagePassing, name: str, lookup: EdgeLookup, edge_args: Collection[str], strict: bool
    ) -> None:
        super().__init__(layer, name, lookup, strict)
        self.edge_args = tuple(edge_args)
        self.names = tuple(inspect.signature(type(layer).forward).parameters)[1:]
        if "edge_index" not in self.names:
            raise UnsupportedModelError(
                f"Expected 'edge_index' among the arguments of layer '{name}', or its name left out of 'layers' "
                f"(got {type(layer).__name__}.forward({', '.join(self.names)}))"
            )

    def _per_edge(self, name: str) -> bool:
        return name in self.edge_args or (name.startswith("edge_") and name != "edge_index")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = dict(zip(self.names, args, strict=False)) | kwargs
        adjacency = bound.get("edge_index")
        if adjacency is None:  # the layer itself raises
            return self.original(*args, **kwargs)
        pairs = edge_pairs(adjacency, self.name)
        _, found = self.find(pairs)
        kept = (~found).nonzero().view(-1)  # once: under compilation every use of a mask breaks the graph

        def cut(name: str, value: Any) -> Any:
            if name == "edge_index":
                return keep_edges(adjacency, pairs, kept)
            if self._per_edge(name) and isinstance(value, Tensor) and value.dim() and value.size(0) == pairs.size(1):
                return value.index_select(0, kept)
            return value

        head = [cut(name, value) for name, value in zip(self.names, args, strict=False)]
        tail = list(args[len(self.names) :])
        return self.original(*head, *tail, **{name: cut(name, value) for name, value in kwargs.items()})


class ScaledPropagate(EdgeOverride):
    """`propagate` that first looks up the scale of each edge."""

    method = "propagate"

    def __init__(
        self, layer: MessagePassing, name: str, lookup: EdgeLookup, scale: Tensor, strict: bool, folded: Store
    ) -> None:
        super().__init__(layer, name, lookup, strict)
        self.scale = scale
        self.current: Tensor | None = None
        self.unique = lookup.keys.numel() == lookup.pair.numel()
        self.folded = folded  # by graph: adjacencies with constant scales folded in, shared by layers

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model keeps the values without gradient: only leaves can be deep-copied.
        return self.__dict__ | {"scale": self.scale.detach(), "current": None}

    def scale_of(self, pairs: Tensor) -> Tensor:
        """Return the scale of each edge, `[num_edges]`."""
        row, found = self.find(pairs)
        scale = self.scale.to(pairs.device)
        if scale.numel() == 0:
            return scale.new_ones(pairs.size(1))
        # The mean over equal copies of a pair gives each copy its own share of the gradient.
        pair = self.lookup.pair.to(pairs.device)
        weight = scale if self.unique else scale / self.lookup.count.to(pairs.device)[pair]
        per_pair = scale.new_zeros(self.lookup.keys.numel()).index_add(0, pair, weight)
        return torch.where(found, per_pair[row], scale.new_ones(()))

    def _plain(self, adjacency: Tensor, pairs: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return `propagate`'s arguments with plain pairs for its sparse adjacency, so that `message` is not fused."""
        values = adjacency_values(adjacency)
        for name in ("edge_weight", "edge_attr", "edge_type"):  # PyG's own order in collect.jinja
            if name in kwargs:
                if kwargs[name] is None and not (name == "edge_attr" and values.dim() == 1):
                    kwargs = kwargs | {name: values}
                break
        else:
            if self.layer.fuse and not bool((values == 1).all()):
                raise UnsupportedModelError(
                    f"Expected an adjacency of ones for layer '{self.name}', whose messages take no edge weight "
                    "(got other values; pass a plain edge_index)"
                )
        return kwargs | {"size": (adjacency.size(1), adjacency.size(0))}

    def __call__(self, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        pairs = edge_pairs(edge_index, self.name)
        if edge_index.layout != torch.strided:
            kwargs = self._plain(edge_index, pairs, kwargs)
        self.current = self.scale_of(pairs)
        try:
            return self.original(pairs, *args, **kwargs)
        finally:
            self.current = None


class ScaledMessage(Override):
    """`message` times the scale that `ScaledPropagate` looked up."""

    method = "message"
    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, propagate: ScaledPropagate) -> None:
        super().__init__(layer, name)
        self.propagate = propagate

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        message = self.original(*args, **kwargs)
        scale = self.propagate.current
        if scale is None:
            raise UnsupportedModelError(
                f"Expected layer '{self.name}' to send messages through the scaled 'propagate' (got another one: was "
                f"'explain' or 'decomposed_layers' set inside the block? Set it before)"
            )
        dim = self.layer.node_dim
        if not isinstance(message, Tensor) or message.size(dim) != scale.numel():
            got = list(message.shape) if isinstance(message, Tensor) else type(message).__name__
            raise UnsupportedModelError(
                f"Expected one message per edge from layer '{self.name}': size {scale.numel()} in dimension {dim} "
                f"(got {got})"
            )
        shape = [1] * message.dim()
        shape[dim] = -1
        return message * scale.to(message.dtype).view(shape)


def attached_scales(propagate: Any, layer: MessagePassing) -> list[ScaledPropagate] | None:
    """Return the scales attached to the layer's messages; `None` if anything else is attached."""
    scales, message = [], layer.__dict__.get("message")
    while isinstance(message, ScaledMessage):
        scales.append(message.propagate)
        message = message.previous
    below = set()
    while isinstance(propagate, ScaledPropagate):
        below.add(id(propagate))
        propagate = propagate.previous
    # Each scale must belong to a `propagate` below this one, or to one above it, which is running now.
    known = all(id(scaled) in below or scaled.current is not None for scaled in scales)
    return scales if propagate is None and message is None and known and len(below) <= len(scales) else None


class AfterLayer(Override):
    """`forward` of a layer, followed by an operator on its output (of a tuple, the first entry)."""

    layer: MessagePassing

    def __init__(self, layer: MessagePassing, name: str, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer, name)
        self.operator = operator

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        head, tail = (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, None)
        if not isinstance(head, Tensor):
            raise UnsupportedModelError(
                f"Expected layer '{self.name}' to return a tensor to put an operator after (got {type(head).__name__})"
            )
        head = self.operator(head)
        if not isinstance(head, Tensor):
            raise InvalidTypeError(
                f"Expected a tensor from the operator after '{self.name}' (got {type(head).__name__})"
            )
        return head if tail is None else (head, *tail)
