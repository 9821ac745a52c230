"""Attributes of a graph that were computed from its edges or features: what is forgotten stays in them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.requests.prepared import facts_of

#: Of node attributes computed from edges: positional encodings, eigenvectors, centralities.
_FROM_EDGES = re.compile(
    r"((^|_)(pe|rwpe|rwse|lappe|rrwp|pagerank|page_rank|centrality|betweenness|closeness|core_number)|^eig_?(vals?|vecs?)"
    r"|(^|_)eigen_?(values?|vectors?)|clustering_coef(ficients?)?)$|^pestat_",
    re.IGNORECASE,
)
_SIGN = re.compile(r"x_?\d+$")
_HELD_OUT = ("val_pos_edge_index", "test_pos_edge_index")
_SAMPLE, _LEAST = 64, 8  # rows that sort out columns first; fewer nodes may agree by chance


def warn_of_derived(data: Data, edges: bool = True, features: bool = True) -> None:
    """Warn of attributes that were computed from edges or features of the whole graph, and name them, once.

    They are known by name (`random_walk_pe`, `x1` of `SIGN`) or by value: columns of `x` and attributes that count a
    node's edges, weights that were divided by degrees.

    Args:
        data: the graph before anything is taken out.
        edges: edges go.
        features: features or nodes go.
    """
    names, facts = sorted(data.keys()), facts_of(data)
    if facts is not None and facts.get(("nothing derived", edges)):  # nor of what requests leave of the graph
        return
    found = [(name, "features of neighbours") for name in names if _is_sign(data, name)]
    if edges:
        found += [(name, "edges") for name in names if _is_named(data, name)]
        found += [entry for entry in _by_value(data) if entry[0] not in dict(found)]
    if facts is not None and not found:
        facts["nothing derived", edges] = True
    if not found or not (edges or features):
        return
    said = ", ".join(f"'data.{name}' ({what})" for name, what in found)
    warnings.warn(
        f"{said}: it looks as if the whole graph had been read to make these, so that values of what stays hold what "
        "is forgotten, and they cannot be made anew here. Compute them from data.edge_index and data.x in the model or "
        "in call=, and make them anew on result.data before anything reads it",
        stacklevel=4,
    )


def _rows(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.dim() > 0 and value.size(0) == size


def _is_sign(data: Data, name: str) -> bool:
    """Return whether an attribute is named and shaped as the features that `SIGN` sends along the edges."""
    x, value = data.get("x"), data[name]
    same = isinstance(x, Tensor) and isinstance(value, Tensor) and value.shape == x.shape and x.dim() == 2
    return bool(_SIGN.match(name)) and same and value.is_floating_point()


def _is_named(data: Data, name: str) -> bool:
    value = data[name]
    if name == "lambda_max":
        return True
    return bool(_FROM_EDGES.search(name)) and _rows(value, int(data.num_nodes or 0)) and value.is_floating_point()


def _by_value(data: Data) -> Iterator[tuple[str, str]]:
    """Yield attributes whose values follow from the edges."""
    size = int(data.num_nodes or 0)
    degrees = [d for d in _degrees(data, size) if d.unique().numel() > 2] if size >= _LEAST else []
    for name in sorted(data.keys()):
        value = data[name]
        if name in ("edge_weight", "edge_attr") and _is_normalised(value, data, size):
            yield name, "weights divided by degrees"
        elif name == "x" and _rows(value, size) and value.dim() == 2:
            if any(_has_counts(value, d) or _has_one_hot(value, d) for d in degrees):
                yield name, "degrees among its columns"
        elif name not in ("y", "batch") and _rows(value, size) and value.numel() == size:
            yield from [(name, "degrees") for d in degrees if torch.equal(value.reshape(-1).double(), d.double())][:1]


def _degrees(data: Data, size: int) -> list[Tensor]:
    """Return the numbers of edges of each node: outgoing and incoming, with and without held-out ones."""
    found = [torch.bincount(ends, minlength=size) for ends in data.edge_index]
    held = [data[name] for name in _HELD_OUT if isinstance(data.get(name), Tensor)]
    if held:
        start, end = (sum(torch.bincount(pairs[i], minlength=size) for pairs in held) for i in (0, 1))
        out, into = found
        found += [out + start, into + end, out + start + end]  # the last where edges are stored both ways
    return found


def _has_counts(x: Tensor, degree: Tensor) -> bool:
    """Return whether a column holds the degrees, as `LocalDegreeProfile` appends."""
    columns = (x[:_SAMPLE] == degree[:_SAMPLE, None]).all(dim=0).nonzero().view(-1)
    return bool((x[:, columns] == degree[:, None]).all(dim=0).any())


def _has_one_hot(x: Tensor, degree: Tensor) -> bool:
    """Return whether a block of columns holds the degrees as `OneHotDegree` appends them."""
    width = int(degree.max()) + 1
    starts = torch.arange(max(x.size(1) - width + 1, 0), device=x.device)
    some = torch.arange(min(_SAMPLE, x.size(0)), device=x.device)
    hits = x[some[:, None], degree[some, None] + starts] == 1
    every = torch.arange(x.size(0), device=x.device)
    for start in starts[hits.all(dim=0)].tolist():
        block = x[:, start : start + width]
        if bool((block[every, degree] == 1).all()) and bool(((block != 0).sum(dim=1) == 1).all()):
            return True
    return False


def _is_normalised(value: Any, data: Data, size: int) -> bool:
    """Return whether weights `[E]` are divided by sums over the edges of each node, as by `GCNNorm` or `GDC`."""
    row, col = data.edge_index
    if not _rows(value, row.numel()) or value.numel() != row.numel() or not value.is_floating_point():
        return False
    weight, rtol = value.detach().view(-1).double(), max(1e-4, 8 * torch.finfo(value.dtype).eps)
    if not weight.numel() or bool((weight <= 0).any()) or bool((weight == weight[0]).all()):
        return False

    def equal(one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, rtol=rtol, atol=0.0)

    for ends in (row, col):  # random walks
        total = weight.new_zeros(size).index_add_(0, ends, weight)
        if equal(total[ends], torch.ones_like(weight)):
            return True
    loop = row == col
    own = weight.new_zeros(size).index_put_((row[loop],), weight[loop])
    if bool((own[row] > 0).all()) and bool((own[col] > 0).all()):  # a self-loop of weight 1 was added
        inverse = own.sqrt()
        raw = weight / (inverse[row] * inverse[col])
        total = weight.new_zeros(size).index_add_(0, col, raw)
        if equal(raw, torch.ones_like(raw)) or equal(total[col], 1 / own[col]):
            return True
    for degree in _degrees(data, size):
        for added in (0, 1):
            root = (degree + added).double().sqrt()
            if equal(weight * root[row] * root[col], torch.ones_like(weight)):
                return True
    return False
