"""Two graphs read in one pass: the retained one, and beside it the part of the original that forgotten nodes read."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError
from gunlearn.requests.graph_tensors import num_graphs
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.node_places import looks_nodes_up, may_be_table
from gunlearn.tasks.graph.reading import APART, small_subgraph

_READ = ("edge_weight", "edge_attr", "edge_type", "node_type")


def beside(
    retain: Data, original: Data, seeds: Tensor, model: nn.Module | None = None, task: Task | None = None
) -> tuple[Data, Callable[[Tensor], Tensor]]:
    """Return the retained graph joined with what `seeds` read of the original one, and the map of node numbers.

    The two are not connected. A forgotten node has no features and no edges in the retained graph, so a model's
    prediction of it is read on the original one, in the same pass. The map takes numbers of the original (among
    `seeds`) to those of the joint graph.

    Args:
        retain: the retained graph.
        original: the graph before the request, with the same node numbers.
        seeds: nodes to be read there, `[k]`.
        model: reduce the original to what this model reads for them, where that gives the same outputs of `task`.
        task: what the model predicts; without model and task all of the original is taken. Where it has a `call` of the
            caller's own, all attributes of nodes and edges are joined, else those that models are called with.

    Without features, or where the model is made for the nodes of one graph (it has a table of them, or reads its
    matrix), the two graphs are read one after the other: see `reading.parts_apart`.
    """
    if retain.get("x") is None or (model is not None and looks_nodes_up(model, int(retain.num_nodes))):
        return _apart(retain, original)
    part, place = original, lambda nodes: nodes
    if model is not None and task is not None and seeds.numel():
        found = small_subgraph(model, task, original, seeds.unique(), training=False, share=1.0)
        if found is not None:
            part, place = found[0].data, found[0].relabel
    num_retain = int(retain.num_nodes)
    joint = join(retain, part, part.edge_index + num_retain, task)
    if model is not None and task is not None and not _reads(model, task, joint, retain):
        return _apart(retain, original)
    return joint, lambda nodes: place(nodes) + num_retain


def join(retain: Data, part: Data, edge_index: Tensor, task: Task | None) -> Data:
    """Return a graph of the nodes of both, those of `retain` first.

    Args:
        retain: the retained graph.
        part: of the original one, with features.
        edge_index: the edges of `part`, numbered as in the result, `[2, k]`.
        task: see `beside`.
    """
    joint = Data(
        x=_stack(retain.x, part.x),
        edge_index=torch.cat([retain.edge_index, edge_index], dim=1),
        num_nodes=int(retain.num_nodes) + int(part.num_nodes),
    )
    if "batch" in retain:
        joint.batch = torch.cat([retain.batch, part.batch + num_graphs(retain)])
        joint.num_graphs = 2 * num_graphs(retain)
    for name in _READ if getattr(task, "call", None) is None else _per_item(retain):
        if isinstance(retain.get(name), Tensor) and isinstance(part.get(name), Tensor):
            joint[name] = torch.cat([retain[name], part[name]])
    return joint


def _per_item(data: Data) -> list[str]:
    """Return the names of all attributes of nodes and edges, any of which a caller's own call may read."""
    probe = copy.copy(data)  # `is_node_attr` caches its answers on its object
    names = [name for name in data.keys() if name not in ("x", "edge_index", "batch")]  # noqa: SIM118
    return [name for name in names if probe.is_node_attr(name) or probe.is_edge_attr(name)]


def _apart(retain: Data, original: Data) -> tuple[Data, Callable[[Tensor], Tensor]]:
    num_nodes = int(retain.num_nodes)
    edges = torch.cat([retain.edge_index, original.edge_index + num_nodes], dim=1)
    joint = Data(edge_index=edges, num_nodes=2 * num_nodes)
    joint.__dict__[APART] = retain, original
    return joint, lambda nodes: nodes + num_nodes


@torch.no_grad()
def _reads(model: nn.Module, task: Task, joint: Data, retain: Data) -> bool:
    """Return whether a model reads a joint graph, where it has something as long as the retained one.

    Or where its `call` may read what is not in the joint graph, such as an adjacency matrix.
    """
    num_nodes = joint.num_nodes
    tables = [value for owner, value in named_tensors(model).values() if may_be_table(owner, value)]
    lost = getattr(task, "call", None) is not None and set(retain.keys()) - set(joint.keys())
    if not tables and not lost:
        return True
    try:
        with isolated_rng():
            return task.encode(copy.deepcopy(model).eval(), joint).size(0) == num_nodes
    except (GunlearnError, RuntimeError, IndexError):
        return False


def is_joint(data: Data, partition: Any) -> bool:
    """Return whether a graph was made by `beside`."""
    return data is not partition.data and data is not partition.retain_data


def _stack(one: Tensor, other: Tensor) -> Tensor:
    """Stack the rows of both; CSR stays CSR."""
    if one.layout == torch.strided:
        return torch.cat([one, other])
    crow = torch.cat([one.crow_indices(), other.crow_indices()[1:] + one.crow_indices()[-1]])
    size = (one.size(0) + other.size(0), one.size(1))
    column, value = (torch.cat([getattr(m, name)() for m in (one, other)]) for name in ("col_indices", "values"))
    return torch.sparse_csr_tensor(crow, column, value, size=size, check_invariants=False)
