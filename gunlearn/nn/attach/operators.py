"""Deletion operators (GNNDelete): a linear map after a layer, on the rows of affected nodes alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.owner_key import VARIABLE, seal, unseal
from gunlearn.errors import CheckpointError, InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.attach.overrides import AfterLayer, Override
from gunlearn.nn.kernels.subgraph import Subgraph

OPERATOR_INITS = ("identity", "normal", "ones")
HOME = "deletions"  # the submodule of a layer that holds its operators, in the order in which they are applied
_SAVED = re.compile(rf"^(?:(.*)\.)?{HOME}\.(\d+)\.weight$")
_IDS = "_extra_state"  # torch's name in a state dict for what `get_extra_state` returns
_FORMER = "nodes"  # the name under which release 0.1 listed them


@dataclass(eq=False)
class OperatorView:
    """How operators behave during a training pass.

    Args:
        rows: for each operator the rows of the current part of the graph that it changes, and their node ids, both
            `[k]`, ids sorted; `None` for the whole graph.
        layerwise: detach results, so that an operator learns only from its own layer's loss.
        keep: compute the layers below the first operator, which have no trained weights, only once.

    Attributes:
        record: outputs of the operators in the last pass, in the order of their calls, `[k, channels]` each.
    """

    rows: dict[DeletionOperator, tuple[Tensor, Tensor]] | None = None
    layerwise: bool = False
    keep: bool = False
    record: list[Tensor] = field(default_factory=list)
    kept: Any = None


class DeletionOperator(nn.Module):
    """`h' = h W` on the rows of some nodes; all other rows stay unchanged (GNNDelete, arXiv 2302.13406, eq. 6).

    Where a pass reads another graph beside its own (`tasks/graph/beside.py`), the rows of its own come first. A second
    copy of all nodes is changed like the first; further rows of anything else stay unchanged.

    The nodes are the neighbourhood of what was forgotten. A `state_dict` and a pickle hold their mask sealed under the
    owner's key (`gunlearn.core.owner_key`), which loading needs.

    Args:
        nodes: sorted ids of the nodes, `[k]`.
        num_nodes: size of the graph that these ids belong to.
        channels: size of the layer's output.
        init: of `W` `[channels, channels]`: `"identity"` changes nothing; `"normal"` draws from `N(0, 1e-3^2)`;
            `"ones"` is 1/1000 everywhere, as in the authors' code.
        dtype: of `W`.

    Raises:
        UnsupportedModelError: called on a smaller graph, whose rows are other nodes.
    """

    by_node = True  # for `propagation_depth`: reads rows as nodes of one graph, and sends no messages
    nodes: Tensor
    num_nodes: Tensor

    def __init__(
        self, nodes: Tensor, num_nodes: int, channels: int, init: str = "identity", dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if init not in OPERATOR_INITS:
            raise InvalidInputError(f"Expected 'init' among {OPERATOR_INITS} (got {init!r})")
        weight = {
            "identity": lambda: torch.eye(channels),
            "normal": lambda: torch.randn(channels, channels) / 1000,
            "ones": lambda: torch.full((channels, channels), 1e-3),
        }[init]()
        self.weight = nn.Parameter(weight.to(device=nodes.device, dtype=dtype))
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("num_nodes", torch.tensor(num_nodes, device=nodes.device))
        self.view: OperatorView | None = None

    def forward(self, h: Tensor) -> Tensor:
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

    def get_extra_state(self) -> Tensor:
        """Return the sealed mask of the nodes, bytes `[16 + num_nodes]`."""
        mask = torch.zeros(int(self.num_nodes), dtype=torch.uint8)
        mask[self.nodes.cpu()] = 1
        return torch.frombuffer(bytearray(seal(mask.numpy().tobytes(), "node ids")), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the nodes of a `state_dict`."""
        self.nodes = ids_of({_IDS: state}).to(self.weight.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + _FORMER in state_dict:
            state_dict[prefix + _IDS] = state_dict.pop(prefix + _FORMER)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_buffers": {**self._buffers, "nodes": None}, _IDS: self.get_extra_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ids = state.pop(_IDS, None)
        super().__setstate__(state)
        if ids is not None:
            self.set_extra_state(ids)

    def extra_repr(self) -> str:
        return f"graph of {int(self.num_nodes)} nodes, {self.weight.size(0)} channels"  # how many it changes tells whom


class Deletion(AfterLayer):
    """Applies an operator after a layer permanently: copies and pickles of the model carry it."""

    operator: DeletionOperator

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's own output; with `OperatorView.keep`, the first layer's from memory."""
        view = self.operator.view
        if view is None or not view.keep or view.record:
            return super().original(*args, **kwargs)
        if view.kept is None:
            with torch.no_grad():
                view.kept = super().original(*args, **kwargs)
        return view.kept


def attach_operators(model: nn.Module, operators: Mapping[str, DeletionOperator]) -> list[Deletion]:
    """Put operators after a model's layers permanently, as their submodules `deletions.<number>`, by name of the layer.

    A layer may have several, one per request: a new one reads the older ones' output. They are part of the model's
    `parameters()` and `state_dict()`, and of copies and pickles of it.
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
    """Undo the last `attach_operators`."""
    for deletion in attached:
        deletion.uninstall()
        home = getattr(deletion.layer, HOME)
        del home[-1]
        if not len(home):
            delattr(deletion.layer, HOME)


def strip_operators(model: nn.Module) -> nn.Module:
    """Remove all operators from a model, in place."""
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
    """Attach the operators of a saved `state_dict`, if any, to a model without them, so that it can be loaded.

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
    saved = sorted((int(m[2]), m[1] or "", m.string.removesuffix("weight")) for m in map(_SAVED.match, state_dict) if m)
    layers, attached = message_passing_layers(model) if saved else {}, []
    for number, path, stem in saved:
        name = ".".join(part for part in path.split(".") if part != "_orig_mod")  # the wrapper of torch.compile
        if name not in layers or len(getattr(layers[name], HOME, ())) > number:
            continue  # of another model, or already attached: loading reports it
        weight, size = (state_dict[stem + part] for part in ("weight", "num_nodes"))
        operator = DeletionOperator(ids_of(state_dict, stem), int(size), weight.size(0), dtype=weight.dtype)
        attached += attach_operators(model, {name: operator})
    return attached


def ids_of(state_dict: Mapping[str, Tensor], stem: str = "") -> Tensor:
    """Return the sorted node ids `[k]` of a saved operator; CheckpointError where they are sealed under another key."""
    state = state_dict[stem + (_FORMER if stem + _FORMER in state_dict else _IDS)]
    if state.dtype == torch.long:  # listed
        return state.clone()
    mask = unseal(state.cpu().numpy().tobytes(), "node ids")
    if mask is None:
        raise CheckpointError(
            "Expected the key under which the operators' node ids were sealed (got another one, or damaged ids); set "
            f"{VARIABLE} to its file, or have its owner save the result with node_ids=True, which lists the ids"
        )
    return torch.frombuffer(bytearray(mask), dtype=torch.uint8).nonzero().view(-1)


def listed_ids(model: nn.Module) -> dict[str, Tensor]:
    """Return, for the `state_dict` of a model, entries with the operators' node ids in place of the sealed ones."""
    operators = {name: m for name, m in model.named_modules() if isinstance(m, DeletionOperator)}
    return {f"{name}.{_IDS}": module.nodes.cpu() for name, module in operators.items()}


@contextmanager
def viewed(operators: Collection[DeletionOperator], view: OperatorView) -> Iterator[None]:
    """Inside the block the operators behave as `view` says; its record is emptied first."""
    view.record.clear()
    for operator in operators:
        operator.view = view
    try:
        yield
    finally:
        for operator in operators:
            operator.view = None


def rows_in(nodes: Tensor, subgraph: Subgraph | None) -> tuple[Tensor, Tensor]:
    """Return the rows of `nodes` in a part of the graph (`None`: the whole) that holds them, and their ids."""
    if subgraph is None:
        return nodes, nodes
    nodes = nodes[torch.isin(nodes, subgraph.ids)]
    return subgraph.relabel(nodes), nodes
