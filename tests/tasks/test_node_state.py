"""What models keep of single nodes: the rows of forgotten nodes, those rows alone, and for good."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GCNConv, GPSConv, HeteroConv, LightGCN, SAGEConv, TGNMemory
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator
from torch_geometric.transforms import ToUndirected
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.errors import UnsupportedMethodError, UnsupportedModelError
from gunlearn.tasks.base import View
from gunlearn.tasks.graph.fresh_values import Draws

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*every cycle of the graph:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*keeps a record per node:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*'scrub' left the original:UserWarning"),
]

N, GONE = 30, [3, 21]
TASK = "node_classification"


def graph(x: torch.Tensor | None = None) -> Data:
    ring = torch.stack([torch.arange(N), (torch.arange(N) + 1) % N])
    chords = torch.stack([torch.arange(N), (7 * torch.arange(N) + 3) % N])
    y = torch.arange(N) % 3
    return Data(x=x, edge_index=to_undirected(torch.cat([ring, chords], dim=1)), y=y, num_nodes=N)


class Rows(nn.Module):
    """Reads a row per node, found by a function, and sends it along the edges."""

    def __init__(self, rows, **tensors) -> None:
        super().__init__()
        for name, value in tensors.items():
            if isinstance(value, nn.Module | nn.Parameter) or name.startswith("plain"):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)
        self.rows, self.one, self.two = rows, GCNConv(8, 8), GCNConv(8, 3)

    def forward(self, x, edge_index):
        return self.two(self.one(self.rows(self, x), edge_index).relu(), edge_index)


def look(model, x):
    return model.table(x.view(-1))


def whole(model, x):
    return model.table.weight


def both(model, x):
    return torch.cat([model.users.weight, model.items.weight])


def tied() -> Rows:
    model = Rows(whole, table=nn.Embedding(N, 8), out=nn.Linear(8, N))
    model.out.weight = model.table.weight
    return model


IDS = torch.randperm(500, generator=torch.Generator().manual_seed(1))[:N]
PERM = torch.randperm(N, generator=torch.Generator().manual_seed(0))
#: A model, its features, and the rows of each tensor that must be new.
KEPT = {
    "a table": (lambda: Rows(whole, table=nn.Embedding(N, 8)), None, {"table.weight": GONE}),
    "a table looked up": (lambda: Rows(look, table=nn.Embedding(N, 8)), torch.arange(N), {"table.weight": GONE}),
    "ids in another order": (
        lambda: Rows(look, table=nn.Embedding(N, 8)), PERM.view(-1, 1), {"table.weight": PERM[GONE].tolist()},
    ),
    "short integers": (lambda: Rows(look, table=nn.Embedding(N, 8)), torch.arange(N).int(), {"table.weight": GONE}),
    "ids from 1": (
        lambda: Rows(look, table=nn.Embedding(N + 1, 8, padding_idx=0)), torch.arange(N) + 1, {"table.weight": [4, 22]},
    ),
    "one row more, first": (
        lambda: Rows(lambda m, x: m.table.weight[1:], table=nn.Embedding(N + 1, 8, padding_idx=0)), None,
        {"table.weight": [4, 22]},
    ),
    "one row more, last": (
        lambda: Rows(lambda m, x: m.table.weight[:-1], table=nn.Embedding(N + 1, 8, padding_idx=N)), None,
        {"table.weight": GONE},
    ),
    "two types": (
        lambda: Rows(both, users=nn.Embedding(20, 8), items=nn.Embedding(10, 8)), None,
        {"users.weight": [3], "items.weight": [1]},
    ),
    "some nodes only": (
        lambda: Rows(lambda m, x: torch.cat([x[:20], x[20:] + m.items]), items=nn.Parameter(torch.randn(10, 8))),
        torch.randn(N, 8, generator=torch.Generator().manual_seed(1)), {"items": [1]},
    ),
    "beside features": (
        lambda: Rows(lambda m, x: x + m.own, own=nn.Parameter(torch.randn(N, 8))),
        torch.randn(N, 8, generator=torch.Generator().manual_seed(1)), {"own": GONE},
    ),
    "columns": (lambda: Rows(lambda m, x: m.own.t(), own=nn.Parameter(torch.randn(8, N))), None, {"own": GONE}),
    "a bias": (
        lambda: Rows(lambda m, x: x * m.own[:, None], own=nn.Parameter(torch.randn(N))),
        torch.ones(N, 8), {"own": GONE},
    ),
    "a memory and the time of its last event": (
        lambda: Rows(lambda m, x: m.memory, memory=torch.randn(N, 8), last_update=torch.arange(N) + 1), None,
        {"memory": GONE, "last_update": GONE},
    ),
    "a tied table": (tied, None, {"table.weight": GONE, "out.weight": GONE}),
    "a table in a list": (
        lambda: Rows(lambda m, x: m.all[0], all=nn.ParameterList([torch.randn(N, 8)])), None, {"all.0": GONE},
    ),
    "a table under a parametrisation": (
        lambda: Rows(whole, table=weight_norm(nn.Embedding(N, 8))), None,
        {f"table.parametrizations.weight.original{i}": GONE for i in (0, 1)},
    ),
    "one-hot features": (
        lambda: Rows(lambda m, x: m.first(x), first=nn.Linear(N, 8)), torch.eye(N), {"first.weight": GONE},
    ),
    "ids of a larger table": (
        lambda: Rows(lambda m, x: m.own[x.view(-1)], own=nn.Parameter(torch.randn(500, 8))), IDS[:, None],
        {"own": IDS[GONE].tolist()},
    ),
    "ids of columns": (
        lambda: Rows(lambda m, x: m.own[:, x].t(), own=nn.Parameter(torch.randn(8, 500))), IDS,
        {"own": IDS[GONE].tolist()},
    ),
    "ids of a buffer": (
        lambda: Rows(lambda m, x: m.own.index_select(0, x), own=torch.randn(500, 8)), IDS, {"own": IDS[GONE].tolist()},
    ),
    "ids of a flat table": (
        lambda: Rows(lambda m, x: m.own.view(500, 8)[x], own=nn.Parameter(torch.randn(4000))), IDS,
        {"own": [8 * int(i) + k for i in IDS[GONE] for k in range(8)]},
    ),
    "a flat table": (
        lambda: Rows(lambda m, x: m.own.view(N, 8), own=nn.Parameter(torch.randn(N * 8))), None,
        {"own": [8 * i + k for i in GONE for k in range(8)]},
    ),
    "a flat table, entry by entry": (
        lambda: Rows(lambda m, x: m.own.view(8, N).t(), own=nn.Parameter(torch.randn(N * 8))), None,
        {"own": [i + N * k for i in GONE for k in range(8)]},
    ),
    "a row for each head": (
        lambda: Rows(lambda m, x: m.own.view(N, 8), own=nn.Parameter(torch.randn(N * 2, 4))), None,
        {"own": [2 * i + k for i in GONE for k in range(2)]},
    ),
    "rows that attention mixes": (
        lambda: Rows(
            lambda m, x: m.gps(m.table.weight, torch.empty(2, 0, dtype=torch.long)),
            table=nn.Embedding(N, 8), gps=GPSConv(8, None, heads=2, norm=None),
        ), None, {"table.weight": GONE},
    ),
}  # fmt: skip
COLUMNS = {"columns": "own", "ids of columns": "own", "one-hot features": "first.weight"}  # a column per node


def changed(case: str, before: dict, after: dict) -> dict[str, list[int]]:
    """The rows (or columns) of each tensor that are not as they were."""
    found = {}
    for name, value in before.items():
        differ = (value != after[name]).reshape(value.size(0), -1) if value.dim() else (value != after[name]).view(1, 1)
        rows = differ.any(0 if COLUMNS.get(case) == name else 1).nonzero().view(-1).tolist()
        if rows:
            found[name] = rows
    return found


@pytest.mark.parametrize("case", KEPT)
def test_the_rows_of_forgotten_nodes_and_no_others_are_new(case: str) -> None:
    make, x, expected = KEPT[case]
    model, data = make().eval(), graph(x)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "'data.x' holds integers")
        result = gu.unlearn(model, data, gu.ForgetNodes(GONE), "utu", TASK, seed=4)
    assert changed(case, before, result.model.state_dict()) == {k: sorted(v) for k, v in expected.items()}
    assert set(result.notes["reset"]) == set(expected) - {"out.weight"}  # tied: one tensor, one name
    assert not changed(case, before, model.state_dict())
    assert torch.equal(torch.get_rng_state(), random)
    if "attention" not in case and "ids of" not in case:  # no prediction of what stays depends on them
        stay = torch.ones(N, dtype=torch.bool).index_fill(0, torch.tensor(GONE), False)
        old, new = (m(result.data.x, result.data.edge_index)[stay] for m in (model, result.model))
        torch.testing.assert_close(new, old)
    for name, value in result.model.state_dict().items():
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("x", [None, torch.arange(N)], ids=["no features", "ids"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("finetune", {"epochs": 3, "weight_decay": 0.1}),
        ("gradient_ascent", {"epochs": 3}),
        ("graddiff", {"epochs": 3}),
        ("npo", {"epochs": 3}),
        ("npo", {"epochs": 30, "kl_weight": 5.0, "message_graph": "full", "lr": 0.1}),  # pulls outputs to the old ones
        ("scrub", {"epochs": 3}),
        ("gnndelete", {"epochs": 3}),
        ("gif", {}),
        ("ssd", {}),
        ("etr", {}),
        ("auto", {}),
    ],
)
def test_no_method_brings_a_row_back(method: str, options: dict, x, tmp_path) -> None:
    torch.manual_seed(0)
    model, data = Rows(whole if x is None else look, table=nn.Embedding(N, 8)), graph(x)
    model = gu.train(model, data, TASK, epochs=30, lr=1e-2).model
    request = gu.ForgetNodes(GONE[:1]) + gu.ForgetSubgraph(GONE[1:], num_hops=0)
    fresh = gu.unlearn(model, data, request, "utu", TASK, seed=5).model.table.weight[GONE]
    result = gu.unlearn(model, data, request, method, TASK, seed=5, **options)
    assert torch.equal(result.model.table.weight[GONE], fresh)
    assert not (fresh == model.table.weight[GONE]).any()
    assert "table.weight" in result.notes["reset"]
    saved = load_file(result.save(tmp_path) / "model.safetensors")
    assert torch.equal(saved["table.weight"][GONE], fresh)


def test_new_rows_are_drawn_as_the_model_draws_them() -> None:
    data = gu.link_split(graph(), 0.1, 0.1)

    class Light(LightGCN):
        def forward(self, x, edge_index):
            return self.get_embedding(edge_index)

    model = Light(N, 8, 2)
    with torch.no_grad():
        model.embedding.weight.mul_(9)
    new = gu.unlearn(model, data, gu.ForgetNodes(GONE), "utu", seed=3).model.embedding.weight[GONE]
    torch.manual_seed(Draws(model, 3).seed)
    expected = nn.init.xavier_uniform_(torch.empty(N, 8))[GONE]
    assert torch.equal(new, expected)
    torch.manual_seed(3)  # under which the model may have been made: its first rows must not come back
    assert not torch.equal(new, nn.init.xavier_uniform_(torch.empty(N, 8))[GONE])
    plain = Rows(whole, table=nn.Embedding(N, 8))
    new = gu.unlearn(plain, graph(), gu.ForgetNodes(GONE), "utu", TASK, seed=3).model.table.weight[GONE]
    torch.manual_seed(Draws(plain, 3).seed)
    assert torch.equal(new, torch.randn(N, 8)[GONE])
    with torch.no_grad():  # drawn by the model's own code at another scale: like the other rows
        plain.table.weight.mul_(1e-3).add_(torch.arange(8.0))
    new = gu.unlearn(plain, graph(), gu.ForgetNodes(GONE), "utu", TASK, seed=3).model.table.weight[GONE]
    assert (new - torch.arange(8.0)).abs().max() < 1e-2
    other = gu.unlearn(plain, graph(), gu.ForgetNodes(GONE), "utu", TASK, seed=4).model.table.weight[GONE]
    assert not torch.equal(new, other)


def test_sizes_that_are_the_same_by_chance() -> None:
    class Wide(nn.Module):
        def __init__(self, scale: bool) -> None:
            super().__init__()
            self.lin, self.one, self.two = nn.Linear(8, N), GCNConv(N, N), GCNConv(N, 3)
            self.norm = nn.LayerNorm(N)
            self.scale = nn.Parameter(torch.rand(N) + 1) if scale else None

        def forward(self, x, edge_index):
            h = self.norm(self.lin(x).relu())
            return self.two(self.one(h if self.scale is None else h * self.scale, edge_index).relu(), edge_index)

    data, request = graph(torch.randn(N, 8)), gu.ForgetNodes(GONE)
    for scale in (False, True):
        model = Wide(scale)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            result = gu.unlearn(model, data, request, "utu", TASK)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
        assert "reset" not in result.notes
        said = [str(one.message) for one in seen if "per-node state" in str(one.message)]
        assert len(said) == scale
        assert all("'scale'" in text for text in said)


def test_edge_requests_leave_all_rows() -> None:
    model = Rows(whole, table=nn.Embedding(N, 8))
    result = gu.unlearn(model, graph(), gu.ForgetEdges([(0, 1)]), "utu", TASK)
    assert torch.equal(result.model.table.weight, model.table.weight)
    assert "reset" not in result.notes


class Decoder(nn.Module):
    """A bias of each node that only the decoder reads, by the node's number."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bias = GCNConv(8, 8), nn.Parameter(torch.randn(N))

    def encode(self, x, edge_index):
        return self.one(x, edge_index)

    def decode(self, z, pairs):
        return (z[pairs[0]] * z[pairs[1]]).sum(-1) + self.bias[pairs[0]] + self.bias[pairs[1]]


