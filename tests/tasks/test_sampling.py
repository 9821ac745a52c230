"""Sampled retained items: strata, allocation, unbiased weights, permutations, random parts of the nodes."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.loader import RandomNodeLoader

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.tasks import LinkPrediction, Parts, RandomNodeParts, ShuffledBatches, StratifiedSampler
from gunlearn.tasks.sampling import allocate, distinct, edge_strata
from tests.tasks.cases import columns


def ring(num_nodes: int = 24, chords: int = 10) -> Data:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(num_nodes)
    extra = torch.stack([torch.randperm(num_nodes, generator=generator)[:chords] for _ in range(2)])
    edges = torch.cat([torch.stack([ids, (ids + 1) % num_nodes]), extra[:, extra[0] != extra[1]]], dim=1)
    edges = torch.cat([edges, edges.flip(0)], dim=1).unique(dim=1)
    return Data(x=torch.randn(num_nodes, 6, generator=generator), edge_index=edges)


def parts_of(data: Data, forget: int = 2):
    task = LinkPrediction()
    return task, task.parts(gu.ForgetEdges(count=forget, seed=1).resolve(data))


@pytest.mark.parametrize("num_hops", [1, 2, 3])
def test_strata_are_hop_distances(num_hops: int) -> None:
    data = ring(60, 6)
    data.edge_index = data.edge_index[:, torch.rand(data.num_edges, generator=torch.Generator().manual_seed(1)) < 0.8]
    start = torch.tensor([0, 31])
    graph = nx.Graph(data.edge_index.t().tolist())
    graph.add_nodes_from(range(60))
    hops = nx.multi_source_dijkstra_path_length(graph, set(start.tolist()), weight=None)
    hops = [min(hops.get(v, num_hops + 1), num_hops + 1) for v in range(60)]
    expected = [min(hops[u], hops[v]) for u, v in data.edge_index.t().tolist()]
    assert edge_strata(data.edge_index, start, data.edge_index, 60, num_hops).tolist() == expected
    assert set(expected) == set(range(num_hops + 2))


@pytest.mark.parametrize(
    ("population", "num_samples", "floor", "expected"),
    [
        ([100, 300], 40, 0, [10, 30]),  # proportional
        ([10, 990], 100, 5, [6, 94]),  # 5 + 90 * 5 / 990 = 5.45, 5 + 90 * 985 / 990 = 94.54 -> rounded up there
        ([3, 997], 100, 20, [3, 97]),  # a stratum smaller than the floor is taken whole
        ([0, 50, 50], 10, 2, [0, 5, 5]),
        ([5, 5], 10, 1, [5, 5]),
        ([1000, 1, 1], 3, 50, [1, 1, 1]),
    ],
)
def test_allocation(population: list[int], num_samples: int, floor: int, expected: list[int]) -> None:
    got = allocate(torch.tensor(population), num_samples, floor).tolist()
    assert sum(got) == num_samples
    assert all(abs(a - b) <= 1 for a, b in zip(got, expected, strict=True))
    assert all(n >= min(floor, size, num_samples // len(population)) for n, size in zip(got, population, strict=True))


@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(any), st.floats(0, 1), st.integers(0, 9))
def test_allocation_always_adds_up(population: list[int], share: float, floor: int) -> None:
    filled, total = sum(size > 0 for size in population), sum(population)
    num_samples = filled + int(share * (total - filled))
    got = allocate(torch.tensor(population), num_samples, floor).tolist()
    assert sum(got) == num_samples
    assert all((size > 0) <= n <= size for n, size in zip(got, population, strict=True))


@pytest.mark.parametrize("num_samples", [2, 11])
def test_too_few_or_too_many_samples_are_refused(num_samples: int) -> None:
    with pytest.raises(InvalidInputError, match="between the number of strata, 3, and of retained items, 10"):
        allocate(torch.tensor([5, 0, 4, 1]), num_samples, 1)


def test_unbiased_by_enumeration() -> None:
    stratum = torch.tensor([0, 0, 1, 1, 1, 1, 1])
    values = torch.tensor([9.0, 5.0, 2.0, 8.0, 0.5, 3.0, -4.0], dtype=torch.double)
    sampler = StratifiedSampler(stratum, 4, floor=1)
    few, many = sampler.count.tolist()
    assert few + many == 4
    weight = sampler.weight
    draws = [
        torch.tensor([*a, *b])
        for a in itertools.combinations(range(2), few)
        for b in itertools.combinations(range(2, 7), many)
    ]
    means = torch.stack([(weight * values[draw]).mean() for draw in draws])
    assert means.mean().item() == pytest.approx(values.mean().item(), abs=1e-12)
    plain = torch.stack([values[draw].mean() for draw in draws])  # control: without weights it is biased
    assert abs(plain.mean() - values.mean()) > 0.01
    # ... and those are the draws that come, equally often.
    torch.manual_seed(0)
    seen = [tuple(sorted(sampler()[0].tolist())) for _ in range(2000)]
    counts = np.array([seen.count(tuple(draw.tolist())) for draw in draws])
    assert counts.sum() == 2000
    expected = 2000 / len(draws)
    assert ((counts - expected) ** 2 / expected).sum() < len(draws) + 5 * np.sqrt(2 * len(draws))


def test_mean_and_variance_are_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(3)
    stratum = torch.randint(0, 3, (200,), generator=generator) ** 2 // 2  # strata 0, 2 and none in between
    values = torch.randn(200, generator=generator, dtype=torch.double) * (1 + stratum) + 3 * stratum
    sampler = StratifiedSampler(stratum, 30)
    population, count = sampler.population.double(), sampler.count.double()
    spread = torch.tensor([values[stratum == h].var().item() if (stratum == h).sum() > 1 else 0.0 for h in range(3)])
    share = population / 200
    variance = float(torch.where(count > 0, share**2 * (1 - count / population) * spread / count, 0.0).nansum())
    torch.manual_seed(0)
    draws = [sampler() for _ in range(2000)]
    means = torch.stack([(weight * values[index]).mean() for index, weight in draws])
    assert abs(float(means.mean() - values.mean())) < 4 * (variance / 2000) ** 0.5
    assert float(means.var()) == pytest.approx(variance, rel=0.15)
    plain = torch.stack([values[index].mean() for index, _ in draws])  # control: weights dropped
    assert abs(float(plain.mean() - values.mean())) > 4 * (variance / 2000) ** 0.5


@pytest.mark.parametrize("count", [0, 1, 5, 40, 99, 100])
def test_distinct_numbers(count: int) -> None:
    drawn = distinct(100, count, torch.empty(0, dtype=torch.long))
    assert drawn.numel() == count == drawn.unique().numel()
    assert count == 0 or (int(drawn.min()) >= 0 and int(drawn.max()) < 100)


def test_parts_draw_edges_with_weights_and_as_many_negatives() -> None:
    task, parts = parts_of(ring())
    parts.limit(StratifiedSampler(parts.strata(), 12, floor=3))
    items = parts.sample(["forget", "retain", "retain_edges", "non_edges"])
    edges, both, absent = items["retain_edges"], items["retain"], items["non_edges"]
    assert edges.label.tolist() == [1.0] * 12
    assert absent.label.tolist() == [0.0] * 12
    assert both.label.tolist() == [1.0] * 12 + [0.0] * 12
    assert torch.equal(both.edge_label_index[:, :12], edges.edge_label_index)  # one draw serves all parts of a step
    assert torch.equal(both.weight, torch.cat([edges.weight, torch.ones(12)]))
    assert set(columns(edges.edge_label_index)) <= set(columns(parts.retain))
    assert not edges.fixed
    assert items["forget"].fixed
    assert items["forget"].weight is None
    again = parts.sample(["retain_edges"])["retain_edges"]
    assert not torch.equal(again.edge_label_index, edges.edge_label_index)
    assert torch.equal(both.share(1, 2).weight, both.weight[1::2])
    prediction = task.decode(torch.nn.Identity(), torch.randn(24, 4), edges)
    assert torch.equal(prediction.weight, edges.weight.float())
    assert prediction.weight.unique().numel() > 1


def test_batches_of_a_permutation() -> None:
    batches = ShuffledBatches(10, 4, seed=5)
    passes = []
    for start in (0, 3):
        drawn = []
        for step in range(start, start + 3):
            batches.step = step
            index, weight = batches()
            assert weight is None
            drawn.append(index)
        assert [index.numel() for index in drawn] == [4, 4, 2]
        passes.append(torch.cat(drawn))
        assert sorted(passes[-1].tolist()) == list(range(10))
    assert not torch.equal(*passes)
    other = ShuffledBatches(10, 4, seed=5)
    other.step = 4  # as after a resume in the middle of the second pass
    assert torch.equal(other()[0], passes[1][4:8])
    assert not torch.equal(ShuffledBatches(10, 10, seed=6)()[0], ShuffledBatches(10, 10, seed=5)()[0])


def test_a_task_without_batches_says_so() -> None:
    class Whole(Parts):
        def sample(self, names):
            return {}

    with pytest.raises(UnsupportedMethodError, match="reads 'retain' items in batches"):
        Whole().limit(ShuffledBatches(3, 2, 0))


def random_parts(data: Data, batch_size: int, seed: int = 0):
    task = LinkPrediction()
    whole = task.training_parts(data)
    return whole, RandomNodeParts(whole, batch_size, seed)


def test_random_parts_are_those_of_pygs_loader() -> None:
    data = ring(25, 20)
    data.y = torch.arange(25)
    _, parts = random_parts(data, 12)
    seen = []
    loader = RandomNodeLoader(Data(x=data.x, edge_index=data.edge_index, y=data.y), parts.num_parts)
    for step in range(parts.num_parts):
        parts.batches.step = step
        parts.sample(["retain_edges"])
        part, n_id = parts.subgraph.data, parts.subgraph.n_id
        seen += n_id.tolist()
        expected = loader.collate_fn(n_id)
        assert torch.equal(part.x, expected.x)
        assert torch.equal(part.y, expected.y)
        assert set(columns(part.edge_index)) == set(columns(expected.edge_index))
    assert sorted(seen) == list(range(25))
    assert parts.num_parts > 1


def test_random_parts_estimate_the_mean_over_all_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 3]])
    loop = torch.tensor([[4], [4]])  # never cut
    data = Data(x=torch.randn(5, 2), edge_index=torch.cat([edges, edges.flip(0), loop], dim=1))
    whole, parts = random_parts(data, 3)
    assert parts.num_parts == 2
    values = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    truth, means, plain = values[whole.retain[0], whole.retain[1]].mean(), [], []
    orders = [torch.tensor(order) for order in itertools.permutations(range(5))]  # all that can be drawn
    monkeypatch.setattr(parts.batches, "order", lambda: orders[parts.batches.step // 2])
    for step in range(2 * len(orders)):
        parts.batches.step = step
        items = parts.sample(["retain_edges"])["retain_edges"]
        a, b = parts.subgraph.n_id[items.edge_label_index]
        means.append(float((items.weight * values[a, b]).sum() / max(items.num_items, 1)))
        plain.append(float(values[a, b].sum() / max(items.num_items, 1)))
    assert np.mean(means) == pytest.approx(float(truth), abs=1e-12)
    assert abs(np.mean(plain) - float(truth)) > 0.01  # control: without weights


def test_one_part_is_the_whole_graph() -> None:
    whole, parts = random_parts(ring(), 1000)
    torch.manual_seed(0)
    one = whole.sample(["retain"])["retain"]
    torch.manual_seed(0)
    other = parts.sample(["retain"])["retain"]
    assert torch.equal(other.edge_label_index, one.edge_label_index)
    assert torch.equal(other.weight, torch.ones_like(other.weight))
    assert torch.equal(parts.subgraph.data.edge_index.unique(dim=1), parts.data.edge_index.unique(dim=1))


def test_random_parts_refuse_the_forget_set_and_crumbs() -> None:
    _, parts = random_parts(ring(), 12)
    with pytest.raises(InvalidInputError, match="'non_edges'"):
        parts.sample(["forget"])
    with pytest.raises(InvalidInputError, match="at least 2 nodes"):
        random_parts(ring(), 1)
