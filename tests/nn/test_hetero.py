"""Heterogeneous graphs and graphs with relations through requests, tasks and methods, against deletion by hand."""

import copy

import pytest
import torch
from torch import nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GATConv, GraphSAGE, HeteroConv, RGCNConv, SAGEConv, to_hetero
from torch_geometric.transforms import ToUndirected

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.nn import homogeneous, path_of, plain_path, removed_edges, scaled_messages
from gunlearn.tasks.base import View
from tests.methods.cases import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*The type 'known by' contains:UserWarning")

CLUBS = ("hi", "officer")
KNOWS = [(a, "knows", b) for a in CLUBS for b in CLUBS]
TRUSTS = ("hi", "trusts", "hi")
METHODS = {"utu": {}, "finetune": {"epochs": 3}, "gradient_ascent": {"epochs": 3, "lr": 1e-2}}
#: What each method is asked to forget: those that push pairs apart take none that another relation joins.
REQUESTS = [(method, ("hi", "knows", "hi")) for method in METHODS]
REQUESTS += [("finetune", ("officer", "knows", "hi")), ("finetune", TRUSTS), ("utu", TRUSTS)]


def karate() -> HeteroData:
    """The karate club by club, each tie in one direction; a second relation repeats some ties of the first club."""
    graph, out = gu.load("karate"), HeteroData()
    degree = torch.bincount(graph.edge_index[0], minlength=34)
    place = torch.zeros(34, dtype=torch.long)
    for club, name in enumerate(CLUBS):
        members = (graph.y == club).nonzero().view(-1)
        place[members] = torch.arange(members.numel())
        wide = torch.eye(34)[members] + 0.1
        out[name].x = wide if club == 0 else torch.stack([degree[members] / 17, members / 34], dim=1)
        out[name].y = (degree[members] > 3).long()
    u, v = graph.edge_index[:, graph.edge_index[0] < graph.edge_index[1]]
    u, v = torch.where((u + v) % 2 == 0, u, v), torch.where((u + v) % 2 == 0, v, u)
    for a, one in enumerate(CLUBS):
        for b, two in enumerate(CLUBS):
            chosen = (graph.y[u] == a) & (graph.y[v] == b)
            out[one, "knows", two].edge_index = torch.stack([place[u[chosen]], place[v[chosen]]])
    out[TRUSTS].edge_index = out["hi", "knows", "hi"].edge_index[:, 3:9].clone()
    return out


def sage(data: HeteroData, **options) -> nn.Module:
    torch.manual_seed(0)
    model = to_hetero(GraphSAGE((-1, -1), 8, 2, 5, **options), data.metadata())
    with torch.no_grad():
        model(data.x_dict, data.edge_index_dict)  # sizes
    return model


