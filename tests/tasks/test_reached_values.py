"""Graphs around a model's class, which its code reads: they are named, in whatever form they are kept."""

import types
import warnings
from types import SimpleNamespace

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import UnsupportedModelError
from tests.model_kinds import blocks

DATA, TASK = blocks(), "node_classification"
EDGES, N = DATA.edge_index, int(DATA.num_nodes)
PAIRS = [(int(u), int(v)) for u, v in EDGES.t()]
TENSOR, ARRAY, GRAPH, OBJECT = EDGES.clone(), EDGES.numpy().copy(), DATA.clone(), SimpleNamespace(own=EDGES.clone())
NESTED, NAMED, SET = {"train": [EDGES.clone()]}, networkx.Graph(PAIRS), SimpleNamespace(own=set(PAIRS))
NEIGHBOURS = {node: [v for u, v in PAIRS if u == node] for node in range(N)}
MATRIX = scipy.sparse.coo_matrix((np.ones(len(PAIRS)), (ARRAY[0], ARRAY[1])), shape=(N, N)).tocsr()
MODULE = types.ModuleType("settings_of_a_study")
MODULE.OWN = EDGES.clone()
OTHERS, ORDER = torch.tensor([[0, 1], [1, 0]]), {"names": ["a", "b"], "of": set(range(5))}


def function():
    return TENSOR


def pairs(own) -> torch.Tensor:
    return torch.tensor(sorted(map(tuple, own))).t()


#: The name in the warning, and a function to the edges.
READS = {
    "a tensor": ("TENSOR", lambda model: TENSOR),
    "an array": ("ARRAY", lambda model: torch.tensor(ARRAY)),
    "a graph": ("GRAPH.edge_index", lambda model: GRAPH.edge_index),
    "an object": ("OBJECT.own", lambda model: OBJECT.own),
    "a collection": (r"NESTED\['train'\]\[0\]", lambda model: NESTED["train"][0]),
    "a graph of networkx": ("NAMED", lambda model: pairs([*NAMED.edges(), *((v, u) for u, v in NAMED.edges())])),
    "a set on an object": ("SET.own", lambda model: pairs(SET.own)),
    "lists of neighbours": ("NEIGHBOURS", lambda model: pairs([(u, v) for u, to in NEIGHBOURS.items() for v in to])),
    "a matrix": ("MATRIX", lambda model: torch.from_numpy(np.stack(MATRIX.nonzero())).long()),
    "another module": ("MODULE.OWN", lambda model: MODULE.OWN),
    "a function": ("TENSOR", lambda model: function()),
}  # fmt: skip


def model_of(read) -> nn.Module:
    """Return a model of a class whose forward pass sends messages along other edges, too."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(8, 3)

        def own(self):
            return read(self)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index) + self.conv(x, self.own())

    return Reads()


@pytest.mark.parametrize("case", READS)
@pytest.mark.parametrize(
    "request_", [gu.ForgetEdges(EDGES[:, :2]), gu.ForgetNodes(EDGES[:1, 0])], ids=["edges", "node"]
)
def test_a_graph_around_the_class_is_named(case: str, request_) -> None:
    name, read = READS[case]
    with pytest.warns(UserWarning, match=rf"Reads keeps '{name}' \([^)]*which its code reads\)"):
        gu.unlearn(model_of(read), DATA, request_, "utu", TASK)


def test_other_edges_and_unread_ones_are_not_named() -> None:
    def read(model):
        return OTHERS if ORDER else TENSOR

    for request in (gu.ForgetEdges(EDGES[:, -2:]), gu.ForgetNodes([N - 1])):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            gu.unlearn(model_of(read), DATA, request, "utu", TASK)


def test_a_call_that_adds_edges_from_outside_is_refused() -> None:
    model = GCNConv(8, 3)
    for outside, name in ((TENSOR, "edges"), (OBJECT, "edges.own")):

        def call(model, data, edges=outside):
            return model(data.x, data.edge_index) + model(data.x, getattr(edges, "own", edges))

        with pytest.raises(UnsupportedModelError, match=rf"read its argument 'data' alone \(got {name} "):
            gu.unlearn(model, DATA, gu.ForgetEdges(EDGES[:, :2]), "utu", TASK, call=call)
