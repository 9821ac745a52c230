"""Deletion operators (GNNDelete): a linear map after a layer, on the rows of affected nodes alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.contexts import message_passing_layers
from gunlearn.nn.attach.overrides import AfterLayer, Override
from gunlearn.nn.kernels.subgraph import Subgraph

INITS = ("identity", "normal", "ones")
HOME = "deletions"  # where a layer keeps its operators, in the order in which they are applied
_SAVED = re.compile(rf"^(?:(.*)\.)?{HOME}\.(\d+)\.weight$")


@dataclass(eq=False)
class View:
    """How operators behave during a training pass.

    Args:
        rows: of each operator the rows of the graph at hand that it works on, and their node ids, both `[k]`, ids
            sorted; `None` for the whole graph.
        layerwise: hand the result on without gradient, so that an operator learns from its own layer's loss alone.
        keep: compute what lies below the first operator of a pass once: it has no trained weights.

    Attributes:
        record: what the operators returned in the last pass, in the order of their calls, `[k, channels]` each.
    """

    rows: dict[DeletionOperator, tuple[Tensor, Tensor]] | None = None
    layerwise: bool = False
    keep: bool = False
    record: list[Tensor] = field(default_factory=list)
    kept: Any = None


class DeletionOperator(nn.Module):
    """`h' = h W` on the rows of some nodes; all other rows stay as they are (GNNDelete, arXiv 2302.13406, eq. 6).

    Where another graph is read beside its own (`tasks/beside.py`), rows of its own come first. A second copy of as many
    rows shows the same nodes, and it works on them there too; rows of anything else stay as they are.

    Args:
        nodes: ids of the nodes, sorted, `[k]`.
        num_nodes: of the graph that these ids speak of.
        channels: size of the layer's output.
        init: of `W` `[channels, channels]`: `"identity"` changes nothing; `"normal"` draws from `N(0, 1e-3^2)`;
            `"ones"` is 1/1000 everywhere, as in the authors' code.
        dtype: of `W`.

    Raises:
        UnsupportedModelError: called on a smaller graph, whose rows are other nodes.
    """

    by_node = True  # for `propagation_depth`: it reads rows as nodes of one graph, and sends no messages

    def __init__(
        self, nodes: Tensor, num_nodes: int, channels: int, init: str = "identity", dtype: torch.dtype | None = None
    ) -> None:
        """See the class."""
        super().__init__()
        if init not in INITS:
            raise InvalidInputError(f"Expected 'init' among {INITS} (got {init!r})")
        weight = {
            "identity": lambda: torch.eye(channels),
            "normal": lambda: torch.randn(channels, channels) / 1000,
            "ones": lambda: torch.full((channels, channels), 1e-3),
        }[init]()
        self.weight = nn.Parameter(weight.to(device=nodes.device, dtype=dtype))
        self.register_buffer("nodes", nodes)
        self.register_buffer("num_nodes", torch.tensor(num_nodes, device=nodes.device))
        self.view: View | None = None

    def forward(self, h: Tensor) -> Tensor:
        """`[num_nodes, channels]` to the same; more rows are those of a graph beside."""
        view, rows, size = self.view, self.nodes, int(self.num_nodes)
        if view is not None and view.rows is not None:
            rows = view.rows[self][0]
        elif h.size(0) == 2 * size:
            rows = torch.cat([rows, rows + size])
        elif h.size(0) < size:
            raise UnsupportedModelError(
                f"Expected the graph of {size} nodes that the deletion operators were made for (got {h.size(0)} nodes)"
            )
        out = (h.index_select(0, rows) @ self.weight).to(h.dtype)
        if view is not None:
            view.record.append(out)
            out = out.detach() if view.layerwise else out
        return h.index_copy(0, rows, out)

    def extra_repr(self) -> str:
        """Number of nodes and channels."""
        return f"{self.nodes.numel()} of {int(self.num_nodes)} nodes, {self.weight.size(0)} channels"


class Deletion(AfterLayer):
    """Applies an operator after a layer for good: copies and pickles of the model carry it."""

    operator: DeletionOperator

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own output; of the first layer of a pass the one kept, where a view says so."""
        view = self.operator.view
        if view is None or not view.keep or view.record:
            return super().original(*args, **kwargs)
        if view.kept is None:
            with torch.no_grad():
                view.kept = super().original(*args, **kwargs)
        return view.kept


