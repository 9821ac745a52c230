"""Lists of node pairs and of nodes beside `edge_index`, and the attributes that go with their entries."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Data


_PAIR_NAME = re.compile(r"edge|pair|link|index")
_TALL_NAME = re.compile(r"(edge|pair|link)s?$")  # of pairs as rows, `[k, 2]`
_NODE_NAME = re.compile(
    r"^((train|val|valid|test|labell?ed|seed|root|anchor)_)?(node_?)?(idx|index|indices|ids|nodes)$"
)
_WHOLE = (torch.long, torch.int, torch.short)
_ABSENT = re.compile(r"(^|_)neg")


@dataclass(frozen=True)
class NamedList:
    """An attribute that lists pairs of nodes (`[2, k]` or `[k, 2]`) or nodes (`[k]`).

    Attributes:
        name: of the attribute.
        ids: `[2, k]`, or `[1, k]` for nodes.
        dim: the one that runs along the list.
        partners: attributes with an entry per entry of the list, such as `edge_label` of `edge_label_index`.
        perhaps: attributes of this length that may belong to this list or to another one.
        sure: the name says that these are pairs or nodes.
    """

    name: str
    ids: Tensor
    dim: int
    partners: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    sure: bool = True

    def holds(self, pairs: Tensor) -> Tensor:
        """Return which entries `[k]` are among ordered `pairs` `[2, n]`."""
        size = 1 + max(int(index.max()) if index.numel() else 0 for index in (self.ids, pairs))
        return torch.isin(self.ids[0] * size + self.ids[1], pairs[0] * size + pairs[1])


def named_lists(data: Data, num_nodes: int, per_edge: list[str]) -> list[NamedList]:
    """Return the lists of pairs and nodes beside `edge_index`, with what belongs to their entries.

    A list of pairs holds integers in `[0, num_nodes)` as `[2, k]`, whatever its name, or as `[k, 2]` where it is named
    "edges", "pairs" or "links". `per_edge` are the attributes that run along `edge_index`.
    """
    found = []
    for name in sorted(data.keys()):
        ids = _integers(data[name])
        if ids is None or name == "edge_index" or "hyperedge" in name or name in ("batch", "ptr", "n_id", "face"):
            continue
        sure = bool(_PAIR_NAME.search(name))
        pairs_by_shape = ids.dim() == 2 and ids.size(0) == 2 and num_nodes != 2
        taken = name in per_edge or (ids.size(0) == num_nodes and not _TALL_NAME.search(name) and not pairs_by_shape)
        if ids.dim() == 2 and ids.size(0) == 2 and (not taken or (sure and "index" in name)):
            if sure or _inside(ids, num_nodes):
                found.append(NamedList(name, ids, 1, sure=sure))
        elif ids.dim() == 2 and ids.size(1) == 2 and _TALL_NAME.search(name) and not taken:
            found.append(NamedList(name, ids.t(), 0))
        elif ids.dim() == 1 and _NODE_NAME.search(name) and not taken and _inside(ids, num_nodes):
            found.append(NamedList(name, ids[None], 0))
    return _with_partners(data, num_nodes, per_edge, found)


def _integers(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return torch.from_numpy(value.astype(np.int64))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype not in _WHOLE:
        return None
    value = value.as_tensor() if hasattr(value, "as_tensor") else value  # PyG's EdgeIndex
    return value.long()


def _inside(ids: Tensor, num_nodes: int) -> bool:
    return ids.numel() > 0 and int(ids.min()) >= 0 and int(ids.max()) < num_nodes


def _with_partners(data: Data, num_nodes: int, per_edge: list[str], lists: list[NamedList]) -> list[NamedList]:
    """Give each list the attributes that go with it: by name, else by a length that no other thing has."""
    rest: dict[str, int] = {}
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[name]
        if name not in ("edge_index", *(one.name for one in lists)) and _length(value) is not None:
            rest[name] = int(_length(value) or 0)
    owner: dict[str, NamedList] = {}
    for one in sorted(lists, key=lambda one: -len(_stem(one.name))):  # the longest name first
        stem, size = _stem(one.name), one.ids.size(1)
        names = [n for n, k in rest.items() if k == size and n.startswith(stem) and n not in owner]
        owner |= {n: one for n in names if n not in per_edge or "label" in stem}
    alone = {name for name, size in rest.items() if name not in owner and name not in per_edge and size > 1}
    perhaps: dict[str, list[str]] = {}
    for name in alone if "batch" not in data else ():
        same = [one for one in lists if one.ids.size(1) == rest[name] not in (num_nodes, data.edge_index.size(1))]
        if len(same) == 1:
            owner[name] = same[0]
        for one in same[: len(same) * (len(same) > 1)]:
            perhaps.setdefault(one.name, []).append(name)
    return [
        replace(one, partners=tuple(n for n, o in owner.items() if o is one), perhaps=tuple(perhaps.get(one.name, ())))
        for one in lists
    ]


def _length(value: Any) -> int | None:
    if isinstance(value, (Tensor, np.ndarray)):
        return None if not value.shape or (isinstance(value, Tensor) and value.layout != torch.strided) else len(value)
    return len(value) if isinstance(value, (list, tuple)) else None


def _stem(name: str) -> str:
    """Return what an attribute of a list's entries begins with: `pos_edge_label` for `pos_edge_label_index`."""
    return re.sub(r"(_?(index|indices|idx)|s)$", "", name) or name


def kept_entries(one: NamedList, gone: Tensor, there: Tensor, gone_nodes: Tensor) -> Tensor:
    """Return the entries `[k]` that stay without forgotten edges and nodes.

    A pair stays as long as an edge of any relation joins it. Pairs that are listed as absent (`neg_*`) stay unless a
    node goes: that they are no edges is true now.

    Args:
        one: the list.
        gone: columns of `edge_index` that go, `[2, k]`.
        there: the columns that stay.
        gone_nodes: ids of the nodes that go, `[k]`.
    """
    kept = ~torch.isin(one.ids, gone_nodes.to(one.ids.device)).any(dim=0)
    if one.ids.size(0) == 2 and not _ABSENT.search(one.name):
        device = one.ids.device
        named = one.holds(gone.to(device)).nonzero().view(-1)
        if named.numel():
            kept[named] &= replace(one, ids=one.ids[:, named]).holds(there.to(device))
    if one.perhaps and not bool(kept.all()):
        warnings.warn(
            f"entries of 'data.{one.name}' are taken out, and {', '.join(map(repr, one.perhaps))} of the same length "
            f"stay whole; if they belong to it, name them '{_stem(one.name)}_...'",
            stacklevel=2,
        )
    if not one.sure and not bool(kept.all()):
        warnings.warn(
            f"'data.{one.name}' was read as a list of node pairs, and {int((~kept).sum())} of {kept.numel()} that name "
            "what is forgotten were taken out; give it a name with 'edge' or 'pair' if it is one, else another dtype",
            stacklevel=2,
        )
    return kept
