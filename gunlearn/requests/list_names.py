"""What of a graph's attributes lists node pairs, triples, nodes or edges: the one definition, by name and shape."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Lists of pairs `[2, k]` that link splits add, ours and PyG's; all entry points check their node ids.
SPLIT_PAIRS = (
    *(f"{part}_{sign}_edge_index" for part in ("train", "val", "test") for sign in ("pos", "neg")),
    "edge_label_index",
    "pos_edge_label_index",
    "neg_edge_label_index",
)
_PART = r"(_?(train|val|valid|test|pos|neg|\d+))*$"
_PAIRS = re.compile(r"edge|pair|link|index")  # of `[2, k]`
_TALL = re.compile(r"(^|_)(edge|pair|link)s?(_?(list|set|dict)s?)?" + _PART)  # of `[k, 2]`, as edge_attr is not named
_TRIPLES = re.compile(r"tripl(e|et)s?(?![a-z])|quadruples?(?![a-z])|(^|_)facts?" + _PART)
_NODES = re.compile(
    r"^((train|val|valid|test|labell?ed|seed|root|anchor|center|centre|ego|query)_)?(node_?)?(idx|index|indices|ids|nodes)$"
    r"|^(seed|root|anchor|center|centre|ego|query)_(n|node)(_?(id|idx|index))?$|^(subset|ego|(anchor|root|center|centre)s?)$"
)
_EDGE_IDS = re.compile(r"(^|_)(edge_?(ids?|idx|indices|positions?)|e_?ids?)" + _PART)
_MAY_BE_EDGE_IDS = re.compile(r"^idx_(kj|ji)$|(^|_)edges?_?(map(per|ping)?|perm(utation)?|order|subset)s?$")
_MAY_BE_NODES = re.compile(
    r"(^|_)(sub_?graphs?_)?nodes?_?(map(per|ping)?|set|subset|order|list)s?$|(^|_)nodes?_(idx|index|ids?)s?$"
    r"|^(mapping|idx_[ijk])$|_(nodes|n_ids?)$"
)
_CELLS = re.compile(
    r"(^|_)((faces?|tri|triangles?|tetra(hedra)?|tets?|simplex|simplices)|"
    r"(quads?|polygons?|cliques?|cycles?|rings?|motifs?|walks?|paths?))(_?(list|set|index|indices|idx|nodes))?" + _PART
)
_HYPEREDGES = re.compile(r"(^|_)hyper_?edge_?(index|list)" + _PART)
_NOT_OF_NODES = re.compile(
    r"(^|_)(lg|line_?graph|tree|junction|cliques?|atom2\w+|(co)?boundary|coarse\w*|pool(ed|ing)|clusters?|motifs?"
    r"|upper|lower|fragments?|dual|super_?nodes?)_((\w+_)?edges?_?)?(index|indices)$"
)
_OF_EDGES = re.compile(
    r"(^|_)((co)?boundary|incidence|hodge|edge_laplacian|b[12])(_?(matrix|mat|laplacian))?(_?\d+)?$", re.I
)
_SPLIT = re.compile(r"(^|_)(train|val|valid|test|pos|neg)(_|$)")
_RUNS_BESIDE = re.compile(r"^(train|val|test)_.*edge|edge_index$|edge_label_index$")
_ABSENT = re.compile(r"(?<![a-z])neg")
_OTHERS = ("x", "y", "pos", "edge_index", "batch", "ptr", "n_id", "face", "edge_attr", "edge_weight", "edge_type")
_ENDS = (("head", "tail"), ("src", "dst"), ("source", "target"), ("row", "col"))
_WHOLE = (torch.long, torch.int, torch.short)


def lists_absent_pairs(name: str) -> bool:
    """Return whether a name says that pairs are no edges (`neg_*`)."""
    return bool(_ABSENT.search(name))


def named_as_rows(name: str) -> bool:
    """Return whether a name is that of pairs as rows `[k, 2]`, such as OGB's `edge`."""
    return bool(_TALL.search(name))


def beside_the_edges(name: str) -> bool:
    """Return whether an attribute belongs to other edges than those of `edge_index`, however long it is."""
    return bool(_RUNS_BESIDE.search(name))


def named_as_cells(name: str) -> bool | None:
    """Return whether a name is surely that of cells of several nodes (`face`), `False` where it may be (`rings`)."""
    found = _CELLS.search(name)
    return None if found is None else found.group(3) is not None


def lists_hyperedges(name: str, ids: Tensor) -> bool:
    """Return whether an attribute `[2, k]` has a node and its hyperedge per entry (`hyperedge_index`)."""
    return bool(_HYPEREDGES.search(name)) and ids.dim() == 2 and ids.size(0) == 2


def numbers_other_things(name: str) -> bool:
    """Return whether a name is that of pairs of edges, cells or clusters (`lg_edge_index`), which are no nodes."""
    return bool(_NOT_OF_NODES.search(name))


def made_of_edges(name: str) -> bool:
    """Return whether a name is that of a graph of edges or cells, or of a matrix with an entry per edge."""
    return numbers_other_things(name) or bool(_OF_EDGES.search(name))


def may_list_nodes(name: str) -> bool:
    """Return whether integers of a name may be ids of nodes, where nothing says that they are."""
    counts = name.startswith(("num", "n_nodes", "max", "count"))
    return not counts and bool(_MAY_BE_NODES.search(name)) and not _NODES.search(name)