def attach_operators(model: nn.Module, operators: Mapping[str, DeletionOperator]) -> list[Deletion]:
    """Put operators behind layers for good, as submodules `deletions.<number>` of theirs; see `detach_operators`.

    A model may carry several per layer, one for each request: a new one works on what the older ones return. They are
    part of its `parameters()` and `state_dict()`, and of copies and pickles of it.

    Args:
        model: changed in place.
        operators: by name of the layer (`gunlearn.nn.message_passing_layers`).
    """
    layers, attached = message_passing_layers(model), []
    for name, operator in operators.items():
        layer = layers[name]
        if not isinstance(getattr(layer, HOME, None), nn.ModuleList):
            layer.add_module(HOME, nn.ModuleList())
        getattr(layer, HOME).append(operator)
        attached.append(Deletion(layer, name, operator))
        attached[-1].install()
    return attached


def detach_operators(attached: list[Deletion]) -> None:
    """Take off what was attached last."""
    for deletion in attached:
        deletion.uninstall()
        home = getattr(deletion.layer, HOME)
        del home[-1]
        if not len(home):
            delattr(deletion.layer, HOME)


def strip_operators(model: nn.Module) -> nn.Module:
    """Take all operators off a model, in place."""
    for layer in model.modules():
        override = layer.__dict__.get(Deletion.method)
        while isinstance(override, Override):
            below = override.previous
            if isinstance(override, Deletion):
                override.uninstall()
            override = below
        home = getattr(layer, HOME, None)
        if isinstance(home, nn.ModuleList) and all(isinstance(operator, DeletionOperator) for operator in home):
            delattr(layer, HOME)
    return model


def restore_operators(model: nn.Module, state_dict: Mapping[str, Tensor]) -> list[Deletion]:
    """Attach the operators that a saved `state_dict` holds to a model without them, so that it can be loaded.

    Args:
        model: of the original architecture, changed in place.
        state_dict: of a model that carries operators, or of one that does not: then nothing happens.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> model, template = GCNConv(2, 3), GCNConv(2, 3)
        >>> operator = DeletionOperator(torch.tensor([0, 2]), num_nodes=4, channels=3)
        >>> attached = attach_operators(model, {"": operator})
        >>> attached = restore_operators(template, model.state_dict())
        >>> template.load_state_dict(model.state_dict())
        <All keys matched successfully>
    """
    layers, attached = message_passing_layers(model) if any(map(_SAVED.match, state_dict)) else {}, []
    for key in sorted(filter(_SAVED.match, state_dict), key=lambda k: int(_SAVED.match(k)[2])):
        name = _SAVED.match(key)[1] or ""
        stem = key.removesuffix("weight")
        if name not in layers or len(getattr(layers[name], HOME, ())) > int(_SAVED.match(key)[2]):
            continue  # another model's, or there already: loading will tell
        weight, nodes, size = (state_dict[stem + part] for part in ("weight", "nodes", "num_nodes"))
        operator = DeletionOperator(nodes.clone(), int(size), weight.size(0), dtype=weight.dtype)
        attached += attach_operators(model, {name: operator})
    return attached


@contextmanager
def viewed(operators: Collection[DeletionOperator], view: View) -> Iterator[None]:
    """Inside the block the operators behave as the view says; its record starts empty."""
    view.record.clear()
    for operator in operators:
        operator.view = view
    try:
        yield
    finally:
        for operator in operators:
            operator.view = None


def rows_in(nodes: Tensor, subgraph: Subgraph | None) -> tuple[Tensor, Tensor]:
    """Rows of a part of the graph (`None`: the whole) that belong to some of its `nodes`, and their ids."""
    if subgraph is None:
        return nodes, nodes
    nodes = nodes[torch.isin(nodes, subgraph.ids)]
    return subgraph.relabel(nodes), nodes
