"""The callables that stand in for a layer's `forward`, `propagate` or `message` while something is attached to it.

Instance attributes, not hooks: `torch.compile` puts no guard on empty hook dictionaries, so a hook registered after
the first compiled call of a model without graph breaks (SAGE, GIN) is ignored, and PyG's message hooks are always
skipped under compilation. Dynamo does guard instance attributes, so an override is seen in either order, taken off
again, and needs no `torch._dynamo.reset()` (which would throw away every compiled model of the process). It also
keeps PyG's generated `propagate`, which `explain=True` would replace by a slower one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.nn.kernels.memo import memo

MAX_NODES = 2**31
"""Largest supported number of nodes: two ids share one int64 key."""


class EdgeLookup:
    """Finds edges by their `(u, v)` ids, whatever their order, number or position.

    Args:
        edge_index: the named edges `[2, num_named]`, int64 ids in `[0, 2**31)`; duplicates count once.

    Attributes:
        keys: sorted keys of the named pairs `[num_pairs]`.
        pair: for each column of `edge_index`, its row in `keys` `[num_named]`.
        count: copies of each pair `[num_pairs]`.
    """

    def __init__(self, edge_index: Tensor) -> None:
        self.keys, self.pair, self.count = torch.unique(self.key(edge_index), return_inverse=True, return_counts=True)
        self._store = WeakTensorKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}  # weak references cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _store=WeakTensorKeyDictionary())

    @staticmethod
    def key(edge_index: Tensor) -> Tensor:
        """One int64 per edge, `u * 2**32 + v`: independent of the number of nodes, never N x N."""
        return edge_index[0].long() * 2**32 + edge_index[1].long()

    def find(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Row in `keys` of each edge, and whether it is named at all; both `[num_edges]`.

        Remembered for the very same tensor: layers that share a plain `edge_index`, and the steps of APPNP, pay once.
        """
        if torch.compiler.is_compiling():
            return self._find(edge_index)
        return memo(edge_index, "find", lambda: self._find(edge_index), self._store)

    def _find(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.keys.to(edge_index.device)
        key = self.key(edge_index)
        if keys.numel() == 0:
            return torch.zeros_like(key), torch.zeros_like(key, dtype=torch.bool)
        row = torch.searchsorted(keys, key).clamp(max=keys.numel() - 1)
        return row, keys[row] == key

    def require_all(self, row: Tensor, found: Tensor, layer: str) -> None:
        """Raise `InvalidInputError` unless every named pair was found in the layer's graph."""
        held = torch.zeros(self.keys.numel(), dtype=torch.bool, device=row.device)
        held[row[found]] = True
        if not bool(held.all()):
            missing = self.keys.to(row.device)[~held]
            pairs = [(k // 2**32, k % 2**32) for k in missing[:5].tolist()]
            raise InvalidInputError(
                f"Expected every named edge in the graph of layer '{layer}' because strict=True "
                f"(got {missing.numel()} that it does not hold, the first of them {pairs})"
            )


def edge_pairs(adjacency: Any, layer: str) -> Tensor:
    """Columns `(u, v)` of whatever a layer takes as its graph, in the order of its per-edge arguments.

    Args:
        adjacency: `[2, num_edges]`, an `EdgeIndex`, or PyG's `adj_t` as torch CSR or COO (row = target).
        layer: name for the error.

    Returns:
        A plain tensor `[2, num_edges]`.

    Raises:
        UnsupportedModelError: any other kind of adjacency.
    """
    if isinstance(adjacency, EdgeIndex):
        return adjacency.as_tensor()
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.strided:
        if adjacency.dim() == 2 and adjacency.size(0) == 2 and not adjacency.is_floating_point():
            return adjacency
        raise UnsupportedModelError(
            f"Expected 'edge_index' of layer '{layer}' as integers of shape [2, num_edges] "
            f"(got {adjacency.dtype} of shape {list(adjacency.shape)})"
        )
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.sparse_csr:
        degree = adjacency.crow_indices().diff()
        target = torch.repeat_interleave(torch.arange(degree.numel(), device=degree.device), degree)
        return torch.stack([adjacency.col_indices(), target])
    if isinstance(adjacency, Tensor) and adjacency.layout == torch.sparse_coo:
        return adjacency._indices().flip(0)
    kind = adjacency.layout if isinstance(adjacency, Tensor) else type(adjacency).__name__
    raise UnsupportedModelError(
        f"Expected the graph of layer '{layer}' as edge_index [2, num_edges], EdgeIndex, or torch sparse CSR or COO; "
        f"convert it with torch_geometric.utils.to_edge_index (got {kind})"
    )


def _values(adjacency: Tensor) -> Tensor:
    return adjacency._values() if adjacency.layout == torch.sparse_coo else adjacency.values()


def keep_edges(adjacency: Tensor, pairs: Tensor, kept: Tensor) -> Tensor:
    """The adjacency with the edges `kept` `[num_kept]` alone; sparse stays sparse, `EdgeIndex` becomes plain."""
    pairs = pairs.index_select(1, kept)
    if adjacency.layout == torch.strided:
        return pairs
    source, target = pairs
    value = _values(adjacency).index_select(0, kept)
    if adjacency.layout == torch.sparse_csr:
        degree = torch.bincount(target, minlength=adjacency.size(0))
        ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
        return torch.sparse_csr_tensor(ptr, source, value, adjacency.shape)
    index = torch.stack([target, source])
    return torch.sparse_coo_tensor(index, value, adjacency.shape, is_coalesced=adjacency.is_coalesced())


class Override:
    """Stands in for one method of one layer; calls what was there before.

    Module-level and picklable: a copy of the layer taken meanwhile carries its own copy of the override.
    """

    method = "forward"

    def __init__(self, layer: MessagePassing, name: str) -> None:
        self.layer = layer
        self.name = name
        # `None` stands for the class's own method: a bound method would not survive pickle inside its own layer.
        self.previous: Callable[..., Any] | None = None

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method that this one covers."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        return getattr(type(self.layer), self.method)(self.layer, *args, **kwargs)

    def install(self) -> None:
        """Cover the method, and remember what was there."""
        self.previous = self.layer.__dict__.get(self.method)
        self.layer.__dict__[self.method] = self

    def uninstall(self) -> None:
        """Uncover it, also from under overrides that were installed later."""
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


class RemoveEdges(Override):
    """`forward` of a layer on the graph without the named edges, with all per-edge arguments cut alike."""

    def __init__(
        self, layer: MessagePassing, name: str, lookup: EdgeLookup, edge_args: Collection[str], strict: bool
    ) -> None:
        super().__init__(layer, name)
        self.lookup = lookup
        self.edge_args = tuple(edge_args)
        self.strict = strict
        self.names = tuple(inspect.signature(type(layer).forward).parameters)[1:]
        if "edge_index" not in self.names:
            raise UnsupportedModelError(
                f"Expected 'edge_index' among the arguments of layer '{name}', or its name left out of 'layers' "
                f"(got {type(layer).__name__}.forward({', '.join(self.names)}))"
            )

    def _per_edge(self, name: str) -> bool:
        return name in self.edge_args or (name.startswith("edge_") and name != "edge_index")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on what is left of its graph."""
        bound = dict(zip(self.names, args, strict=False)) | kwargs
        adjacency = bound.get("edge_index")
        if adjacency is None:  # let the layer itself complain
            return self.original(*args, **kwargs)
        pairs = edge_pairs(adjacency, self.name)
        row, found = self.lookup.find(pairs)
        if self.strict:
            self.lookup.require_all(row, found, self.name)
        kept = (~found).nonzero().view(-1)  # once: under compilation each mask would break the graph anew

        def cut(name: str, value: Any) -> Any:
            if name == "edge_index":
                return keep_edges(adjacency, pairs, kept)
            if self._per_edge(name) and isinstance(value, Tensor) and value.dim() and value.size(0) == pairs.size(1):
                return value.index_select(0, kept)
            return value

        head = [cut(name, value) for name, value in zip(self.names, args, strict=False)]
        tail = list(args[len(self.names) :])
        return self.original(*head, *tail, **{name: cut(name, value) for name, value in kwargs.items()})


class ScaledPropagate(Override):
    """`propagate` that looks up the scale of each edge it is about to send a message along."""

    method = "propagate"

    def __init__(self, layer: MessagePassing, name: str, lookup: EdgeLookup, scale: Tensor, strict: bool) -> None:
        super().__init__(layer, name)
        self.lookup = lookup
        self.scale = scale
        self.strict = strict
        self.current: Tensor | None = None
        self.unique = lookup.keys.numel() == lookup.pair.numel()
        self.folded = WeakTensorKeyDictionary()  # adjacencies that constant scales were folded into, by graph

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model keeps the values; only leaves can be deep-copied, and the copy has no share in the graph.
        return self.__dict__ | {"scale": self.scale.detach(), "current": None, "folded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, folded=WeakTensorKeyDictionary())

    def _scale_of(self, pairs: Tensor) -> Tensor:
        row, found = self.lookup.find(pairs)
        if self.strict:
            self.lookup.require_all(row, found, self.name)
        scale = self.scale.to(pairs.device)
        if scale.numel() == 0:
            return scale.new_ones(pairs.size(1))
        # The mean over equal copies of a pair gives each copy its own share of the gradient.
        pair = self.lookup.pair.to(pairs.device)
        weight = scale if self.unique else scale / self.lookup.count.to(pairs.device)[pair]
        per_pair = scale.new_zeros(self.lookup.keys.numel()).index_add(0, pair, weight)
        return torch.where(found, per_pair[row], scale.new_ones(()))

    def _plain(self, adjacency: Tensor, pairs: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `propagate` when its sparse adjacency is replaced by plain pairs (`message` is not fused)."""
        values = _values(adjacency)
        for name in ("edge_weight", "edge_attr", "edge_type"):  # PyG's own order in collect.jinja
            if name in kwargs:
                if kwargs[name] is None and not (name == "edge_attr" and values.dim() == 1):
                    kwargs = kwargs | {name: values}
                break
        else:
            if self.layer.fuse and not bool((values == 1).all()):
                raise UnsupportedModelError(
                    f"Expected an adjacency of ones for layer '{self.name}', whose messages take no edge weight "
                    f"(got other values; pass a plain edge_index)"
                )
        return kwargs | {"size": (adjacency.size(1), adjacency.size(0))}

    def __call__(self, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        """Propagate with the scales at hand."""
        pairs = edge_pairs(edge_index, self.name)
        if edge_index.layout != torch.strided:
            kwargs = self._plain(edge_index, pairs, kwargs)
        self.current = self._scale_of(pairs)
        try:
            return self.original(pairs, *args, **kwargs)
        finally:
            self.current = None


class ScaledMessage(Override):
    """`message` times the scale that `ScaledPropagate` looked up."""

    method = "message"

    def __init__(self, layer: MessagePassing, name: str, propagate: ScaledPropagate) -> None:
        super().__init__(layer, name)
        self.propagate = propagate

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The messages `[..., num_edges, ...]`, scaled along the layer's `node_dim`."""
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


class AfterLayer(Override):
    """`forward` of a layer followed by an operator on its output; a tuple keeps its tail."""

    def __init__(self, layer: MessagePassing, name: str, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer, name)
        self.operator = operator

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, then the operator."""
        output = self.original(*args, **kwargs)
        head, tail = (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, None)
        head = self.operator(head)
        if not isinstance(head, Tensor):
            raise InvalidTypeError(
                f"Expected a tensor from the operator after '{self.name}' (got {type(head).__name__})"
            )
        return head if tail is None else (head, *tail)
