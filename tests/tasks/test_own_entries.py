"""What only the forgotten read, in any layout: made new where that is certain, named where others share it."""

import collections
import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
from tests.tasks.test_node_state import GONE, TASK, Rows, graph, look

N = 30
X = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
EYE, IDS, ARRAY = torch.eye(N), torch.arange(N), np.random.default_rng(0).random((N, 8), "float32")


def by_number(model) -> torch.Tensor:
    return torch.stack([model.plain[node] for node in range(N)])


#: A model, its features, and a function to what the model holds by node, `[N, k]`.
LAYOUTS = {
    "a flat table after other entries": (
        lambda: Rows(lambda m, x: x + m.own[8:].view(N, 8) + m.own[:8], own=nn.Parameter(torch.randn(8 * N + 8))), X,
        lambda m: m.own[8:].view(N, 8),
    ),
    "a table of another shape": (
        lambda: Rows(lambda m, x: x + m.own.reshape(N, 8), own=nn.Parameter(torch.randn(5, 6, 8))), X,
        lambda m: m.own.view(N, 8),
    ),
    "numbers beside features, in forward": (
        lambda: Rows(lambda m, x: m.first(torch.cat([x, EYE], dim=1)), first=nn.Linear(8 + N, 8)), X,
        lambda m: m.first.weight[:, 8:].t(),
    ),
    "numbers beside features, in the data": (
        lambda: Rows(lambda m, x: m.first(x), first=nn.Linear(8 + N, 8)), torch.cat([X, EYE], dim=1),
        lambda m: m.first.weight[:, 8:].t(),
    ),
    "a parameter per node": (
        lambda: Rows(lambda m, x: x + torch.stack(list(m.own)), own=nn.ParameterList([torch.randn(8) for _ in IDS])), X,
        lambda m: torch.stack(list(m.own)),
    ),
    "an array": (
        lambda: Rows(lambda m, x: x + torch.from_numpy(m.plain), plain=ARRAY.copy()), X,
        lambda m: torch.from_numpy(m.plain).clone(),
    ),
    "a dictionary by node": (
        lambda: Rows(lambda m, x: x + by_number(m), plain=dict(enumerate(torch.randn(N, 8)))), X,
        lambda m: by_number(m),
    ),
    "a list by node": (
        lambda: Rows(lambda m, x: x + torch.stack(m.plain), plain=[torch.randn(8) for _ in IDS]), X,
        lambda m: torch.stack(m.plain),
    ),
    "nested lists": (
        lambda: Rows(lambda m, x: x + torch.tensor(m.plain), plain=torch.randn(N, 8).tolist()), X,
        lambda m: torch.tensor(m.plain),
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ["utu", "finetune"])
@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*keeps a record per node:UserWarning")
def test_entries_that_forgotten_nodes_alone_read_are_new(case: str, method: str) -> None:
    torch.manual_seed(0)
    make, x, rows = LAYOUTS[case]
    model, data = make().eval(), graph(x)
    before = rows(model).detach().clone()
    result = gu.unlearn(model, data, gu.ForgetNodes(GONE), method, TASK, **({} if method == "utu" else {"epochs": 1}))
    after = rows(result.model).detach()
    assert not (after[GONE] == before[GONE]).any()
    assert torch.equal(rows(model).detach(), before)
    assert len(result.notes["reset"]) == 1
    if method == "utu":
        stay = torch.ones(N, dtype=torch.bool).index_fill(0, torch.tensor(GONE), False)
        assert torch.equal(after[stay], before[stay])
        result.model(data.x, data.edge_index)


def test_the_row_of_a_node_that_only_the_forgotten_one_read_stays() -> None:
    class Neighbours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.last = nn.Parameter(torch.randn(8 + 8 * N)), nn.Linear(8, 3)

        def forward(self, x, edge_index):
            rows = self.own[8:].view(N, 8)
            return self.last(x.index_add(0, edge_index[1], rows[edge_index[0]]))

    data, model = graph(X), Neighbours()
    lonely = (data.edge_index == 0).any(dim=0) & ~(data.edge_index == GONE[0]).any(dim=0)
    ends = torch.tensor([[0, GONE[0]], [GONE[0], 0]])
    data.edge_index = torch.cat([data.edge_index[:, ~lonely], ends], dim=1).unique(dim=1)
    result = gu.unlearn(model, data, gu.ForgetNodes(GONE), "utu", TASK)
    assert torch.equal(result.model.own[:16], model.own[:16])


class Weights(nn.Module):
    """A weight for each edge, found by the nodes at its ends."""

    def __init__(self, matrix: bool) -> None:
        super().__init__()
        pairs = graph().edge_index.t().tolist()
        self.own = (
            nn.Parameter(torch.rand(N, N))
            if matrix
            else nn.ParameterDict({f"{u}-{v}": torch.rand(1) for u, v in pairs})
        )
        self.one = GCNConv(8, 3)

    def at(self, edge_index):
        if isinstance(self.own, nn.ParameterDict):
            return torch.cat([self.own[f"{u}-{v}"] for u, v in edge_index.t().tolist()])
        return self.own[edge_index[0], edge_index[1]]

    def forward(self, x, edge_index):
        return self.one(x, edge_index, self.at(edge_index))


@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.filterwarnings("ignore:.*keeps forgotten pairs in:UserWarning")
def test_weights_of_forgotten_edges_are_new(matrix: bool) -> None:
    data, model = graph(X), Weights(matrix)
    result = gu.unlearn(model, data, gu.ForgetEdges([(0, 1)]), "utu", TASK)
    same = model.at(data.edge_index) == result.model.at(data.edge_index)
    ends = data.edge_index.sort(dim=0).values
    assert torch.equal(~same, (ends[0] == 0) & (ends[1] == 1))
    assert not any("0-1" in name for name in result.notes["reset"])  # a note does not say which


def shared(case: str):
    table = nn.Embedding(13, 8)
    if case == "hashed":
        return Rows(lambda m, x: x + m.table(IDS % 13), table=table), X
    if case == "an id of two nodes":
        ids = IDS.clone()
        ids[GONE[0]] = 0
        return Rows(look, table=nn.Embedding(N, 8)), ids
    if case == "categories":
        return Rows(lambda m, x: x + m.table(x[:, 0].abs().long() % 13), table=table), X
    return Rows(lambda m, x: torch.relu(x @ m.own), own=nn.Parameter(torch.randn(8, 8))), X  # units that few switch on


@pytest.mark.parametrize("case", ["hashed", "an id of two nodes", "categories", "weights of the caller's own"])
def test_rows_that_others_share_are_named_and_weights_are_none(case: str) -> None:
    model, x = shared(case)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = gu.unlearn(model, graph(x), gu.ForgetNodes(GONE[:1]), "utu", TASK)
    said = [str(one.message) for one in seen if "look up rows there that other nodes" in str(one.message)]
    assert len(said) == (case in ("hashed", "an id of two nodes"))
    assert all("'table.weight'" in text for text in said)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    assert case == "an id of two nodes" or "reset" not in result.notes


class Kept:
    pass


def helper(value):
    kept = Kept()
    kept.inner = {"values": value}
    return kept


OUTSIDE = {
    "an optimiser": lambda m: torch.optim.Adam(m.parameters()),
    "an earlier state": lambda m: copy.deepcopy(m.state_dict()),
    "checkpoints": lambda m: [{"epoch": 1, "model": copy.deepcopy(m.state_dict())}],
    "a teacher in a list": lambda m: [nn.Linear(8, 3)],
    "an object": lambda m: helper(np.ones((N, 2))),
    "a queue": lambda m: collections.deque(["a name"] * N),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_kept_outside_the_state_is_named_once(case: str) -> None:
    model = Rows(lambda m, x: x)
    model.kept = OUTSIDE[case](model)
    with pytest.warns(UserWarning, match=r"Rows keeps 'kept[^']*' \(.*outside its state") as seen:
        gu.unlearn(model, graph(X), gu.ForgetNodes(GONE), "utu", TASK)
    assert sum("outside its state" in str(one.message) for one in seen) == 1
    model.kept = {"width": 8, "names": ["a", "b"], "order": list(range(N))}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        gu.unlearn(model, graph(X), gu.ForgetNodes(GONE), "utu", TASK)


TABLE = torch.randn(N, 8, generator=torch.Generator().manual_seed(2))


class Around(nn.Module):
    own = torch.ones(N, N)

    def __init__(self) -> None:
        super().__init__()
        self.one = GCNConv(8, 3)

    def forward(self, x, edge_index):
        return self.one(x + TABLE + self.own @ x, edge_index)


@pytest.mark.parametrize("request_", [gu.ForgetNodes(GONE), gu.ForgetEdges([(0, 1)])])
def test_tables_of_the_class_and_the_module_that_forward_reads_are_named(request_) -> None:
    with pytest.warns(UserWarning, match=r"'Around.own' \(which its code reads\), 'TABLE' \(which its code reads\)"):
        gu.unlearn(Around(), graph(X), request_, "utu", TASK)


def test_extra_state_is_read() -> None:
    class Extra(Rows):
        def get_extra_state(self):
            return {"scale": torch.tensor(self.plain_scale)}

        def set_extra_state(self, state):
            pass

    model = Extra(lambda m, x: x * m.plain_scale, plain_scale=2.0)
    assert gu.unlearn(model, graph(X), gu.ForgetNodes(GONE), "utu", TASK).model.plain_scale == 2.0
    model.plain_scale = float("nan")
    with pytest.raises(gu.errors.InvalidInputError, match="_extra_state"):
        gu.unlearn(model, graph(X), gu.ForgetNodes(GONE), "utu", TASK)
