"""Prepared graphs: requests on them are those on the plain graph, and a graph that has changed is refused."""

import copy
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import ChangedDataError, InvalidRequestError
from gunlearn.requests import prepared as registry
from gunlearn.requests.training_graph import TrainingGraph

NODES, EDGES = 30, 60


def _graph(undirected: bool = True, in_order: bool = True, relations: int = 0) -> Data:
    """Return a graph with copies of edges, self-loops, attributes of nodes and edges, and lists of pairs."""
    draw = torch.Generator().manual_seed(3)
    edges = torch.randint(NODES, (2, EDGES), generator=draw)
    edges = torch.cat([edges, edges[:, :4]], dim=1)
    edges = torch.cat([edges, edges.flip(0)], dim=1) if undirected else edges
    edges = edges[:, (edges[0] * NODES + edges[1]).argsort(stable=True)] if in_order else edges
    data = Data(x=torch.rand(NODES, 5, generator=draw), edge_index=edges, y=torch.arange(NODES) % 3)
    data.edge_weight = torch.rand(edges.size(1), generator=draw)
    data.train_mask = torch.arange(NODES) % 2 == 0
    data.walk_edge_index = edges[:, ::3].clone()
    if relations:
        kinds = edges.sum(dim=0) % relations  # the same in both directions
        data.edge_type = kinds
    return data


GRAPHS: dict[str, Callable[[], Data]] = {
    "undirected": _graph,
    "in any order": lambda: _graph(in_order=False),
    "directed": lambda: _graph(undirected=False),
    "directed in any order": lambda: _graph(undirected=False, in_order=False),
    "relations": lambda: _graph(relations=2),
}


def _requests(data: Data) -> list[gu.Request]:
    """Return a few requests, none of which names what another one takes."""
    edges = TrainingGraph(data).distinct_pairs
    edges = edges[:, (edges >= 12).all(dim=0)]
    return [
        gu.ForgetNodes([3]),
        gu.ForgetEdges(edges[:, [0]]),
        gu.ForgetFeatures([7], columns=[1]),
        gu.ForgetNodes([5, 6]) + gu.ForgetEdges(edges[:, [-1]]),
        gu.ForgetEdges(count=2, seed=1),
        gu.ForgetSubgraph([9], num_hops=1),
        gu.ForgetNodes(count=1, by="degree"),
    ]


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@pytest.mark.parametrize("name", GRAPHS)
def test_requests_one_after_another_are_those_on_the_plain_graph(name):
    plain = GRAPHS[name]()
    ready, requests = gu.prepare(plain), _requests(plain)
    for request in requests:
        one, other = request.resolve(plain), request.resolve(ready)
        for field in ("kind", "forgets", "forget_mask", "forget_edge_index", "retain_edge_index", "forget_nodes"):
            assert _same(getattr(one, field), getattr(other, field)), field
        for field in ("forget_features", "forget_graphs", "is_undirected", "request_hash", "num_forget", "num_retain"):
            assert _same(getattr(one, field), getattr(other, field)), field
        plain, ready = one.retain_data, other.retain_data
        assert list(plain.keys()) == list(ready.keys())
        assert all(_same(plain[key], ready[key]) for key in plain.keys())  # noqa: SIM118
        assert registry.facts_of(ready) is not None  # prepared as well


