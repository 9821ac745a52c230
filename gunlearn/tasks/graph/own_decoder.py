"""A model that scores pairs itself, under another name than `decode`: inner products in its place would be wrong."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError, UnsupportedModelError

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask

_OF_GRAPHS = ("edge_weight", "edge_attr", "edge_type", "node_type")
_INNER = "decode=lambda model, z, pairs: (z[pairs[0]] * z[pairs[1]]).sum(-1)"


def check_inner_product(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> None:
    """Refuse, or warn of, a model without `decode` that seems to score pairs itself.

    Args:
        task: link prediction without a `decode` of the caller's or the model's own.
        model: a private copy that may be called again.
        data: the graph.
        outputs: the model's embeddings of it, `[num_nodes, dim]`.

    Raises:
        UnsupportedModelError: `forward` needs more than a graph, where `encode` is called in its place; or it returns
            as many numbers as it is given pairs.

    Warns of parameters that the embeddings do not depend on.
    """
    name = type(model).__name__
    takes = "" if task.call is not None else _takes_pairs(task, model, data, outputs)
    if takes:
        encode = "encode" if task.entry(model) is not model else "..."
        raise UnsupportedModelError(
            f"Expected 'decode' for a model that scores pairs itself (got {name}, whose {takes}, and no 'decode': "
            "inner products of embeddings would be trained in its place); pass decode=lambda model, z, pairs: ..., "
            f"with call=lambda model, data: model.{encode}(data.x, data.edge_index) for the embeddings z, or "
            f"{_INNER} if inner products are meant"
        )
    idle = _unread(task, model, data)
    if idle:
        shown = ", ".join(f"'{one}'" for one in idle[:3]) + (", ..." if len(idle) > 3 else "")
        warnings.warn(
            f"{name} has no 'decode', so that pairs are scored by inner products of embeddings; these do not depend on "
            f"{shown}. If pairs are scored by them, pass decode=lambda model, z, pairs: ...; {_INNER} ends this"
            " warning",
            stacklevel=6,
        )


def _takes_pairs(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> str:
    """Return in words how `forward` takes pairs; empty where it does not."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return ""
    own = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    said = f"forward({', '.join(p.name for p in own)})"
    needed = [p.name for p in own if p.default is p.empty]
    encoded = task.entry(model) is not model
    more = [name for name in needed[2:] if name not in _OF_GRAPHS]
    if encoded and more:
        return f"{said} needs '{more[0]}'"
    if not data.edge_index.numel():
        return ""
    number = 5 if data.num_nodes != 5 else 7  # no multiple of the number of nodes
    few, pairs = (_first(data.edge_index, k) for k in (11, number))  # all edges would cost as much as a few steps
    ways = [((data.x, few), {p.name: pairs}) for p in own[2:] if p.default is None and p.name not in _OF_GRAPHS]
    ways += [((outputs, pairs), {})] if encoded and len(needed) == 2 else []
    for given, named in ways:
        try:
            scores = model(*given, **named)
        except Exception:  # the caller's code can raise anything
            continue
        if isinstance(scores, Tensor) and scores.numel() == number:
            return f"{said} returns {number} numbers for {number} pairs"
    return ""


def _first(edges: Tensor, number: int) -> Tensor:
    return edges[:, torch.arange(number, device=edges.device) % edges.size(1)]


def _unread(task: GraphTask, model: nn.Module, data: Data) -> list[str]:
    """Return the names of trained parameters that the embeddings do not depend on."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        with torch.enable_grad():
            outputs = task.encode(model, data)
    except GunlearnError:
        return []
    if outputs.grad_fn is None:
        return []
    seen, read = set(), set()
    left: list[Any] = [outputs.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        read.add(id(getattr(node, "variable", None)))
        left += [following for following, _ in node.next_functions]
    return [name for name, parameter in trained.items() if id(parameter) not in read]
