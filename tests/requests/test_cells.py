"""Faces, cells, hyperedges and graphs of edges, against Python sets and PyG's own transforms."""

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay
from torch_geometric.data import Data
from torch_geometric.transforms import FaceToEdge, LineGraph

import gunlearn as gu
from tests.requests.test_pair_lists import ring
from tests.tasks.cases import columns

POINTS = np.random.default_rng(0).random((14, 2))
TRIANGLES = Delaunay(POINTS).simplices.astype(np.int64)
EDGE = tuple(int(node) for node in TRIANGLES[0][:2])


def mesh() -> Data:
    data = FaceToEdge(remove_faces=False)(Data(x=torch.randn(14, 2), face=torch.from_numpy(TRIANGLES.T.copy())))
    data.num_nodes = 14
    return data


@pytest.mark.parametrize("kind", ["face", "triangles", "rows", "array", "sets", "rings"])
@pytest.mark.parametrize("request_", [gu.ForgetEdges([EDGE]), gu.ForgetNodes([EDGE[0]])], ids=["edge", "node"])
def test_faces_go_with_their_edges_and_nodes(kind, request_) -> None:
    data, sets = mesh(), [set(face) for face in TRIANGLES.tolist()]
    name = {"rows": "triangles", "array": "simplices", "sets": "cliques"}.get(kind, kind)
    value = {"array": TRIANGLES, "sets": sets, "rows": data.face.t().contiguous()}.get(kind, data.face)
    area = torch.arange(len(sets))
    del data.face
    data[name], data[f"{name.removesuffix('s')}_area"] = value, area
    gone = {EDGE[0]} if request_.kind == "nodes" else set(EDGE)
    kept = [i for i, face in enumerate(sets) if not gone <= face]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retain = request_.resolve(data).retain_data
    left = retain[name]
    left = left.t().tolist() if kind in ("face", "triangles", "rings") else list(left)
    assert [{int(node) for node in face} for face in left] == [sets[i] for i in kept]
    assert 0 < len(kept) < len(sets)
    assert retain[f"{name.removesuffix('s')}_area"].tolist() == kept


def test_edges_made_of_faces_again_hold_none_that_was_forgotten() -> None:
    retain = gu.ForgetEdges([EDGE]).resolve(mesh()).retain_data
    again = FaceToEdge()(Data(face=retain.face, num_nodes=14)).edge_index
    assert {EDGE, EDGE[::-1]}.isdisjoint(columns(again))


def test_cells_of_several_sizes() -> None:
    data = ring(cycles=[[0, 1, 2, 3], [4, 5, 6, 7, 0], [3, 4]])
    retain = gu.ForgetEdges([(0, 7)]).resolve(data).retain_data
    assert retain.cycles == [[0, 1, 2, 3], [3, 4]]  # 7 and 0 are neighbours
    retain = gu.ForgetNodes([3]).resolve(data).retain_data
    assert retain.cycles == [[4, 5, 6, 7, 0]]


def test_a_forgotten_node_leaves_its_hyperedges() -> None:
    data = ring(hyperedge_index=torch.tensor([[0, 2, 4, 2, 5], [0, 0, 0, 1, 1]]), hyperedge_attr=torch.ones(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retain = gu.ForgetNodes([2]).resolve(data).retain_data
        assert torch.equal(gu.ForgetEdges([(0, 1)]).resolve(data).retain_data.hyperedge_index, data.hyperedge_index)
    assert columns(retain.hyperedge_index) == [(0, 0), (4, 0), (5, 1)]
    assert retain.hyperedge_attr is data.hyperedge_attr
    data.hyperedge_index[0, 1] = 1
    with pytest.warns(UserWarning, match=r"'data\.hyperedge_index' has hyperedges that join both ends"):
        gu.ForgetEdges([(0, 1)]).resolve(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lg_edge_index", LineGraph()(ring(directed=True)).edge_index),
        ("boundary_index", torch.tensor([[0, 1, 1, 2], [0, 0, 1, 1]])),
        ("atom2clique_index", torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])),
        ("tree_edge_index", torch.tensor([[0, 2], [2, 0]])),
        ("incidence", torch.ones(8, 8)),
        ("idx_kj", torch.tensor([0, 1, 2])),
    ],
)
def test_what_is_made_of_edges_is_named_and_stays(name: str, value) -> None:
    data = ring(directed=True, **{name: value})
    with pytest.warns(UserWarning, match=rf"'data\.{name}' "):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert torch.equal(retain[name], value)


def test_a_tree_of_the_graph_itself_loses_the_edge() -> None:
    data = ring(tree_edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
    assert columns(gu.ForgetEdges([(1, 2)]).resolve(data).retain_data.tree_edge_index) == [(0, 1), (2, 3)]


@pytest.mark.parametrize("name", ["reverse_edge", "b2revb"])
def test_pointers_to_the_opposite_edge_point_to_it_still(name: str) -> None:
    back = torch.arange(16) ^ 1
    data = ring(**{name: back})
    assert torch.equal(data.edge_index[:, back], data.edge_index.flip(0))
    retain = gu.ForgetEdges([(2, 3), (6, 7)]).resolve(data).retain_data
    assert torch.equal(retain.edge_index[:, retain[name]], retain.edge_index.flip(0))


@pytest.mark.parametrize("name", ["root_n_id", "center_node_idx", "subset", "ego"])
def test_lists_of_nodes_by_the_names_of_samplers(name: str) -> None:
    retain = gu.ForgetNodes([3]).resolve(ring(**{name: torch.tensor([1, 3, 5])})).retain_data
    assert retain[name].tolist() == [1, 5]


def test_a_mapping_of_subgraphs_is_named() -> None:
    data = ring(subgraphs_nodes_mapper=torch.tensor([1, 3, 5, 3]))
    with pytest.warns(UserWarning, match=r"'data\.subgraphs_nodes_mapper' may list nodes"):
        gu.ForgetNodes([3]).resolve(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.ForgetNodes([2]).resolve(data)


@pytest.mark.parametrize("name", ["boundary", "ring", "paths", "num_nodes_of_parts"])
def test_names_alone_say_nothing(name: str) -> None:
    """A mask of boundary nodes, a flag per node, names of files, and counts are no cells."""
    value = {"paths": ["a.png", "b.png"], "num_nodes_of_parts": torch.tensor([3, 5])}.get(name, torch.arange(8) % 2)
    data = ring(**{name: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for request in (gu.ForgetEdges([(0, 1)]), gu.ForgetNodes([3])):
            assert len(request.resolve(data).retain_data[name]) == len(value)
