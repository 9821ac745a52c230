"""A graph that a model keeps for itself: refused where it decides outputs, named where it is only kept."""

import warnings

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import to_dense_adj, to_torch_coo_tensor

import gunlearn as gu
from gunlearn.errors import UnsupportedModelError
from tests.model_kinds import blocks

DATA, TASK = blocks(), "node_classification"
EDGES, N = DATA.edge_index, int(DATA.num_nodes)
STORED = {
    "edge_index": (EDGES, "own"),
    "pairs as rows": (EDGES.t().contiguous(), "own_edges"),
    "a part of it": (EDGES[:, :30], "own"),
    "reversed": (EDGES.flip(0), "own"),
    "a sparse matrix": (to_torch_coo_tensor(EDGES, size=N), "own"),
    "a dense matrix": (to_dense_adj(EDGES, max_num_nodes=N)[0], "own"),
    "a boolean matrix": (to_dense_adj(EDGES, max_num_nodes=N)[0] > 0, "own"),
    "a list": ([EDGES], "own"),
    "a tuple": ((EDGES, torch.ones(EDGES.size(1))), "own"),
    "a dictionary": ({"train": EDGES}, "own"),
    "a graph": (DATA, "own"),
}


class Keeps(nn.Module):
    """A layer on the graph that is given; and, where `reads`, a sum over the stored one."""

    def __init__(self, stored, name: str, reads: bool) -> None:
        super().__init__()
        self.conv, self.name, self.reads = GCNConv(8, 3), name, reads
        if isinstance(stored, torch.Tensor):
            self.register_buffer(name, stored)
        else:
            setattr(self, name, stored)

    def forward(self, x, edge_index):
        own = getattr(self, self.name)
        own = own["train"] if isinstance(own, dict) else own[0] if isinstance(own, list | tuple) else own
        own = own.edge_index if isinstance(own, Data) else own
        if own.is_floating_point() or own.dtype == torch.bool:
            more = own.float() @ x
        else:
            own = own.t() if own.size(1) == 2 else own
            more = torch.zeros_like(x).index_add_(0, own[1], x[own[0]])
        return self.conv(x + self.reads * more, edge_index)


@pytest.mark.parametrize("case", STORED)
def test_a_stored_graph_that_decides_outputs_is_refused_and_another_is_named(case: str) -> None:
    stored, name = STORED[case]
    for request in (gu.ForgetEdges(EDGES[:, :2]), gu.ForgetNodes(EDGES[:1, 0])):
        with pytest.raises(UnsupportedModelError, match=rf"edges of 'data' alone \(got '{name}"):
            gu.unlearn(Keeps(stored, name, True), DATA, request, "utu", TASK)
        model = Keeps(stored, name, False)
        with pytest.warns(UserWarning, match=f"keeps forgotten pairs in '{name}"):
            gu.unlearn(model, DATA, request, "utu", TASK)
        kept = getattr(model, name)
        assert kept is stored or torch.equal(kept, stored)


def test_pairs_that_are_not_forgotten_and_other_numbers_are_no_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    others = [
        EDGES[:, ~torch.isin(EDGES, EDGES[:, 0]).any(0)],
        torch.randint(0, N, (2, 60), generator=generator),
        torch.randn(N, N, generator=generator),
        torch.tensor([[0, 1], [1, 0]]),
    ]
    for stored in others:
        for request in (gu.ForgetEdges(EDGES[:, :1]), gu.ForgetNodes(EDGES[:1, 0])):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                gu.unlearn(Keeps(stored, "own", False), DATA, request, "utu", TASK)
            assert not [one for one in seen if "forgotten pairs" in str(one.message)]


def test_a_model_that_is_trained_anew_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"'own' \(2 pairs, which decide outputs\)"):
        gu.unlearn(Keeps(EDGES, "own", True), DATA, gu.ForgetEdges(EDGES[:, :1]), "retrain", TASK, epochs=1)


def test_a_packed_matrix_that_torch_cannot_copy_is_named() -> None:
    model = Keeps(to_torch_coo_tensor(EDGES, size=N).to_sparse_csr(), "own", True)
    with pytest.raises(UnsupportedModelError, match=r"got own of layout torch\.sparse_csr"):
        gu.unlearn(model, DATA, gu.ForgetEdges(EDGES[:, :1]), "utu", TASK)


def test_a_sparse_buffer_that_a_file_cannot_hold_is_named(tmp_path) -> None:
    model = Keeps(STORED["a sparse matrix"][0], "own", False)
    with pytest.warns(UserWarning, match="keeps forgotten pairs in 'own'"):
        result = gu.unlearn(model, DATA, gu.ForgetEdges(EDGES[:, :1]), "finetune", TASK, epochs=1)
    with pytest.raises(UnsupportedModelError, match="'own' of layout"):
        result.save(tmp_path)
