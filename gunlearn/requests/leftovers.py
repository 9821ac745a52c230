"""What still may list or describe the forgotten after all that is certain was taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gunlearn.requests.forgotten import Forgotten
from gunlearn.requests.graph_tensors import GONE
from gunlearn.requests.list_names import lists_absent_pairs

_LEAST = 0.5  # share of pairs that are edges, from which unnamed integers are read as nodes
_ENOUGH = 3  # pairs among numbers with a point, and codes of pairs
_MANY = 16  # integers that are too diverse to be classes
_MOST_PARTS, _MOST_DEPTH = 256, 3  # of a container that are looked at
_OTHERS = re.compile(
    r"(^|_)(class\w*|labels?|years?|sizes?|h?params?|dims?|layers?|ptr|batch|slices?|types?|counts?|num|deg\w*"
    r"|names|times?|shapes?|versions?|epochs?|relations?|kinds?|colou?rs?|e_?ids?|edge_?(ids?|mask|map\w*))(_|$)|^_"
)
_NODES = re.compile(
    r"(^|_)(idx|index|indices|ids|nodes?|vert(ex|ices)|subset|members?|neighbou?rs?|nbrs?|anchors?|landmarks?|roots?"
    r"|seeds?|cent(er|re)s?|ego|users?|persons?|people)(_|$)"
)
_POINTS = re.compile(r"parent|father|mother|mate|match|partner|nearest|pred(ecessor)?$|successor|pointer|next|prev")
_BETWEEN = re.compile(r"\s*[-_,;:|>/~\s]+\s*")
_MEASURES = re.compile(
    r"(^|_)(ages?|salary|incomes?|prices?|ranks?|scores?|amounts?|zip\w*|levels?|heights?|values?|weights?)(_|$)"
)
_TWO = re.compile(r"\D*?(\d+)\D+(\d+)\D*")


def still_holds(name: str, value: Any, forgotten: Forgotten, depth: int = 0) -> bool:
    """Return whether a value may list what is forgotten, or describe each node.

    Integers count where they are nodes of the graph and either their name says so, most of them are edges when read as
    pairs, or they are too diverse to be classes. Shapes count where a dimension is as long as there are nodes.
    """
    if lists_absent_pairs(name) or value is None or depth > _MOST_DEPTH:
        return False
    if isinstance(value, (Tensor, np.ndarray)):
        return _has_nodes_across(value, forgotten) or (
            not _OTHERS.search(name) and _array_holds(name, value, forgotten, depth)
        )
    if _OTHERS.search(name):
        return False
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return _frame_holds(value, forgotten)
    if hasattr(value, "edge_types") or hasattr(type(value), "is_edge_attr"):
        return True  # a graph that is not the same one
    if isinstance(value, dict):
        return _dict_holds(name, value, forgotten, depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _list_holds(name, value, forgotten, depth)
    return False


def _has_nodes_across(value: Any, forgotten: Forgotten) -> bool:
    """Return whether a dimension after the first is as long as there are nodes, or numbers in a row are a multiple."""
    size, shape = forgotten.graph.num_nodes, tuple(value.shape)
    if not forgotten.nodes.numel() or size < _ENOUGH or shape[:2] == (size, size):
        return False
    real = value.dtype.kind == "f" if isinstance(value, np.ndarray) else value.is_floating_point()
    return size in shape[1:] or (len(shape) == 1 and real and shape[0] > size and shape[0] % size == 0)


def _array_holds(name: str, value: Any, forgotten: Forgotten, depth: int) -> bool:
    if isinstance(value, np.ndarray):
        fields = value.dtype.names
        if fields is not None:
            whole = [value[field].ravel() for field in fields if value.dtype[field].kind in "iu"]
            rows = torch.from_numpy(np.stack(whole, 1).astype(np.int64)) if whole else None
            return rows is not None and _rows_hold(name, rows, forgotten)
        if value.dtype.kind not in "iuf":
            return _list_holds(name, value.tolist(), forgotten, depth) if value.dtype.kind in "OU" else False
        value = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64 if value.dtype.kind == "f" else np.int64))
    size, shape = forgotten.graph.num_nodes, tuple(value.shape)
    if value.layout != torch.strided or value.dtype == torch.bool or not value.numel() or shape[:2] == (size, size):
        return False
    if value.is_floating_point():
        return _floats_hold(name, value, forgotten)
    if value.is_complex():
        return False
    ids = value.long()
    if ids.dim() < 2:
        return _flat_holds(name, ids.view(-1), forgotten, depth)
    if ids.dim() == 2:
        turned = ids.size(0) in (2, 3, 4) and ids.size(1) > ids.size(0) and ids.size(0) != size
        return _rows_hold(name, ids.t() if turned else ids, forgotten)
    if ids.size(-1) in (2, 3):
        return _rows_hold(name, ids.reshape(-1, ids.size(-1)), forgotten)
    return ids.size(-2) == 2 and _rows_hold(name, ids.transpose(-1, -2).reshape(-1, 2), forgotten)


def _floats_hold(name: str, value: Tensor, forgotten: Forgotten) -> bool:
    """Return whether numbers with a point are pairs of nodes, and maybe a weight: most of the pairs must be edges."""
    if value.dim() != 2 or min(value.shape) not in (2, 3):
        return False
    rows = value if value.size(1) in (2, 3) and value.size(0) >= value.size(1) else value.t()
    ends = rows[:, :2]
    if len(ends) < _ENOUGH or not bool(torch.isfinite(ends).all()) or not torch.equal(ends, ends.round()):
        return False
    return _pairs_hold(ends.long().t(), forgotten)


def _flat_holds(name: str, ids: Tensor, forgotten: Forgotten, depth: int) -> bool:
    size = forgotten.graph.num_nodes
    low, high = int(ids.min()), int(ids.max())
    coded = (
        2 * size <= high < size * size and low >= 0 and len(ids) != size and len(ids) >= _ENOUGH
    )  # each a pair as one number
    if coded and _pairs_hold(torch.stack([ids // size, ids % size]), forgotten):
        return True
    if low < -1 or high > size:
        return False
    if len(ids) == size and size > 2:
        return _points_at(name, ids, forgotten)
    if not forgotten.nodes.numel():
        return False
    if high == size and low > 0 and _NODES.search(name):  # it seems to number the nodes from 1
        return bool((forgotten.ends_go(ids[None]) | forgotten.ends_go(ids[None] - 1)).any())
    if not bool(forgotten.ends_go(ids[None]).any()):
        return False
    distinct = len(ids) > 1 and ids.unique().numel() == len(ids)
    return bool(_NODES.search(name)) or (distinct and depth == 0)


def _points_at(name: str, ids: Tensor, forgotten: Forgotten) -> bool:
    """Return whether an integer per node is another node, such as its parent."""
    own = _rows_there(forgotten).to(ids.device)
    ids, size = ids[own], len(ids)
    if bool((ids.diff() > 0).all()) or name.endswith("_id"):
        return False
    inside = (ids >= 0) & (ids < size) & (ids != own)
    pairs = torch.stack([own[inside], ids[inside]])
    ends = bool(_POINTS.search(name)) or _share(pairs, forgotten) >= _LEAST
    if ends and bool(_pairs_go(pairs, forgotten).any()):
        return True
    stays = pairs[:, ~forgotten.ends_go(pairs[:1])]
    diverse = not _MEASURES.search(name) and 2 * ids.unique().numel() >= len(ids) >= _MANY
    return (ends or diverse) and bool(forgotten.ends_go(stays).any())


def _rows_there(forgotten: Forgotten) -> Tensor:
    """Return the nodes that were not forgotten before, whose rows are not blank."""
    before = forgotten.graph.data.get(GONE)
    size = forgotten.graph.num_nodes
    return torch.arange(size) if before is None or before.numel() != size else (~before).nonzero().view(-1).cpu()


def _rows_hold(name: str, ids: Tensor, forgotten: Forgotten) -> bool:
    """Return whether rows `[k, m]` of nodes, -1 or the number of nodes beyond their end, hold what is forgotten."""
    size = forgotten.graph.num_nodes
    if ids.size(1) == 1:
        return ids.numel() > 0 and _flat_holds(name, ids.view(-1), forgotten, 1)
    if not ids.numel() or int(ids.min()) < -1 or int(ids.max()) > size:
        return False
    nodes = forgotten.nodes.to(ids.device)
    if ids.size(0) == size:  # each row belongs to its node, and that of a forgotten one is blank
        own = _rows_there(forgotten).to(ids.device)
        own = own[~torch.isin(own, nodes)]
        ids = ids[own]
        pairs = torch.stack([own[:, None].expand_as(ids), ids]).view(2, -1)
    else:
        pairs = torch.stack([ids[:, :-1], ids[:, 1:]]).view(2, -1)
    inside = (ids >= 0) & (ids < size)
    pairs = pairs[:, ((pairs >= 0) & (pairs < size) & (pairs != pairs.flip(0))).all(dim=0)]
    by_edge, by_node = bool(_pairs_go(pairs, forgotten).any()), bool(forgotten.ends_go(ids.reshape(1, -1)).any())
    if not (by_edge or by_node):
        return False
    likely = bool(_NODES.search(name)) or _share(pairs, forgotten) >= _LEAST
    if not by_node or likely:
        return likely
    distinct = ids[inside].unique().numel()
    return size >= _MANY and 4 * distinct >= min(size, int(inside.sum()))


def _pairs_hold(pairs: Tensor, forgotten: Forgotten) -> bool:
    if not pairs.numel() or not bool((_pairs_go(pairs, forgotten) | forgotten.ends_go(pairs)).any()):
        return False
    return _share(pairs, forgotten) >= _LEAST


def _pairs_go(pairs: Tensor, forgotten: Forgotten) -> Tensor:
    return forgotten.pairs_go(pairs)[0] | forgotten.pairs_go(pairs.flip(0))[0]


def _share(pairs: Tensor, forgotten: Forgotten) -> float:
    if not pairs.numel():
        return 0.0
    return float((forgotten.is_edge(pairs) | forgotten.is_edge(pairs.flip(0))).float().mean())


def _frame_holds(frame: Any, forgotten: Forgotten) -> bool:
    """Return whether a data frame has a row per node, or columns of nodes."""
    if len(frame) == forgotten.graph.num_nodes and forgotten.nodes.numel():
        return True
    columns = [frame.iloc[:, i].to_numpy() for i in range(min(frame.shape[1], 16))]
    whole = [torch.from_numpy(column.astype(np.int64)) for column in columns if column.dtype.kind in "iu"]
    if any(_pairs_hold(torch.stack([a, b]), forgotten) for i, a in enumerate(whole) for b in whole[i + 1 :]):
        return True
    texts = [column.tolist() for column in columns if column.dtype.kind == "O"]
    both = (list(zip(a, b, strict=True)) for i, a in enumerate(texts) for b in texts[i + 1 :])
    return any(_names_hold(pairs, forgotten) for pairs in both)


def _list_holds(name: str, value: Iterable[Any], forgotten: Forgotten, depth: int) -> bool:
    parts = list(value)
    if not parts:
        return False
    if all(_is_whole(part) for part in parts):
        ids = torch.tensor([int(part) for part in parts])
        return _flat_holds(name, ids, forgotten, depth)
    if all(isinstance(part, str) for part in parts):
        return _texts_hold(parts, forgotten)
    if all(isinstance(part, (list, tuple, set, frozenset)) and all(map(_is_whole, part)) for part in parts):
        wide = max(map(len, parts))
        rows = [[*map(int, part)] + [-1] * (wide - len(part)) for part in parts]
        return wide > 0 and _rows_hold(name, torch.tensor(rows), forgotten)
    if depth and len(parts) == forgotten.graph.num_nodes > 2 and forgotten.nodes.numel():
        return True
    return any(still_holds(name, part, forgotten, depth + 1) for part in islice(parts, _MOST_PARTS))


def _dict_holds(name: str, value: dict, forgotten: Forgotten, depth: int) -> bool:
    size, keys = forgotten.graph.num_nodes, list(value)
    if keys and all(_is_whole(key) for key in keys):
        ids = torch.tensor([int(key) for key in keys])
        inside = int(ids.min()) >= 0 and int(ids.max()) < size
        entries = [list(part) if isinstance(part, (list, tuple, set, frozenset)) else None for part in value.values()]
        if inside and all(part is not None and all(map(_is_whole, part)) for part in entries):
            pairs = [(int(k), int(v)) for k, part in zip(keys, entries, strict=True) for v in part or ()]
            gone = forgotten.ends_go(torch.tensor([*pairs, *((k, k) for k in ids.tolist())]).t())
            if bool(gone.any()) or (pairs and _pairs_hold(torch.tensor(pairs).t(), forgotten)):
                return True
        elif inside and bool(forgotten.ends_go(ids[None]).any()) and (4 * len(ids) >= size or _NODES.search(name)):
            return True
    elif keys and all(isinstance(key, str) for key in keys):
        if len(keys) == size > 2 and forgotten.nodes.numel():
            return True
        if _texts_hold(keys, forgotten):
            return True
    parts = islice(value.items(), _MOST_PARTS)
    return any(still_holds(f"{name}_{key}", part, forgotten, depth + 1) for key, part in parts)


def _texts_hold(texts: list[str], forgotten: Forgotten) -> bool:
    """Return whether texts such as "3-7", or two names with a separator, are edges that go."""
    if all(_TWO.fullmatch(text) for text in texts):
        numbers = map(_TWO.fullmatch, texts)
        pairs = torch.tensor([[min(int(found[i]), 2**40) for i in (1, 2)] for found in numbers if found])
        return _pairs_hold(pairs.t(), forgotten)
    if not all(len(_BETWEEN.split(text)) == 2 for text in texts[:_MANY]):
        return False
    return _names_hold([tuple(_BETWEEN.split(text)) for text in texts], forgotten)


def _names_hold(pairs: list[tuple], forgotten: Forgotten) -> bool:
    """Return whether pairs of names of `data.node_id` are edges that go."""
    names = forgotten.graph.data.get("node_id")
    if not isinstance(names, (list, tuple)) or not all(len(pair) == 2 for pair in pairs):
        return False
    row = {name: i for i, name in enumerate(names)}
    return _pairs_hold(torch.tensor([[row.get(end, -1) for end in pair] for pair in pairs]).t(), forgotten)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