def list_shape(name: str, ids: Tensor, num_nodes: int, sizes: Collection[int], rows: bool) -> tuple[int, bool] | None:
    """Return along which dimension an attribute lists pairs, triples or nodes, and whether its name says so.

    Args:
        name: of the attribute.
        ids: its integers.
        num_nodes: number of nodes.
        sizes: lengths that attributes of nodes, edges and graphs have: an attribute that long belongs to them, unless
            its name says pairs.
        rows: it is a Python list of pairs, whose entries are rows.

    Returns:
        `None` where it is no list.
    """
    if (
        name in _OTHERS
        or "hyperedge" in name
        or numbers_other_things(name)
        or ids.numel() == 0
        or ids.dim() not in (1, 2)
    ):
        return None
    if ids.dim() == 1:
        named = _NODES.search(name) and ids.numel() not in sizes
        return (0, True) if named and _inside(ids, num_nodes) else None
    high, wide = ids.shape
    tall, pairs, triples = (bool(rule.search(name)) for rule in (_TALL, _PAIRS, _TRIPLES))
    if high == 2 and not (rows or triples) and (2 not in sizes or "index" in name):
        if pairs or _inside(ids, num_nodes):
            return 1, pairs
    elif wide == 2 and (tall or (high not in sizes and _inside(ids, num_nodes))):
        return 0, tall or triples
    elif wide in (3, 4) and (triples or (tall and high not in sizes) or (high not in sizes and int(ids.min()) >= 0)):
        return 0, triples or tall
    elif high in (3, 4) and not rows and (triples or (high not in sizes and int(ids.min()) >= 0)):
        return 1, triples or pairs
    return None


def is_list(name: str, value: Any, num_nodes: int, num_columns: int) -> bool:
    """Return whether an attribute lists pairs, triples, nodes or edges, so that it changes when edges go."""
    read = integers(name, value)
    if read is None:
        return False
    shape = list_shape(name, read[0], num_nodes, (num_nodes, num_columns), read[1])
    return shape is not None or lists_edge_positions(name, read[0], num_columns) is True


def lists_edge_positions(name: str, ids: Tensor, num_columns: int) -> bool | None:
    """Return whether integers `[k]` are positions of edges: `None` where it cannot be told from the name.

    As many as there are edges are names of the edges, one each, unless the name is that of a part of a split.
    """
    if ids.dim() != 1 or ids.numel() == 0 or not _inside(ids, num_columns):
        return False
    if ids.numel() == num_columns and not _SPLIT.search(name):
        return False
    if _EDGE_IDS.search(name):
        return True
    return None if _TALL.search(name) or _MAY_BE_EDGE_IDS.search(name) else False


def ends_apart(names: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs of names that hold the two ends of edges, such as `head` and `tail`."""
    found = []
    for first, second in _ENDS:
        for name in names:
            other = re.sub(rf"(?<![a-z]){first}(?![a-z])", second, name)
            if other != name and other in names:
                found.append((name, other))
    return found


def integers(name: str, value: Any) -> tuple[Tensor, bool] | None:
    """Return a tensor, an array or a list of integers or of pairs as int64, and whether it is a list of rows."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return _of_python(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value = torch.from_numpy(np.ascontiguousarray(value) if value.dtype.kind == "f" else value.astype(np.int64))
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return None
    if value.is_floating_point() and _TRIPLES.search(name) and value.dim() == 2:  # times may be fractions
        return value.nan_to_num(-1).long(), False
    if value.dtype not in _WHOLE:
        return None
    return (value.as_tensor() if hasattr(value, "as_tensor") else value).long(), False  # PyG's EdgeIndex


def _of_python(name: str, value: Any) -> tuple[Tensor, bool] | None:
    first = list(islice(value, 1))
    if not first:
        return None
    if named_as_cells(name) is not None:
        return _padded(value)
    if isinstance(first[0], (list, tuple)):
        if not all(_is_number(entry) for entry in islice(first[0], 4)) or len(first[0]) < 2:
            return None
    elif not (_is_number(first[0]) and (_NODES.search(name) or _EDGE_IDS.search(name))):
        return None
    try:
        array = np.array(list(value))
    except ValueError:  # of unequal lengths
        return None
    if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and array.shape[-1:] not in ((3,), (4,))):
        return None
    ids = torch.from_numpy(array.astype(np.int64))
    return ids, ids.dim() == 2 and not (ids.size(0) == 2 and ids.size(1) > 4)


def _padded(value: Any) -> tuple[Tensor, bool] | None:
    """Return the ids of cells of different sizes `[k, m]`, -1 beyond the end of each."""
    cells = [entry.tolist() if isinstance(entry, (Tensor, np.ndarray)) else entry for entry in value]
    if not all(isinstance(cell, (list, tuple, set, frozenset)) for cell in cells):
        return None
    sizes = [len(cell) for cell in cells]
    flat = [node for cell in cells for node in cell]
    if not flat or not all(isinstance(node, (int, np.integer)) and not isinstance(node, bool) for node in flat):
        return None
    ids, inside = torch.full((len(cells), max(sizes)), -1), torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    ids[inside] = torch.tensor(flat).long()
    return ids, True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _inside(ids: Tensor, size: int) -> bool:
    return ids.numel() > 0 and int(ids.min()) >= 0 and int(ids.max()) < size