def test_state_that_only_a_decoder_reads() -> None:
    torch.manual_seed(0)
    data, model = gu.link_split(graph(torch.randn(N, 8)), 0.1, 0.1), Decoder()
    partition = gu.ForgetNodes(GONE).resolve(data)
    task = gu.LinkPrediction()
    parts = task.make_parts(View(partition, model=model))
    items = parts.sample(["forget"])["forget"]
    found = task.predict(model, parts.data, items).logits
    u, v = partition.forget_edge_index
    z = model.encode(data.x, data.edge_index)  # forgotten edges are read as the original graph shows them
    torch.testing.assert_close(found, (z[u] * z[v]).sum(-1) + model.bias[u] + model.bias[v])
    for method in ("utu", "npo"):
        result = gu.unlearn(model, data, gu.ForgetNodes(GONE), method, **({} if method == "utu" else {"epochs": 3}))
        assert not (result.model.bias[GONE] == model.bias[GONE]).any()
        assert method == "npo" or (result.model.bias == model.bias).sum() == N - len(GONE)


@pytest.mark.parametrize("case", ["a table", "a table looked up", "beside features"])
def test_forgotten_items_are_read_on_the_original_graph(case: str) -> None:
    make, x, _ = KEPT[case]
    model, data, task = make().eval(), graph(x), gu.NodeClassification()
    partition = gu.ForgetNodes(GONE).resolve(data)
    parts = task.make_parts(View(partition, model=model))
    items = parts.sample(["forget", "retain"])
    out, retained = model(data.x, data.edge_index), partition.retain_data
    torch.testing.assert_close(task.predict(model, parts.data, items["forget"]).logits, out[GONE])
    stays = model(retained.x, retained.edge_index)[items["retain"].index]
    torch.testing.assert_close(task.predict(model, parts.data, items["retain"]).logits, stays)


