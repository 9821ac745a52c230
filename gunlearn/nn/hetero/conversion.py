"""Conversion of heterogeneous models and graphs to one graph with types."""

import inspect

import torch
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.utils.sparse import cat

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.hetero.wrapper import HeteroWrapper, type_numbers
from gunlearn.nn.kernels.sparse import csr_tensor

_MASKS = ("train_mask", "val_mask", "test_mask")


def homogeneous(model: nn.Module, data: HeteroData) -> tuple[HeteroWrapper, Data]:
    """Turn a heterogeneous graph and its model into one graph and a model of it, for every request, task and method.

    Nodes are numbered type by type and edges relation by relation, both in the order of `data`; `wrapper.ids` and
    `wrapper.edge_ids` translate. A relation and its reverse (`rev_*` of `ToUndirected`, or one that holds the same
    pairs flipped) have one edge per pair: whichever is named, both go.

    Args:
        model: called as `model(x_dict, edge_index_dict)`, returns a dictionary of rows by node type, like models from
            PyG's `to_hetero` or of `HeteroConv` layers. It becomes a submodule of the wrapper, not a copy.
        data: `edge_index` of every relation; features `x` (dense or CSR, of one dtype) of the node types that have any.
            Not changed.

    Returns:
        The wrapper, and a `Data` with `x` `[num_nodes, widest]` (padded with zeros; `None` without features),
        `edge_index` `[2, E]`, `edge_type` `[E]`, `node_type` `[num_nodes]` and, where a type has them, integer labels
        `y` `[num_nodes]` (-1 elsewhere) and boolean `*_mask` (false elsewhere). Other attributes are dropped.

    Raises:
        InvalidTypeError: other types than these.
        InvalidInputError: features of several dtypes, a relation without `edge_index`, or attributes of edges for a
            model that takes more than features and edges.

    Example:
        >>> from torch_geometric.nn import HeteroConv, SAGEConv
        >>> hetero, cites = HeteroData(), ("paper", "cites", "paper")
        >>> hetero["paper"].x = torch.rand(4, 3)
        >>> hetero[cites].edge_index = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> wrapper, data = homogeneous(HeteroConv({cites: SAGEConv(3, 2)}), hetero)
        >>> wrapper(data.x, data.edge_index, data.edge_type).shape
        torch.Size([4, 2])
        >>> wrapper.edge_ids(data, cites, [0, 2])  # for ForgetEdges(edge_ids=...)
        tensor([0, 2])
    """
    if not isinstance(model, nn.Module) or not isinstance(data, HeteroData):
        got = f"{type(model).__name__} and {type(data).__name__}"
        raise InvalidTypeError(f"Expected a torch module and a torch_geometric HeteroData (got {got})")
    features = {kind: data[kind]["x"] for kind in data.node_types if isinstance(data[kind].get("x"), Tensor)}
    dtypes = {x.dtype for x in features.values()}
    if len(dtypes) > 1:
        raise InvalidInputError(f"Expected features 'x' of one dtype (got {sorted(map(str, dtypes))})")
    bad = [relation for relation in data.edge_types if not isinstance(data[relation].get("edge_index"), Tensor)]
    if bad or not data.edge_types:
        raise InvalidInputError(f"Expected an edge_index of every relation (got {bad or 'no relation'})")
    nodes = {kind: int(data[kind].num_nodes) for kind in data.node_types}
    edges = {relation: data[relation]["edge_index"].size(1) for relation in data.edge_types}
    _refuse_edge_attributes(model, data)
    widths = {kind: x.size(1) for kind, x in features.items()}
    wrapper = HeteroWrapper(model, nodes, edges, widths)

    device = data[data.edge_types[0]]["edge_index"].device
    out = Data(num_nodes=sum(nodes.values()))
    out.x = _stacked(nodes, features) if features else None
    columns = []
    for relation in data.edge_types:
        ends = zip(relation[::2], data[relation].edge_index, strict=True)
        columns.append(torch.stack([wrapper.ids(kind, row) for kind, row in ends]))
    out.edge_index = torch.cat(columns, dim=1)
    out.node_type, out.edge_type = (type_numbers(count, device) for count in (nodes, edges))
    out._edge_type_names = data.edge_types  # as PyG's `to_homogeneous` does; requests look for `rev_*` there
    wrapper.node_type = out.node_type.clone()
    for key, rest in (("y", -1), *((mask, False) for mask in _MASKS)):
        given = {kind: data[kind].get(key) for kind in nodes}
        given = {kind: v for kind, v in given.items() if isinstance(v, Tensor) and _fits(v, nodes[kind], key)}
        if given:
            out[key] = torch.full((out.num_nodes,), rest, device=device)
            for kind, value in given.items():
                out[key][wrapper.ids(kind).to(device)] = value.view(-1).to(out[key])
    return wrapper, out


def _stacked(nodes: dict[str, int], features: dict[str, Tensor]) -> Tensor:
    """Stack the features of all types, padded with zeros; CSR if any type's are CSR."""
    some = next(iter(features.values()))
    widest, total = max(x.size(1) for x in features.values()), sum(nodes.values())
    if all(x.layout == torch.strided for x in features.values()):
        out, start = some.new_zeros(total, widest), 0
        for kind, count in nodes.items():
            if kind in features:
                out[start : start + count, : features[kind].size(1)] = features[kind].detach()
            start += count
        return out
    parts = []
    for kind, count in nodes.items():
        if kind in features:
            x = features[kind].detach()
        else:
            nothing = torch.zeros(0, dtype=torch.long, device=some.device)
            x = csr_tensor(nothing.new_zeros(count + 1), nothing, nothing.to(some.dtype), (count, widest))
        parts.append(x if x.layout == torch.sparse_csr else x.to_sparse_csr())
    return cat(parts, dim=0)


def _fits(value: Tensor, size: int, key: str) -> bool:
    kind = value.dtype == torch.bool if key in _MASKS else not (value.is_floating_point() or value.dtype == torch.bool)
    return kind and value.numel() == size and value.size(0) == size


def _refuse_edge_attributes(model: nn.Module, data: HeteroData) -> None:
    """Refuse weights and attributes of edges that the model could read: the wrapper hands on features and edges."""
    names = ("edge_weight", "edge_attr", "edge_time")
    given = sorted({name for relation in data.edge_types for name in names if data[relation].get(name) is not None})
    parameters = inspect.signature(model.forward).parameters.values()
    more = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL][2:]
    if given and more:
        raise InvalidInputError(
            "Expected a typed graph without attributes of edges, which the wrapper does not hand on (got "
            f"{given}, and a model that takes {more}); delete them from the data if the model was trained without"
        )
