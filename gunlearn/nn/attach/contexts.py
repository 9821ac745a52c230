"""Context managers that change what a trained model's message passing layers see, send and return.

Removing an edge (`removed_edges`) and silencing its message (`scaled_messages`) differ: only the first changes degrees,
means and attention.

All work on any `torch.nn.Module` with PyG `MessagePassing` layers, eager or compiled; the functions yield it. They nest
and leave nothing behind, exceptions included. Parameters and `state_dict()` never change. A deep copy or pickle of the
model taken inside the block keeps the change for good, with constant scales.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.attach.edge_lookup import EdgeLookup, check_edge_index, check_scale, describe_tensor
from gunlearn.nn.attach.message_layers import choose_layers, suspended_caches
from gunlearn.nn.attach.overrides import (
    AfterLayer,
    Override,
    RemoveEdges,
    ScaledMessage,
    ScaledPropagate,
    installed,
)
from gunlearn.nn.kernels.memo import Store


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

    The output is that of the model on the smaller graph, gradients included: a layer that adds self-loops adds that of
    `u` also where `(u, u)` was removed. Edges match by their ids `(u, v)`: the model may be called on the graph in
    another order or on a part of it with the same node ids (renumber the edges for a renumbered batch); all copies of a
    pair vanish. The graph may be a plain `edge_index`, an `EdgeIndex`, or PyG's transposed `adj_t` as torch CSR or COO.
    Layers with `cached=True` compute afresh inside the block and get their caches back.

    Args:
        model: any module with message passing layers.
        edge_index_to_remove: the edges to remove `[2, num_removed]`.
        edge_index: with `mask`, in place of `edge_index_to_remove`: the graph `[2, num_edges]`.
        mask: which columns of `edge_index` to remove, bool `[num_edges]`.
        both_directions: remove `(v, u)` with every `(u, v)`; by default only the given directions are removed.
        layers: names of the layers to attach to (see `message_passing_layers`); default all.
        edge_args: names of further per-edge arguments of the layers' `forward`, besides those that begin with `edge_`.
        strict: raise in `forward` if a layer's graph lacks an edge to remove; by default such an edge has no effect.
        num_nodes: if given, ids must lie below it.

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
            raise InvalidInputError("Expected 'edge_index', whose columns 'mask' selects (got 'mask' without it)")
        graph = check_edge_index("edge_index", edge_index, num_nodes)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != graph.shape[1:]:
            raise InvalidInputError(f"Expected 'mask' as bool of shape [{graph.size(1)}] (got {describe_tensor(mask)})")
        named = graph[:, mask.to(graph.device)]
    else:
        if edge_index is not None:
            raise InvalidInputError("Expected 'edge_index' only together with 'mask' (got it without)")
        named = check_edge_index("edge_index_to_remove", edge_index_to_remove, num_nodes)
    if both_directions:
        named = torch.cat([named, named.flip(0)], dim=1)
    lookup = EdgeLookup(named)
    chosen = choose_layers(model, layers)
    overrides = [RemoveEdges(layer, name, lookup, edge_args, strict) for name, layer in chosen.items()]
    with suspended_caches(*chosen.values()), installed(overrides):
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
    stay those of the whole graph. INPO's message function is `scale = exp(-(s_u + s_v))`. Every `propagate` of a layer
    is scaled (each of APPNP's K steps, nested layers too). Unnamed edges, and self-loops that a layer adds, have scale
    1; to scale the self-loop of `u`, name `(u, u)`. The result is differentiable in `scale` and the parameters; each
    call reads `scale` anew, so that it can be optimised in place inside the block.

    Args:
        model: any module with message passing layers.
        edge_index: the named edges `[2, num_edges]`, matched by their ids `(u, v)`, never by position.
        scale: one factor >= 0 per named edge, floating point `[num_edges]`; copies of a pair need one value.
        layers: names of the layers to attach to (see `message_passing_layers`); default all.
        strict: raise in `forward` if a layer's graph lacks a named edge.
        num_nodes: if given, ids must lie below it.

    Raises:
        InvalidInputError: ids, shapes, dtypes, values or layer names do not fit.
        UnsupportedModelError: no message passing layer, another kind of graph, or not one message per edge.
    """
    with ScaledMessages(model, edge_index, scale, layers, strict, num_nodes):
        yield model


class ScaledMessages:
    """`scaled_messages` as a reusable object that keeps what it computed; same arguments, nested scales multiply."""

    def __init__(
        self,
        model: nn.Module,
        edge_index: Tensor,
        scale: Tensor,
        layers: Collection[str] | None = None,
        strict: bool = False,
        num_nodes: int | None = None,
    ) -> None:
        self.edge_index = check_edge_index("edge_index", edge_index, num_nodes)
        self.lookup = EdgeLookup(self.edge_index)
        check_scale(self.lookup, scale)
        self._folded = Store()
        self._layers, self.scale, self._strict = choose_layers(model, layers), scale, strict
        self._overrides = self._make()
        self._stacks: list[ExitStack] = []

    def _make(self) -> list[Override]:
        layers: dict[MessagePassing, str] = {}
        for outer, module in self._layers.items():  # an inner layer may send the messages
            for name, layer in module.named_modules(prefix=outer):
                if isinstance(layer, MessagePassing):
                    layers.setdefault(layer, name)
        overrides: list[Override] = []
        for layer, name in layers.items():
            propagate = ScaledPropagate(layer, name, self.lookup, self.scale, self._strict, self._folded)
            overrides += [propagate, ScaledMessage(layer, name, propagate)]
        return overrides

    def __enter__(self) -> None:
        """Scale the messages; inside its own block, once more."""
        with ExitStack() as stack:
            stack.enter_context(suspended_caches(*self._layers.values()))
            stack.enter_context(installed(self._make() if self._stacks else self._overrides))
            self._stacks.append(stack.pop_all())

    def __exit__(self, *exception: object) -> None:
        self._stacks.pop().close()


@contextmanager
def after_layer(
    model: nn.Module,
    operator: Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]],
    layers: Collection[str] | None = None,
) -> Iterator[nn.Module]:
    """Inside the block `operator` is applied to each layer's output.

    The operator's parameters get gradients, but do not join the model's `parameters()` and `state_dict()`. Of a tuple
    (`return_attention_weights=True`), only the first entry changes. With nested blocks the outer operator comes first.

    Args:
        model: any module with message passing layers.
        operator: a function or module from `[num_nodes, channels]` to the same; or a mapping (also an `nn.ModuleDict`)
            from layer name to such operators, for those layers alone.
        layers: names of the layers to attach one operator to; default all.

    Raises:
        InvalidInputError: an unknown layer name, or `layers` beside a mapping.
        InvalidTypeError: an operator that cannot be called, or that returns no tensor.
        UnsupportedModelError: no message passing layer.
    """
    if isinstance(operator, Mapping | nn.ModuleDict):
        if layers is not None:
            raise InvalidInputError(
                "Expected either 'layers' with a single operator, or a mapping of operators (got both)"
            )
        operators: dict[str, Any] = dict(operator.items())
        chosen = choose_layers(model, list(operators))
    else:
        chosen = choose_layers(model, layers)
        operators = dict.fromkeys(chosen, operator)
    for name, one in operators.items():
        if not callable(one):
            raise InvalidTypeError(f"Expected a callable operator for layer '{name}' (got {type(one).__name__})")
    with installed([AfterLayer(layer, name, operators[name]) for name, layer in chosen.items()]):
        yield model