def test_what_needs_features_or_parts_of_the_graph_is_refused_in_words() -> None:
    model, data = Rows(whole, table=nn.Embedding(N, 8)), graph()
    for method in ("megu", "cognac"):
        with pytest.raises(UnsupportedMethodError, match="floating point features 'x'"):
            gu.unlearn(model, data, gu.ForgetNodes(GONE), method, TASK, epochs=2)
    with pytest.raises(UnsupportedMethodError, match="part of the graph"):
        gu.unlearn(model, data, gu.ForgetNodes(GONE), "npo", TASK, epochs=2, subgraph="always")


def test_evaluation_without_features() -> None:
    data = gu.node_split(graph(), 0.2, 0.2)

    def train(part: Data, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return gu.train(Rows(whole, table=nn.Embedding(N, 8)), part, TASK, epochs=5, seed=seed).model

    train_ids = data.train_mask.nonzero().view(-1)[:2]
    result = gu.unlearn(train(data, 0), data, gu.ForgetNodes(train_ids), "npo", TASK, epochs=3)
    table = gu.evaluate(result, references=[train(result.data, seed) for seed in (1, 2)])
    assert 0 <= table["js_forget"] <= 1


def test_a_memory_stays_empty_though_it_is_updated_when_training_ends() -> None:
    class Temporal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = TGNMemory(N, 2, 8, 4, IdentityMessage(2, 8, 4), LastAggregator())
            self.one = GCNConv(8, 3)

        def forward(self, x, edge_index):
            return self.one(self.memory.memory + x, edge_index)

    nodes = torch.arange(N)
    with torch.no_grad():  # it updates itself when training ends
        model = Temporal().eval()
        for _ in range(3):
            model.memory.update_state(nodes, nodes.roll(1), nodes, torch.randn(N, 2))
    data = graph(torch.randn(N, 8))
    with pytest.warns(UserWarning, match=r"'memory.msg_s_store' keeps a record per node"):
        result = gu.unlearn(model.train(), data, gu.ForgetNodes(GONE), "finetune", TASK, epochs=2)
    memory = result.model.memory
    assert not memory.memory[GONE].any()
    assert not memory.last_update[GONE].any()
    assert all(memory.msg_s_store[node][0].numel() == 0 for node in GONE)
    assert memory.memory[0].any()


@pytest.mark.parametrize("ids", [True, False])
def test_tables_of_a_typed_model(ids: bool) -> None:
    torch.manual_seed(0)
    hetero = HeteroData()
    hetero["user"].num_nodes, hetero["item"].num_nodes = 20, 10
    if ids:
        hetero["user"].x, hetero["item"].x = torch.arange(20)[:, None], torch.arange(10)[:, None]
    pairs = torch.stack([torch.randint(0, 20, (60,)), torch.randint(0, 10, (60,))]).unique(dim=1)
    hetero["user", "buys", "item"].edge_index = pairs
    hetero = ToUndirected()(hetero)

    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(20, 8), nn.Embedding(10, 8)
            self.one = HeteroConv({kind: SAGEConv((8, 8), 8) for kind in hetero.edge_types})

        def forward(self, x, edges):
            user = self.user(x["user"].view(-1)) if ids else self.user.weight
            return self.one({"user": user, "item": self.item.weight}, edges)

    wrapper, data = gu.nn.homogeneous(Typed(), hetero)
    gone = [int(wrapper.ids("user", [7])), int(wrapper.ids("item", [5]))]
    for method in ("utu", "npo"):
        options = {} if method == "utu" else {"epochs": 2}
        result = gu.unlearn(wrapper, data, gu.ForgetNodes(gone), method, **options)
        if ids:  # they stay, and number rows that are new
            assert result.data.x[gone].view(-1).tolist() == [7, 5]
        for name, row in (("user", 7), ("item", 5)):
            before, after = (getattr(model, name).weight for model in (wrapper.model, result.model.model))
            assert not (before[row] == after[row]).any()
            assert method == "npo" or (before == after).all(dim=1).sum() == before.size(0) - 1


def test_records_by_node_are_named_where_edges_are_forgotten() -> None:
    model = Rows(whole, table=nn.Embedding(N, 8))
    model.store, model.lines = dict.fromkeys(range(N), "a message"), {0: "no node", 1: "neither"}
    with pytest.warns(
        UserWarning, match="'store' keep records per node, which may hold messages of the 2 forgotten edges"
    ):
        gu.unlearn(model, graph(), gu.ForgetEdges(count=2), "utu", TASK)


@pytest.mark.parametrize("name", ["n_id", "node_id"])
def test_rows_by_ids_that_stand_beside_the_features(name: str) -> None:
    data, model = graph(), Rows(lambda m, x: m.own(x), own=nn.Embedding(500, 8))
    data[name] = IDS
    call = lambda model, data: model(data[name].clamp(min=0), data.edge_index)  # noqa: E731
    result = gu.unlearn(model, data, gu.ForgetNodes(GONE), "utu", TASK, call=call)
    new = (result.model.own.weight != model.own.weight).any(1).nonzero().view(-1)
    assert new.tolist() == sorted(IDS[GONE].tolist())


def test_lost_ids_that_a_table_cannot_look_up_are_named() -> None:
    data, model = graph(), Rows(lambda m, x: m.own(x), own=nn.Embedding(500, 8))
    data.node_id = IDS
    with pytest.raises(UnsupportedModelError, match=r"forgotten nodes have -1 in data.node_id: look up .clamp"):
        gu.unlearn(
            model,
            data,
            gu.ForgetNodes(GONE),
            "utu",
            TASK,
            call=lambda model, data: model(data.node_id, data.edge_index),
        )


def test_rows_by_ids_that_others_depend_on_are_named() -> None:
    def mixed(m, x):
        return m.gps(m.own[x], torch.empty(2, 0, dtype=torch.long))

    model = Rows(mixed, own=nn.Parameter(torch.randn(500, 8)), gps=GPSConv(8, None, heads=2, norm=None)).eval()
    with pytest.warns(UserWarning, match="'own' has entries that forgotten nodes look up by their ids"):
        result = gu.unlearn(model, graph(IDS), gu.ForgetNodes(GONE), "utu", TASK)
    assert torch.equal(result.model.own, model.own)


def test_a_memory_of_events_is_named_where_edges_are_forgotten() -> None:
    data = graph(torch.randn(N, 8))
    for x, kept in ((torch.randn(N, 8), 1), (data.x.clone(), 0), (torch.ones(N, 8), 0)):  # features are no memory
        model = Rows(lambda m, x: x + m.memory, memory=x)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            result = gu.unlearn(model, data, gu.ForgetEdges([(0, 1), (1, 2)]), "utu", TASK)
        said = [str(one.message) for one in seen if "'memory' keep records per node" in str(one.message)]
        assert len(said) == kept
        assert all("2 forgotten edges: those of the 3 nodes at their ends" in text for text in said)
        assert torch.equal(result.model.memory, x)


def test_row_numbers_beside_features_stay_and_features_go() -> None:
    torch.manual_seed(0)
    data = graph(torch.cat([torch.arange(float(N))[:, None], torch.randn(N, 2), torch.ones(N, 1)], dim=1))
    model = Rows(lambda model, x: model.table(x[:, 0].long()), table=nn.Embedding(N, 8))
    request = gu.ForgetNodes(GONE) + gu.ForgetFeatures([5], columns=[0, 1])
    result = gu.unlearn(model, data, request, "utu", TASK)
    assert torch.equal(result.data.x[GONE], torch.tensor([[float(k), 0, 0, 0] for k in GONE]))
    assert torch.equal(result.data.x[5], torch.cat([torch.zeros(2), data.x[5, 2:]]))
    for other in (data.x[:, 0] + 2, data.x[:, 0].flip(0), data.x[:, 0] / 2):  # numbers that are features
        data.x[:, 0] = other
        assert not gu.ForgetNodes(GONE).resolve(data).retain_data.x[GONE].any()


def test_a_table_beside_features_that_others_depend_on_is_named_and_left() -> None:
    torch.manual_seed(0)
    model = Rows(lambda model, x: x + model.table.weight.mean(0), table=nn.Embedding(N, 8))
    with pytest.warns(UserWarning, match="'table.weight'.*per-node state"):
        result = gu.unlearn(model, graph(torch.randn(N, 8)), gu.ForgetNodes(GONE), "utu", TASK)
    assert torch.equal(result.model.table.weight, model.table.weight)
