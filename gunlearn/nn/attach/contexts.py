"""Context managers that edit what a trained model's message passing layers see, send and return.

Deleting an edge and silencing its message are different things. `removed_edges` takes edges out before self-loops,
degrees and attention are computed: what the layer would do on the smaller graph. `scaled_messages` leaves degrees,
means and attention as they are and multiplies the finished messages.

All three find the layers by themselves, work on any `torch.nn.Module` that holds PyG `MessagePassing` layers, eager or
compiled, nest in each other, and leave nothing behind, whatever is raised inside the block. Parameters and
`state_dict()` never change. A deep copy or pickle of the model taken inside the block keeps the edit for good, with
constant scales.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.nn.attach.overrides import (
    MAX_NODES,
    AfterLayer,
    EdgeLookup,
    Override,
    RemoveEdges,
    ScaledMessage,
    ScaledPropagate,
)

__all__ = ["after_layer", "message_passing_layers", "removed_edges", "scaled_messages"]

CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")
"""Where PyG's `cached=True` layers keep what they computed from the first graph they saw."""


def message_passing_layers(model: nn.Module) -> dict[str, MessagePassing]:
    """The outermost message passing layers of a model, by name.

    A layer inside another layer belongs to that one. A layer used twice appears once. The wrapper of `torch.compile`
    adds nothing to the names.

    Args:
        model: any module.

    Returns:
        Name to layer, in the order of `model.named_modules()`; the name is `""` if the model itself is a layer.

    Raises:
        InvalidTypeError: `model` is no module.
        UnsupportedModelError: there is no such layer (a scripted model has none either).
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch.nn.Module (got {type(model).__name__})")
    layers: dict[str, MessagePassing] = {}
    seen: set[int] = set()

    def visit(module: nn.Module, path: tuple[str, ...]) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if isinstance(module, MessagePassing):
            layers[".".join(path)] = module
            return
        for name, child in module.named_children():
            visit(child, path if name == "_orig_mod" else (*path, name))

    visit(model, ())
    if not layers:
        inner = getattr(model, "_orig_mod", model)
        raise UnsupportedModelError(
            f"Expected a model with torch_geometric.nn.MessagePassing layers (got {type(inner).__name__} without any)"
        )
    return layers


@contextmanager
def removed_edges(
    model: nn.Module,
    edge_index_to_remove: Tensor | None = None,
    *,
    edge_index: Tensor | None = None,
    mask: Tensor | None = None,
    both_directions: bool = False,
    layers: Collection[str] | None = None,
    edge_args: Collection[str] = (),
    strict: bool = False,
    num_nodes: int | None = None,
) -> Iterator[nn.Module]:
    """Inside the block every layer sees its graph without these edges, before self-loops and normalisation.

    The output is that of the model on the truly deleted graph, gradients included. Edges are matched by their ids
    `(u, v)`, so the model may be called on the graph in another order or on a subset of it with the same node ids (a
    batch with renumbered nodes needs renumbered edges); all copies of a pair vanish. The graph may be a plain
    `edge_index`, an `EdgeIndex`, or PyG's transposed `adj_t` as torch CSR or COO. Layers with `cached=True` compute
    afresh inside the block and get their caches back after it. A self-loop `(u, u)` is removed from the graph; a
    layer that adds self-loops adds its own again, as it would on the smaller graph.

    Args:
        model: any module with message passing layers.
        edge_index_to_remove: the edges to remove `[2, num_removed]`.
        edge_index: with `mask`, in place of `edge_index_to_remove`: the graph `[2, num_edges]`.
        mask: which columns of `edge_index` to remove, bool `[num_edges]`.
        both_directions: remove `(v, u)` with every `(u, v)`; by default only the directions given are removed, and
            the caller of an undirected graph names both.
        layers: names of the layers to attach to (see `message_passing_layers`); default all.
        edge_args: further names of per-edge arguments of the layers' `forward`, beside those that begin with `edge_`.
        strict: raise in `forward` if a layer's graph does not hold an edge to remove; by default such an edge has no
            effect, as in a batch that does not contain it.
        num_nodes: if given, ids must lie below it.

    Yields:
        The same model.

    Raises:
        InvalidInputError: ids, shapes, dtypes or layer names do not fit.
        UnsupportedModelError: no message passing layer, a layer without `edge_index`, or another kind of graph.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> conv, x = GCNConv(2, 3), torch.randn(3, 2)
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> with removed_edges(conv, edge_index[:, :1]) as edited:
        ...     out = edited(x, edge_index)
        >>> torch.equal(out, conv(x, edge_index[:, 1:]))
        True
    """
    if (edge_index_to_remove is None) == (mask is None):
        raise InvalidInputError(
            f"Expected either 'edge_index_to_remove' or 'mask' (got {'neither' if mask is None else 'both'})"
        )
    if mask is not None:
        if edge_index is None:
            raise InvalidInputError("Expected 'edge_index', whose columns 'mask' selects (got mask alone)")
        graph = _check_edge_index("edge_index", edge_index, num_nodes)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != graph.shape[1:]:
            raise InvalidInputError(f"Expected 'mask' as bool of shape [{graph.size(1)}] (got {_describe(mask)})")
        named = graph[:, mask.to(graph.device)]
    else:
        if edge_index is not None:
            raise InvalidInputError("Expected 'edge_index' only together with 'mask' (got it without)")
        named = _check_edge_index("edge_index_to_remove", edge_index_to_remove, num_nodes)
    if both_directions:
        named = torch.cat([named, named.flip(0)], dim=1)
    lookup = EdgeLookup(named)
    chosen = _choose(model, layers)
    with ExitStack() as stack:
        _suspend_caches(chosen, stack)
        for name, layer in chosen.items():
            _install(RemoveEdges(layer, name, lookup, edge_args, strict), stack)
        yield model


@contextmanager
def scaled_messages(
    model: nn.Module,
    edge_index: Tensor,
    scale: Tensor,
    *,
    layers: Collection[str] | None = None,
    strict: bool = False,
    num_nodes: int | None = None,
) -> Iterator[nn.Module]:
    r"""Inside the block the message along edge `e`, as it would be aggregated, is multiplied by `scale[e]`.

    .. math:: \mathbf{h}_v = \gamma\Big(\mathbf{x}_v, \bigoplus_{u \in \mathcal{N}(v)} s_{uv}\, \mathbf{m}_{uv}\Big)

    with :math:`\mathbf{m}_{uv}` after normalisation and attention: degrees, the denominators of a mean and the softmax
    stay those of the whole graph. This is how INPO's message function weighs a message, with
    `scale = exp(-(s_u + s_v))`. It happens in every `propagate` of a layer (each of APPNP's K steps, layers nested in
    it too). Edges not named, and self-loops that a layer adds, keep 1; naming `(u, u)` scales that self-loop as well.
    The result is differentiable in `scale` and in the parameters; `scale` is read anew at each call, so it can be
    optimised in place inside the block.

    Args:
        model: any module with message passing layers.
        edge_index: the named edges `[2, num_edges]`, matched by their ids `(u, v)`, never by position.
        scale: one factor >= 0 per named edge, floating point `[num_edges]`; copies of a pair need one value.
        layers: names of the layers to attach to (see `message_passing_layers`); default all.
        strict: raise in `forward` if a layer's graph does not hold a named edge.
        num_nodes: if given, ids must lie below it.

    Yields:
        The same model.

    Raises:
        InvalidInputError: ids, shapes, dtypes, values or layer names do not fit.
        UnsupportedModelError: no message passing layer, another kind of graph, or not one message per edge.
    """
    with ScaledMessages(model, edge_index, scale, layers, strict, num_nodes):
        yield model


class ScaledMessages:
    """`scaled_messages` that can be entered again and again: what it computes is kept between entries.

    For the arguments see `scaled_messages`.
    """

    def __init__(
        self,
        model: nn.Module,
        edge_index: Tensor,
        scale: Tensor,
        layers: Collection[str] | None = None,
        strict: bool = False,
        num_nodes: int | None = None,
    ) -> None:
        """Check the arguments and look the edges up."""
        self._lookup = EdgeLookup(_check_edge_index("edge_index", edge_index, num_nodes))
        _check_scale(scale, self._lookup)
        self._layers, self._scale, self._strict = _choose(model, layers), scale, strict
        self._overrides = self._make()
        self._stacks: list[ExitStack] = []

    def _make(self) -> list[Override]:
        overrides: list[Override] = []
        for name, layer in _with_nested(self._layers).items():
            propagate = ScaledPropagate(layer, name, self._lookup, self._scale, self._strict)
            overrides += [propagate, ScaledMessage(layer, name, propagate)]
        return overrides

    def __enter__(self) -> None:
        """Put the scales in force; once more inside its own block they multiply."""
        with ExitStack() as stack:
            _suspend_caches(self._layers, stack)
            for override in self._make() if self._stacks else self._overrides:
                _install(override, stack)
            self._stacks.append(stack.pop_all())

    def __exit__(self, *exception: object) -> None:
        """Put everything back."""
        self._stacks.pop().close()


@contextmanager
def after_layer(
    model: nn.Module,
    operator: Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]],
    layers: Collection[str] | None = None,
) -> Iterator[nn.Module]:
    """Inside the block `operator` is applied to each layer's output.

    The operator's parameters get gradients, yet do not enter the model: its `parameters()` and `state_dict()` stay as
    they are. A layer that returns a tuple (`return_attention_weights=True`) keeps the tail of it. With nested blocks
    the outer operator comes first.

    Args:
        model: any module with message passing layers.
        operator: a function or module from `[num_nodes, channels]` to the same; or a mapping (also an
            `nn.ModuleDict`) from layer name to such operators, for the layers it names alone.
        layers: names of the layers to attach one operator to; default all.

    Yields:
        The same model.

    Raises:
        InvalidInputError: an unknown layer name, or `layers` beside a mapping.
        InvalidTypeError: an operator that cannot be called, or that returns no tensor.
        UnsupportedModelError: no message passing layer.
    """
    if isinstance(operator, Mapping | nn.ModuleDict):
        if layers is not None:
            raise InvalidInputError("Expected 'layers' only beside a single operator (got a mapping of operators too)")
        operators = dict(operator.items())
        chosen = _choose(model, list(operators))
    else:
        chosen = _choose(model, layers)
        operators = dict.fromkeys(chosen, operator)
    for name, one in operators.items():
        if not callable(one):
            raise InvalidTypeError(f"Expected a callable operator for layer '{name}' (got {type(one).__name__})")
    with ExitStack() as stack:
        for name, layer in chosen.items():
            _install(AfterLayer(layer, name, operators[name]), stack)
        yield model


@contextmanager
def suspended_caches(model: nn.Module) -> Iterator[None]:
    """Inside the block `cached=True` layers compute afresh; afterwards they hold what they held before."""
    with ExitStack() as stack:
        _suspend_caches({name: m for name, m in model.named_modules() if isinstance(m, MessagePassing)}, stack)
        yield


def _install(override: Override, stack: ExitStack) -> None:
    override.install()
    stack.callback(override.uninstall)


def _choose(model: nn.Module, names: Collection[str] | None) -> dict[str, MessagePassing]:
    layers = message_passing_layers(model)
    if names is None:
        return layers
    if isinstance(names, str):
        raise InvalidInputError(f"Expected 'layers' as a collection of names (got the string '{names}')")
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise InvalidInputError(f"Expected names of layers among {list(layers)} (got {unknown})")
    return {name: layers[name] for name in layers if name in set(names)}


def _with_nested(layers: Mapping[str, MessagePassing]) -> dict[str, MessagePassing]:
    """The layers and those inside them, each once: whoever sends the messages is the one to scale."""
    found: dict[int, tuple[str, MessagePassing]] = {}
    for name, layer in layers.items():
        for inner_name, module in layer.named_modules(prefix=name):
            if isinstance(module, MessagePassing):
                found.setdefault(id(module), (inner_name, module))
    return dict(found.values())


def _suspend_caches(layers: Mapping[str, MessagePassing], stack: ExitStack) -> None:
    """Empty and switch off the caches of `cached=True` layers until the stack unwinds.

    Off, not only empty: what is computed from the edited graph (or from a `scale` that is being optimised) must
    neither serve the next call nor outlive the block. `_alpha` is where attention layers leave their weights when an
    exception cuts their forward short; it is taken away again.
    """
    for layer in _with_nested(layers).values():
        state = layer.__dict__
        saved = {name: state[name] for name in CACHES if name in state}
        edited: dict[str, Any] = dict.fromkeys(saved)
        if state.get("cached") is True:
            saved["cached"], edited["cached"] = True, False
        if "_alpha" in state and state["_alpha"] is None:
            saved["_alpha"] = None
        stack.callback(state.update, saved)
        state.update(edited)


def _describe(value: Any) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_edge_index(name: str, edge_index: Any, num_nodes: int | None) -> Tensor:
    """A plain int64 copy-free view of valid edge ids `[2, num_edges]`."""
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if (
        not isinstance(edge_index, Tensor)
        or edge_index.layout != torch.strided
        or edge_index.dtype not in integers
        or edge_index.dim() != 2
        or edge_index.size(0) != 2
    ):
        raise InvalidInputError(f"Expected '{name}' as integers of shape [2, num_edges] (got {_describe(edge_index)})")
    edge_index = edge_index.long()
    limit = MAX_NODES if num_nodes is None else num_nodes
    if edge_index.numel() and (edge_index.min() < 0 or edge_index.max() >= limit):
        raise InvalidInputError(
            f"Expected node ids in [0, {limit}) in '{name}' "
            f"(got ids from {int(edge_index.min())} to {int(edge_index.max())})"
        )
    return edge_index


def _check_scale(scale: Any, lookup: EdgeLookup) -> None:
    num_edges = lookup.pair.numel()
    if not isinstance(scale, Tensor) or not scale.is_floating_point() or scale.shape != (num_edges,):
        raise InvalidInputError(
            f"Expected 'scale' as floating point of shape [{num_edges}], one per edge (got {_describe(scale)})"
        )
    value = scale.detach()
    bad = ~torch.isfinite(value) | (value < 0)
    if bad.any():
        raise InvalidInputError(f"Expected 'scale' to be finite and >= 0 (got {float(value[bad][0])})")
    if lookup.keys.numel() == num_edges:
        return
    pair = lookup.pair.to(value.device)
    high = value.new_zeros(lookup.keys.numel()).scatter_reduce(0, pair, value, "amax", include_self=False)
    low = value.new_zeros(lookup.keys.numel()).scatter_reduce(0, pair, value, "amin", include_self=False)
    if not torch.allclose(high, low, rtol=1e-6, atol=0.0):
        raise InvalidInputError(
            "Expected one scale for all copies of an edge, which share their ids "
            f"(got copies that differ by {float((high - low).max())})"
        )