def test_later_requests_sort_nothing(monkeypatch):
    data = gu.prepare(_graph())
    monkeypatch.setattr("gunlearn.requests.pair_index._GONE", 1.0)

    def no_sort(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("gunlearn.requests.pair_index.SortedPairs.of", no_sort)
    monkeypatch.setattr("gunlearn.requests.training_graph.unique_inverse", no_sort)
    for node in (3, 4, 5):
        data = gu.ForgetNodes([node]).resolve(data).retain_data
    gu.ForgetEdges(data.edge_index[:, [0]]).resolve(data)
    with pytest.raises(AssertionError):
        gu.ForgetNodes([3]).resolve(_graph())


def test_the_last_edge_in_one_direction_makes_a_graph_undirected():
    edges = torch.tensor([[0, 1, 2, 3, 1], [1, 0, 3, 2, 2]])
    data = gu.prepare(Data(edge_index=edges, num_nodes=4))
    left = gu.ForgetEdges([(1, 2)]).resolve(data)
    assert not left.is_undirected
    assert gu.ForgetEdges([(0, 1)]).resolve(left.retain_data).is_undirected


ENTRIES: dict[str, Callable[[Data], object]] = {
    "resolve": lambda data: gu.ForgetNodes([8]).resolve(data),
    "unlearn": lambda data: gu.unlearn(gu.GCN(5, 4), data, gu.ForgetNodes([8]), "utu", "node_classification"),
    "train": lambda data: gu.train(gu.GCN(5, 4), data, "node_classification", steps=1),
}


def _in_place(data: Data) -> None:
    data.x[4, 2] += 1


def _by_numpy(data: Data) -> None:
    data.edge_index.numpy()[0, [2, 11]] = data.edge_index.numpy()[0, [11, 2]]


def _behind_torch(data: Data) -> None:
    data.y.data[3] = 2


def _replaced(data: Data) -> None:
    data.x = data.x.clone()


def _appended(data: Data) -> None:
    data.x = torch.cat([data.x, data.x[:1]])


def _numbered(data: Data) -> None:
    data.num_nodes = NODES + 1


def _more(data: Data) -> None:
    data.val_mask = data.train_mask


def _less(data: Data) -> None:
    del data.edge_weight


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (_in_place, "data.x: other values"),
        (_by_numpy, "data.edge_index: other values"),
        (_behind_torch, "data.y: other values"),
        (_replaced, "data.x: another tensor"),
        (_appended, "data.x: another tensor"),
        (_numbered, "data.num_nodes: which is new"),
        (_more, "data.val_mask: which is new"),
        (_less, "data.edge_weight: which is gone"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["itself", "what a request left"])
@pytest.mark.parametrize("entry", ["resolve", "unlearn", "train"])
def test_a_graph_that_has_changed_is_refused(edit, name, after, entry):
    data = gu.prepare(_graph())
    if after:
        data = gu.ForgetNodes([3]).resolve(data).retain_data
        name = "data.num_nodes: other values" if edit is _numbered else name
    edit(data)
    with pytest.raises(ChangedDataError, match=f"got {name}.*gunlearn.prepare"):
        ENTRIES[entry](data)
    again = gu.prepare(data) if edit not in (_appended, _numbered) else None  # these do not fit together
    assert again is None or gu.ForgetNodes([8]).resolve(again).num_forget == 1


def test_the_tensors_that_the_caller_kept_count_too():
    plain = _graph()
    data = gu.prepare(plain)
    plain.x.numpy()[0] = 0
    with pytest.raises(ChangedDataError):
        gu.ForgetNodes([8]).resolve(data)
    assert gu.ForgetNodes([8]).resolve(plain).num_forget == 1  # it was not prepared itself


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda data: data.clone()])
def test_copies_are_plain_graphs(copied):
    data = gu.prepare(_graph())
    other = copied(data)
    other.x = other.x + 1
    assert gu.ForgetNodes([8]).resolve(other).num_forget == 1
    assert gu.ForgetNodes([8]).resolve(data).num_forget == 1  # as it was


def test_tensors_of_another_type_or_device_are_others():
    data = gu.prepare(_graph())
    assert data.to("cpu") is data
    assert gu.ForgetNodes([8]).resolve(data).num_forget == 1  # it was there
    with pytest.raises(ChangedDataError, match=r"data\.x: another tensor"):
        gu.ForgetNodes([8]).resolve(data.apply(lambda value: value.double(), "x"))


@pytest.mark.parametrize(
    "request_of_another",
    [
        lambda: gu.ForgetNodes([NODES + 5]),
        lambda: gu.ForgetNodes(mask=torch.ones(NODES + 5, dtype=torch.bool)),
        lambda: gu.ForgetEdges([(0, NODES + 2)]),
        lambda: gu.ForgetEdges(torch.tensor([[0], [0]])),
        lambda: gu.ForgetEdges(edge_ids=[10**6]),
        lambda: gu.ForgetNodes(["alice"]),
    ],
)
def test_requests_for_another_graph_are_refused_in_the_same_words(request_of_another):
    said = []
    for data in (_graph(), gu.prepare(_graph())):
        with pytest.raises(InvalidRequestError) as error:
            request_of_another().resolve(data)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_graph_whose_pairs_no_number_names_is_refused_with_a_remedy():
    edges = torch.tensor([[0, 1], [1, 0]])
    data = Data(edge_index=edges, edge_type=torch.tensor([0, 2]), num_nodes=2**31)
    with pytest.raises(InvalidRequestError, match="k_hop_subgraph"):
        TrainingGraph(data)