class Rows(nn.Module):
    """One layer that hands its edges to one club alone, by a chosen convolution."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = HeteroConv({("hi", "knows", "hi"): conv})

    def forward(self, x_dict: dict, edge_index_dict: dict) -> dict:
        return self.conv(x_dict, {("hi", "knows", "hi"): edge_index_dict["hi", "knows", "hi"]})


class RGCN(nn.Module):
    def __init__(self, in_channels: int, num_relations: int) -> None:
        super().__init__()
        self.one, self.two = (RGCNConv(a, b, num_relations) for a, b in ((in_channels, 8), (8, 5)))

    def forward(self, x, edge_index, edge_type):
        return self.two(self.one(x, edge_index, edge_type).relu(), edge_index, edge_type)


def without(data: HeteroData, relation: tuple, column: int) -> dict:
    """The graph of each relation, one edge deleted by hand."""
    edges = {key: value.clone() for key, value in data.edge_index_dict.items()}
    pairs = edges[relation].t().tolist()
    edges[relation] = torch.tensor([pair for i, pair in enumerate(pairs) if i != column]).t().reshape(2, -1)
    return edges


def by_hand(model: nn.Module, data: HeteroData, edges: dict) -> torch.Tensor:
    """Rows of all nodes, type after type, without the wrapper."""
    out = model(data.x_dict, edges)
    return torch.cat([out[name] for name in CLUBS]).detach()


def test_one_graph_holds_the_types() -> None:
    hetero = karate()
    hetero["hi"].train_mask = torch.arange(17) < 5
    del hetero["officer"].y
    wrapper, data = homogeneous(sage(hetero), hetero)
    assert (data.num_nodes, tuple(data.x.shape)) == (34, (34, 34))
    assert data.node_type.tolist() == [0] * 17 + [1] * 17
    for kind, width in (("hi", 34), ("officer", 2)):
        rows = data.x[wrapper.ids(kind)]
        assert torch.equal(rows[:, :width], hetero[kind].x)
        assert not rows[:, width:].any()
    assert data.y.tolist() == hetero["hi"].y.tolist() + [-1] * 17
    assert data.train_mask.nonzero().view(-1).tolist() == [0, 1, 2, 3, 4]
    start = 0
    for number, relation in enumerate(hetero.edge_types):
        own = hetero[relation].edge_index
        columns = wrapper.edge_ids(data, relation)
        assert columns.tolist() == list(range(start, start := start + own.size(1)))
        assert wrapper.relation(relation) == number
        assert (data.edge_type[columns] == number).all()
        ends = [wrapper.ids(kind, row) for kind, row in zip((relation[0], relation[2]), own, strict=True)]
        assert torch.equal(data.edge_index[:, columns], torch.stack(ends))
    assert start == data.num_edges
    assert wrapper.edge_ids(data, TRUSTS, [2, 0]).tolist() == [start - 4, start - 6]
    assert torch.equal(wrapper.by_type(data.x)["officer"], data.x[17:])


@pytest.mark.parametrize("layout", ["dense", "csr", "mixed"])
def test_the_wrapper_gives_what_the_model_gives(layout: str) -> None:
    hetero = karate()
    model = sage(hetero)
    expected = by_hand(model, hetero, hetero.edge_index_dict)
    if layout != "dense":
        hetero["hi"].x = hetero["hi"].x.to_sparse_csr()
    if layout == "csr":
        hetero["officer"].x = hetero["officer"].x.to_sparse_csr()
    wrapper, data = homogeneous(model, hetero)
    assert (data.x.layout == torch.strided) == (layout == "dense")
    torch.testing.assert_close(gu.LinkPrediction().encode(wrapper, data), expected, rtol=1e-4, atol=1e-6)
    if layout == "dense":
        assert torch.equal(wrapper(data.x, data.edge_index, data.edge_type), expected)
        with plain_path():
            torch.testing.assert_close(gu.LinkPrediction().encode(wrapper, data), expected, rtol=1e-4, atol=1e-6)
        data.x[0] += 1  # nothing stale is remembered
        assert not torch.allclose(wrapper(data.x, data.edge_index, data.edge_type), expected, atol=1e-4)
        x = data.x.clone().requires_grad_()
        assert torch.autograd.grad(wrapper(x, data.edge_index, data.edge_type).sum(), x)[0].abs().max() > 0


def test_nodes_in_any_order_and_a_part_of_them() -> None:
    hetero = karate()
    wrapper, data = homogeneous(sage(hetero), hetero)
    whole = wrapper(data.x, data.edge_index, data.edge_type)
    order = torch.randperm(34, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    mixed = wrapper(data.x[order], place[data.edge_index], data.edge_type, data.node_type[order])
    torch.testing.assert_close(mixed, whole[order])
    with pytest.raises(UnsupportedModelError, match="Expected a type of each node and edge"):
        wrapper(data.x[:20], data.edge_index[:, :5], data.edge_type[:5])
    with pytest.raises(UnsupportedModelError, match="between nodes of its relation's types"):
        wrapper(data.x[order], place[data.edge_index], data.edge_type)  # the types of another order
    with pytest.raises(UnsupportedModelError, match="Expected a relation in"):
        wrapper(data.x, data.edge_index, data.edge_type + 1)


def test_types_without_rows_get_zeros() -> None:
    hetero = karate()
    wrapper, data = homogeneous(Rows(SAGEConv(34, 3)), hetero)
    out = wrapper(data.x, data.edge_index, data.edge_type)
    assert out[:17].abs().min() > 0
    assert torch.equal(out[17:], torch.zeros(17, 3))


class Returns(nn.Module):
    def __init__(self, out) -> None:
        super().__init__()
        self.out = out

    def forward(self, x_dict: dict, edge_index_dict: dict):
        return self.out(x_dict)


@pytest.mark.parametrize(
    "out",
    [lambda x: x["hi"], lambda x: {}, lambda x: x, lambda x: {"hi": x["hi"][:3]}, lambda x: {"hi": x["hi"][:, 0]}],
    ids=["tensor", "nothing", "two sizes", "few rows", "one dimension"],
)
def test_outputs_that_are_no_rows_are_refused(out) -> None:
    wrapper, data = homogeneous(Returns(out), karate())
    with pytest.raises(UnsupportedModelError, match=r"Expected a (heterogeneous model|row per node)"):
        wrapper(data.x, data.edge_index, data.edge_type)


def alone(data, columns: torch.Tensor) -> int:
    """The first of some columns whose pair of nodes no other relation joins."""
    key = data.edge_index[0] * data.num_nodes + data.edge_index[1]
    return next(i for i, column in enumerate(columns.tolist()) if int((key == key[column]).sum()) == 1)


@pytest.mark.parametrize(("method", "relation"), REQUESTS)
def test_edge_requests_on_a_heterogeneous_model(method: str, relation: tuple) -> None:
    hetero = karate()
    model = sage(hetero)
    given, weights = copy.deepcopy(hetero), copy.deepcopy(model)
    wrapper, data = homogeneous(model, hetero)
    column = 1 if relation == TRUSTS else 4 if relation[0] == relation[2] else 0  # 1 and 4: ties of both relations
    if method == "gradient_ascent":
        column = alone(data, wrapper.edge_ids(data, relation))
    result = gu.unlearn(
        wrapper, data, gu.ForgetEdges(edge_ids=wrapper.edge_ids(data, relation, [column])), method, **METHODS[method]
    )
    retain, edges = result.partition.retain_data, without(hetero, relation, column)
    assert result.num_forget == 1
    for number, kind in enumerate(hetero.edge_types):  # the triple is gone, other relations are as they were
        own = retain.edge_index[:, retain.edge_type == number]
        ends = [wrapper.ids(name, row) for name, row in zip((kind[0], kind[2]), edges[kind], strict=True)]
        assert torch.equal(own, torch.stack(ends))
    out = gu.LinkPrediction().encode(result.model, retain).detach()
    unlearned = result.model.model  # the heterogeneous model itself
    torch.testing.assert_close(out, by_hand(unlearned, hetero, edges), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(out, by_hand(unlearned, hetero, hetero.edge_index_dict), rtol=1e-3, atol=1e-5)  # control
    assert same_weights(unlearned, weights) == (method == "utu")
    assert same_weights(model, weights)
    for kind in hetero.edge_types:
        assert torch.equal(hetero[kind].edge_index, given[kind].edge_index)
    assert all(torch.equal(hetero[name].x, given[name].x) for name in CLUBS)
    if method != "utu":
        assert "CSR products in 10 of 10 layers" in result.notes["path"]
    if method == "gradient_ascent":
        u, v = result.partition.forget_edge_index[:, 0]
        before = by_hand(model, hetero, edges)
        assert out[u] @ out[v] < before[u] @ before[v] - 1e-3


def test_pairs_that_another_relation_joins_are_not_pushed_apart() -> None:
    hetero = karate()
    wrapper, data = homogeneous(sage(hetero), hetero)
    with pytest.raises(EmptyForgetSetError):
        gu.unlearn(wrapper, data, gu.ForgetEdges(edge_ids=wrapper.edge_ids(data, TRUSTS, [1])), "npo", epochs=3)


@pytest.mark.parametrize("method", ["utu", "finetune"])
def test_edge_requests_on_a_model_of_relations(method: str) -> None:
    _, data = homogeneous(nn.Identity(), karate())
    torch.manual_seed(0)
    model = RGCN(34, 5)
    weights, given = copy.deepcopy(model), data.clone()
    # The same pair under two relations: one of them goes.
    gone = int((data.edge_type == 4).nonzero()[1])
    pair = data.edge_index[:, gone]
    result = gu.unlearn(model, data, gu.ForgetEdges([pair.tolist()], edge_type=4), method, **METHODS[method])
    kept = torch.tensor([i for i in range(data.num_edges) if i != gone])
    retain = result.partition.retain_data
    assert torch.equal(retain.edge_type, data.edge_type[kept])
    assert (retain.edge_index == pair[:, None]).all(0).sum() == 1
    out = gu.LinkPrediction().encode(result.model, retain)
    expected = result.model(data.x, data.edge_index[:, kept], data.edge_type[kept])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(out, result.model(data.x, data.edge_index, data.edge_type), rtol=1e-3, atol=1e-5)
    # Control: relations that are mixed up give other outputs, so the types do arrive.
    assert not torch.allclose(out, result.model(data.x, retain.edge_index, retain.edge_type.flip(0)), atol=1e-3)
    assert same_weights(result.model, weights) == (method == "utu")
    assert same_weights(model, weights)
    assert all(torch.equal(data[key], given[key]) for key in ("x", "edge_index", "edge_type"))


@pytest.mark.parametrize("named", ["rev_*", "same pairs flipped"])
def test_an_edge_and_its_reverse_are_one(named: str) -> None:
    hetero, forward = ToUndirected(merge=False)(karate()), ("hi", "knows", "officer")
    backward = ("officer", "rev_knows", "hi")
    if named != "rev_*":
        backward = ("officer", "known by", "hi")
        hetero[backward].edge_index = hetero["officer", "rev_knows", "hi"].edge_index
        del hetero["officer", "rev_knows", "hi"]
    model = sage(hetero)
    wrapper, data = homogeneous(model, hetero)
    ids = [wrapper.edge_ids(data, relation, [2]) for relation in (forward, backward)]
    expected = wrapper.relation(forward), wrapper.relation(backward)
    pair = data.edge_index[:, ids[0]]
    edges = without(hetero, forward, 2) | {backward: without(hetero, backward, 2)[backward]}
    for request in (
        gu.ForgetEdges(edge_ids=ids[0]),
        gu.ForgetEdges(edge_ids=ids[1]),
        gu.ForgetEdges(edge_ids=torch.cat(ids)),
        gu.ForgetEdges(pair),
        gu.ForgetEdges(pair.flip(0), edge_type=expected[1]),
    ):
        partition = request.resolve(data)
        assert partition.forget_mask.nonzero().view(-1).tolist() == sorted(torch.cat(ids).tolist())
        assert partition.num_forget == 1
        retain = partition.retain_data
        out = wrapper(retain.x, retain.edge_index, retain.edge_type)
        torch.testing.assert_close(out, by_hand(model, hetero, edges))
        key = partition.retain_edge_index.sort(dim=0).values
        assert not (key == pair.sort(dim=0).values).all(dim=0).any()  # no retained positive either


def test_draws_splits_and_losses_know_the_reverse() -> None:
    hetero = ToUndirected(merge=False)(karate())
    wrapper, data = homogeneous(sage(hetero), hetero)
    forward = wrapper.relation(("hi", "knows", "officer"))
    backward = wrapper.relation(("officer", "rev_knows", "hi"))
    drawn = gu.ForgetEdges(count=4, edge_type=backward, seed=1).resolve(data)
    kinds = data.edge_type[drawn.forget_mask].tolist()
    assert sorted(kinds) == [forward] * 4 + [backward] * 4
    split = gu.link_split(data, 0.1, 0.1)
    held = {
        tuple(sorted(pair)) for pair in torch.cat([split.val_pos_edge_index, split.test_pos_edge_index], 1).t().tolist()
    }
    assert not held & {tuple(sorted(pair)) for pair in split.edge_index.t().tolist()}
    pairs = {tuple(sorted(pair)) for pair in split.edge_index.t().tolist()}
    assert gu.LinkPrediction().training_parts(split).count("retain") == len(pairs)
    partition = gu.ForgetEdges(count=3).resolve(split)
    assert gu.LinkPrediction().make_parts(View(partition)).count("retain") == len(pairs) - len(
        {tuple(sorted(pair)) for pair in partition.forget_edge_index.t().tolist()}
        - {tuple(sorted(pair)) for pair in partition.retain_edge_index.t().tolist()}
    )


@pytest.mark.filterwarnings("ignore::gunlearn.attribution.SlowEstimatorWarning")
def test_what_is_attached_goes_by_the_ids_of_the_one_graph() -> None:
    hetero = karate()
    model = sage(hetero, aggr="sum")
    wrapper, data = homogeneous(model, hetero)
    relation, column = ("officer", "knows", "hi"), 0
    pair = data.edge_index[:, wrapper.edge_ids(data, relation, [column])]
    expected = by_hand(model, hetero, without(hetero, relation, column))
    task = gu.LinkPrediction()
    with removed_edges(wrapper, pair):
        removed = task.encode(wrapper, data)
    with scaled_messages(wrapper, pair, torch.zeros(1)):  # a sum without a message
        silenced = task.encode(wrapper, data)
        with plain_path():
            plain = task.encode(wrapper, data)
    for out in (removed, silenced, plain):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)
    whole = by_hand(model, hetero, hetero.edge_index_dict)
    torch.testing.assert_close(task.encode(wrapper, data), whole, rtol=1e-4, atol=1e-6)  # nothing is left behind
    assert not torch.allclose(expected, whole, atol=1e-4)
    # Control: numbers within the types name another edge, or none.
    with removed_edges(wrapper, hetero[relation].edge_index[:, :1]):
        assert not torch.allclose(task.encode(wrapper, data), expected, atol=1e-4)
    scores = gu.influence(wrapper, data, items=pair)
    change = (expected.softmax(1) - whole.softmax(1)).abs().sum()
    torch.testing.assert_close(scores[0], change, rtol=1e-3, atol=1e-5)


def test_edges_that_a_layer_makes_up_are_refused_not_mistaken() -> None:
    hetero = karate()
    wrapper, data = homogeneous(Rows(GATConv(34, 3)), hetero)  # adds self-loops before it sends messages
    pair = data.edge_index[:, :1]
    with (
        scaled_messages(wrapper, pair, torch.zeros(1)),
        pytest.raises(UnsupportedModelError, match="Expected layers that send messages along the relation's own"),
    ):
        wrapper(data.x, data.edge_index, data.edge_type)
    with removed_edges(wrapper, pair):  # taken out before that
        out = wrapper(data.x, data.edge_index, data.edge_type)
    edges = without(hetero, ("hi", "knows", "hi"), 0)
    torch.testing.assert_close(out[:17], wrapper.model(hetero.x_dict, edges)["hi"])


@pytest.mark.parametrize("task", ["link_prediction", "node_classification"])
def test_training_and_retraining(task: str) -> None:
    hetero = karate()
    wrapper, data = homogeneous(sage(hetero), hetero)
    split = gu.link_split(data, 0.1, 0.1) if task == "link_prediction" else gu.node_split(data, 0.2, 0.2)
    assert split.edge_type.numel() == split.num_edges
    trained = gu.train(wrapper, split, task, epochs=50, lr=2e-2, eval_every=50)
    losses = [record["loss"] for record in trained.history]  # negatives are fresh at each step: means are steadier
    assert sum(losses[-10:]) / 10 < sum(losses[:5]) / 5 - 0.04
    again = gu.unlearn(trained.model, split, gu.ForgetEdges(count=3), "retrain", task, epochs=2, eval_every=1)
    assert not same_weights(again.model, trained.model)
    assert again.model(split.x, split.edge_index, split.edge_type).shape == (34, 5)


def test_bags_of_words_stay_sparse_on_cora(data_root) -> None:
    cora, hetero = gu.load("Cora", data_root), HeteroData()
    some = cora.y < 3
    place = torch.where(some, some.cumsum(0), (~some).cumsum(0)) - 1
    hetero["some"].x, hetero["rest"].x = cora.x[some].to_sparse_csr(), cora.x[~some].to_sparse_csr()
    u, v = cora.edge_index
    for one, a in (("some", some), ("rest", ~some)):
        for two, b in (("some", some), ("rest", ~some)):
            own = a[u] & b[v]
            hetero[one, "cites", two].edge_index = torch.stack([place[u[own]], place[v[own]]])
    torch.manual_seed(0)
    model = to_hetero(GraphSAGE((1433, 1433), 8, 2, 5), hetero.metadata())
    wrapper, data = homogeneous(model, hetero)
    assert data.x.layout == torch.sparse_csr
    assert data.x.values().numel() == int(cora.x.count_nonzero())
    relation = ("rest", "cites", "some")
    result = gu.unlearn(
        wrapper, data, gu.ForgetEdges(edge_ids=wrapper.edge_ids(data, relation, [7])), "finetune", epochs=2
    )
    assert path_of(result.model) == "CSR products in 8 of 8 layers; sparse features"
    edges = hetero.edge_index_dict
    pair = edges[relation][:, 7]
    edges[relation] = torch.cat([edges[relation][:, :7], edges[relation][:, 8:]], dim=1)
    back = edges["some", "cites", "rest"]  # the same citation the other way
    edges["some", "cites", "rest"] = back[:, ~(back == pair.flip(0)[:, None]).all(dim=0)]
    dense = {"some": cora.x[some], "rest": cora.x[~some]}
    expected = result.model.model(dense, edges)
    out = wrapper.by_type(gu.LinkPrediction().encode(result.model, result.partition.retain_data))
    for kind in dense:
        torch.testing.assert_close(out[kind], expected[kind], rtol=1e-3, atol=1e-5)


def test_refusals() -> None:
    hetero = karate()
    model = sage(hetero)
    for wrong in ((model, Data()), ("model", hetero)):
        with pytest.raises(InvalidTypeError, match="Expected a torch module and"):
            homogeneous(*wrong)
    bare = HeteroData()
    bare["hi"].num_nodes = 3
    with pytest.raises(InvalidInputError, match="edge_index of every relation"):
        homogeneous(model, bare)
    mixed = copy.deepcopy(hetero)
    mixed["hi"].x = mixed["hi"].x.double()
    with pytest.raises(InvalidInputError, match="features 'x' of one dtype"):
        homogeneous(model, mixed)
    del mixed[TRUSTS].edge_index
    mixed["hi"].x = hetero["hi"].x
    mixed[TRUSTS].edge_attr = torch.ones(6)
    with pytest.raises(InvalidInputError, match="Expected an edge_index of every relation"):
        homogeneous(model, mixed)
    wrapper, data = homogeneous(model, hetero)
    with pytest.raises(InvalidInputError, match="Expected a node type among"):
        wrapper.ids("nobody")
    with pytest.raises(InvalidInputError, match="Expected a relation among"):
        wrapper.relation(("hi", "knows", "nobody"))
    with pytest.raises(InvalidInputError, match=r"Expected numbers in \[0, 6\)"):
        wrapper.edge_ids(data, TRUSTS, [6])


@pytest.mark.parametrize("method", ["utu", "finetune"])
@pytest.mark.parametrize("request_", [gu.ForgetNodes([3, 20]), gu.ForgetFeatures([3])], ids=["nodes", "features"])
def test_nodes_and_features_of_a_heterogeneous_graph(method: str, request_: gu.Request) -> None:
    hetero = karate()
    wrapper, data = homogeneous(sage(hetero), hetero)
    result = gu.unlearn(wrapper, data, request_, method, **METHODS[method])
    retain = result.data
    assert torch.equal(retain.node_type, data.node_type)
    assert retain.x[3].abs().sum() == 0
    out = gu.LinkPrediction().encode(result.model, retain)
    assert out.shape[0] == data.num_nodes
    moved = any(not torch.equal(a, b) for a, b in zip(wrapper.parameters(), result.model.parameters(), strict=True))
    assert moved == (method != "utu")


def test_attributes_of_edges_that_the_model_could_read_are_refused() -> None:
    relation = ("a", "to", "a")
    hetero = HeteroData()
    hetero["a"].x = torch.ones(3, 2)
    hetero[relation].edge_index = torch.tensor([[0, 1], [1, 2]])
    hetero[relation].edge_weight = torch.ones(2)

    class Weighted(nn.Module):
        def forward(self, x_dict, edge_index_dict, edge_weight_dict=None):
            return x_dict

    class Plain(nn.Module):
        def forward(self, x_dict, edge_index_dict):
            return x_dict

    with pytest.raises(InvalidInputError, match=r"edge_weight.*edge_weight_dict"):
        homogeneous(Weighted(), hetero)
    homogeneous(Plain(), hetero)  # control: it cannot read them
