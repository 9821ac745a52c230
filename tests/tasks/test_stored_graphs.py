"""A graph that a model keeps for itself: refused where it decides outputs, named where it is only kept."""

import warnings
from types import SimpleNamespace

import networkx
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import to_dense_adj, to_torch_coo_tensor

import gunlearn as gu
from gunlearn.core.digest import content_hash
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
    "an object": (SimpleNamespace(edge_index=EDGES), "own"),
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
        own = own.edge_index if isinstance(own, Data | SimpleNamespace) else own
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


ADJACENCY = to_dense_adj(EDGES, max_num_nodes=N)[0]
PAIRS = [(int(u), int(v)) for u, v in EDGES.t() if u < v]
NEIGHBOURS = [row.nonzero().view(-1).tolist() for row in ADJACENCY]
WIDTH = max(map(len, NEIGHBOURS))


def padded(fill: int) -> torch.Tensor:
    return torch.tensor([ends + [fill] * (WIDTH - len(ends)) for ends in NEIGHBOURS])


#: What a model keeps as `own`, and how it reads pairs `[2, k]` from it.
FORMS = {
    "a neighbour table": (padded(-1), lambda own: pairs_of([[e for e in ends if e >= 0] for ends in own.tolist()])),
    "a table filled up with 0": (padded(0), lambda own: pairs_of(own.tolist())),
    "codes": (torch.tensor([u * N + v for u, v in PAIRS]), lambda own: torch.stack([own // N, own % N])),
    "lists of neighbours": (NEIGHBOURS, lambda own: pairs_of(own)),
    "neighbours by node": (dict(enumerate(map(set, NEIGHBOURS))), lambda own: pairs_of([own[i] for i in range(N)])),
    "a set of pairs": (set(PAIRS), lambda own: torch.tensor(sorted(own)).t()),
    "weights by pair": (dict.fromkeys(PAIRS, 1.0), lambda own: torch.tensor(sorted(own)).t()),
    "names of pairs": (
        {f"{u}-{v}": 1.0 for u, v in PAIRS},
        lambda own: torch.tensor([[int(node) for node in key.split("-")] for key in sorted(own)]).t(),
    ),
    "networkx": (networkx.from_edgelist(PAIRS), lambda own: torch.tensor(sorted(own.edges())).t()),
}  # fmt: skip


def pairs_of(neighbours) -> torch.Tensor:
    return torch.tensor([(node, end) for node, ends in enumerate(neighbours) for end in sorted(ends)]).t()


class Reads(nn.Module):
    def __init__(self, own, read, reads: bool) -> None:
        super().__init__()
        self.conv, self.read, self.reads = GCNConv(8, 3), read, reads
        if isinstance(own, torch.Tensor):
            self.register_buffer("own", own)
        else:
            self.own = own

    def forward(self, x, edge_index):
        if self.reads:
            pairs = self.read(self.own)
            x = x.index_add(0, pairs[0], x[pairs[1]])
        return self.conv(x, edge_index)


REQUESTS = {"edges": gu.ForgetEdges(EDGES[:, :2]), "nodes": gu.ForgetNodes(EDGES[:1, 0])}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("case", FORMS)
def test_pairs_are_found_in_whatever_form_they_are_kept(case: str, kind: str) -> None:
    own, read = FORMS[case]
    with pytest.raises(UnsupportedModelError, match=r"edges of 'data' alone \(got 'own'"):
        gu.unlearn(Reads(own, read, True), DATA, REQUESTS[kind], "utu", TASK)
    before = content_hash(own)
    with pytest.warns(UserWarning, match=r"Reads keeps forgotten pairs in 'own' \(\d+ pairs\)"):
        result = gu.unlearn(Reads(own, read, False), DATA, REQUESTS[kind], "utu", TASK)
    assert content_hash(own) == before
    assert "reset" not in result.notes  # ids are no state: no node becomes node 0


@pytest.mark.parametrize("kind", REQUESTS)
def test_row_pointers_and_columns(kind: str) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            matrix = ADJACENCY.to_sparse_csr()
            self.register_buffer("rowptr", matrix.crow_indices())
            self.register_buffer("col", matrix.col_indices())
            self.conv = GCNConv(8, 3)

        def forward(self, x, edge_index):
            return self.conv(x + torch.segment_reduce(x[self.col], "sum", offsets=self.rowptr), edge_index)

    with pytest.raises(UnsupportedModelError, match="'rowptr' and 'col'"):
        gu.unlearn(Rows(), DATA, REQUESTS[kind], "utu", TASK)


@pytest.mark.parametrize("kind", REQUESTS)
def test_weights_by_the_position_of_an_edge_are_refused_in_words(kind: str) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.conv = nn.Parameter(torch.rand(EDGES.size(1))), GCNConv(8, 3)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index, self.own)

    with pytest.raises(UnsupportedModelError, match="weights per edge in 'own'"):
        gu.unlearn(Weighted(), DATA, REQUESTS[kind], "utu", TASK)


def test_a_call_that_reads_a_file_is_refused_and_one_that_reads_its_argument_is_not(tmp_path) -> None:
    torch.save((DATA.x, ADJACENCY), tmp_path / "graph.pt")

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(8, 3)

        def forward(self, x, a):
            return self.one(a @ x)

    def of_data(model, data):
        return model(data.own, torch.eye(N))

    with pytest.raises(UnsupportedModelError, match="to read its argument 'data'"):
        gu.unlearn(
            Dense(), DATA, REQUESTS["edges"], "utu", TASK, call=lambda m, d: m(*torch.load(tmp_path / "graph.pt"))
        )
    data = DATA.clone()
    data.own = DATA.x.clone()
    gu.unlearn(Dense(), data, REQUESTS["nodes"], "utu", TASK, call=of_data)