def test_nothing_is_kept_of_a_graph_that_is_gone():
    gc.collect()
    before = len(registry._PREPARED)
    data = gu.prepare(_graph())
    left = gu.ForgetNodes([3]).resolve(data)
    assert len(registry._PREPARED) == before + 2
    del data, left
    gc.collect()
    assert len(registry._PREPARED) == before


def test_what_one_thread_trusts_another_checks():
    data = gu.prepare(_graph())
    with registry.trusting(data):
        data.x[0] += 1
        assert registry.memory_of(data) is not None  # this thread has checked it
        with ThreadPoolExecutor(1) as other, pytest.raises(ChangedDataError):
            other.submit(gu.ForgetNodes([5]).resolve, data).result()
    with pytest.raises(ChangedDataError):
        registry.memory_of(data)


def _wide() -> Data:
    """A graph whose features are large enough to share their memory."""
    data = _graph()
    data.x = torch.rand(int(data.num_nodes), 2**21 // int(data.num_nodes), generator=torch.Generator().manual_seed(0))
    return data


def test_features_are_copied_once_for_all_requests(monkeypatch):
    data = _wide()
    ready, kept = gu.prepare(data), data.x.clone()
    first = gu.ForgetNodes([1]).resolve(ready).retain_data

    def no_copy(*_: object) -> None:
        raise AssertionError

    for name in ("gunlearn.requests.training_graph.large_copy", "gunlearn.requests.shared_features.Image"):
        monkeypatch.setattr(name, no_copy)
    second = gu.ForgetFeatures([2], columns=[0, 3]).resolve(first).retain_data
    second = gu.ForgetEdges(second.edge_index[:, [0]]).resolve(second).retain_data
    third = gu.ForgetNodes([3]).resolve(second).retain_data
    other = gu.ForgetNodes([4]).resolve(ready).retain_data
    expected = kept.clone()
    expected[4] = 0
    assert other.x.equal(expected)
    expected = kept.clone()
    expected[[1, 3]], expected[2, [0, 3]] = 0, 0
    assert third.x.equal(expected)
    assert data.x.equal(kept)
    third.x[:] = 5  # the caller's to write on
    assert int((second.x == 0).sum()) == kept.size(1) + 2
    assert first.x[5].equal(kept[5])


def test_where_no_file_is_left_features_are_copied(monkeypatch):
    def none_left(_: object) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr("gunlearn.core.shared_pages.Image.copy", none_left)
    data = gu.prepare(_wide())
    left = gu.ForgetNodes([1]).resolve(data).retain_data
    assert not left.x[1].any()
    assert left.x[2].equal(data.x[2])


def test_a_tenth_of_the_rows_makes_the_memory_anew():
    data = gu.prepare(_wide())
    size = int(data.num_nodes)
    left = gu.ForgetFeatures([*range(size // 5)]).resolve(data).retain_data
    assert "features" not in registry.memory_of(left)
    again = gu.ForgetFeatures([size - 1]).resolve(left).retain_data
    assert registry.memory_of(again)["features"].rows.tolist() == [size - 1]
    assert int((again.x.sum(1) == 0).sum()) == size // 5 + 1


@pytest.mark.parametrize("kind", ["nodes", "edges", "features"])
def test_no_mask_as_long_as_the_graph_is_made(kind, monkeypatch):
    data = _graph()
    del data.edge_weight  # an attribute of the edges is read by a mask
    data = gu.prepare(data)
    pair = data.edge_index[:, [0]]

    def no_mask(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("gunlearn.requests.training_graph.TrainingGraph.mask_of", no_mask)
    request = {"nodes": gu.ForgetNodes([5]), "edges": gu.ForgetEdges(pair), "features": gu.ForgetFeatures([5])}[kind]
    part = request.resolve(data)
    monkeypatch.undo()
    assert part.forget_mask.nonzero().view(-1).tolist() == part.forget_columns.tolist()
    assert part.retain_data.edge_index.equal(data.edge_index[:, ~part.forget_mask])
