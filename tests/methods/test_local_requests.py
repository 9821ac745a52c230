"""ScaleGUN's state from request to request: tables, walks, products and factors against making them anew."""

import copy
import gc
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import SGConv
from torch_geometric.utils import remove_self_loops, to_undirected

import gunlearn as gu
from gunlearn.errors import GunlearnError
from gunlearn.methods.linear_head import kept_states, push, scalegun
from gunlearn.methods.linear_head.convex import Logistic
from gunlearn.methods.linear_head.gram import Gram
from gunlearn.methods.linear_head.hessian_factor import HessianFactor, newton_step
from gunlearn.methods.linear_head.propagation import propagated
from gunlearn.methods.linear_head.push_all import push_all
from gunlearn.methods.linear_head.row_versions import RowVersions
from gunlearn.methods.linear_head.walk import RandomWalk
from tests.methods.cases import dense_adjacency
from tests.methods.heads import fitted, gradient, karate

TASK = "node_classification"
KINDS = (gu.ForgetNodes, gu.ForgetEdges, gu.ForgetFeatures)


def unlearn(model: Any, data: Data, request: gu.Request, name: str = "scalegun", **options: Any) -> gu.Result:
    return gu.unlearn(model, data, request, name, TASK, **options)


def test_every_version_of_a_table_stays_what_it_was() -> None:
    draw = np.random.default_rng(0)
    versions = [RowVersions([torch.arange(40.0).view(10, 4), torch.zeros(6, 2)])]
    copies = [[table.clone() for table in versions[0].hold()]]
    for _ in range(40):
        parent = int(draw.integers(len(versions)))
        new, now = versions[parent].begin(), [table.clone() for table in copies[parent]]
        for _ in range(int(draw.integers(4))):  # rows are written more than once
            table = int(draw.integers(2))
            ids = torch.from_numpy(draw.permutation(len(now[table]))[:3])
            rows = torch.from_numpy(draw.normal(size=(3, now[table].size(1)))).float()
            new.add(table, ids, rows)
            now[table][ids] += rows
        for table, (before, after) in enumerate(zip(copies[parent], now, strict=True)):
            ids = new.changed(table)
            assert torch.equal(new.before(table, ids), before[ids])
            assert set((before != after).any(dim=1).nonzero().view(-1).tolist()) <= set(ids.tolist())
        new.end()
        versions.append(new)
        copies.append(now)
        which = int(draw.integers(len(versions)))
        assert all(torch.equal(a, b) for a, b in zip(versions[which].hold(), copies[which], strict=True))
    for version, tables in zip(versions, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(version.hold(), tables, strict=True))
    held = {table.data_ptr() for version in versions for table in version.hold()}
    assert len(held) == 2  # one copy in memory


def numbers(*versions: RowVersions) -> int:
    """How many numbers are in memory for some versions, each counted once."""
    todo, seen, tensors = list(versions), set(), {}
    while todo:
        entry: Any = todo.pop()
        if isinstance(entry, Tensor):
            tensors[entry.data_ptr()] = entry.numel()
        elif id(entry) not in seen and (
            isinstance(entry, list | tuple | dict) or type(entry).__module__ == RowVersions.__module__
        ):
            seen.add(id(entry))
            todo += gc.get_referents(entry)
    return sum(tensors.values())


def test_versions_that_nobody_holds_take_no_memory() -> None:
    """Most often the newest goes on, and others than the first are dropped: all stay what they were."""
    draw, most, alone = np.random.default_rng(0), 0, 0
    first = RowVersions([torch.arange(400.0).view(100, 4), torch.zeros(60, 2)])
    held, size, change = [(first, [table.clone() for table in first.hold()])], 520, 40
    for _ in range(400):
        parent, now = held[-1 if draw.random() < 0.9 else int(draw.integers(len(held)))]
        new, now = parent.begin(), [table.clone() for table in now]
        for table in (0, 1):
            ids = torch.from_numpy(draw.permutation(len(now[table]))[:5])
            new.write(table, ids, rows := torch.from_numpy(draw.normal(size=(5, now[table].size(1)))).float())
            now[table][ids] = rows
        new.end()
        held.append((new, now))
        if len(held) > 3:
            del held[int(draw.integers(1, 3))]
        del parent, new
        most = max(most, numbers(*(version for version, _ in held)))
        for version, tables in (held[int(k)] for k in draw.permutation(len(held))):
            assert all(torch.equal(a, b) for a, b in zip(version.hold(), tables, strict=True))
        alone = max(alone, len({version.hold()[0].data_ptr() for version, _ in held}))
    assert alone > 1  # control: some had tables of their own
    assert most <= 3 * 2 * (size + change)


def test_a_hundred_requests_beside_the_first_graph_take_bounded_memory() -> None:
    data = first = sparse_graph()
    head = old = fitted(data, alpha=50.0)
    request = gu.ForgetEdges(count=1, seed=0)
    alone = unlearn(head, copy.deepcopy(data), request)

    def rows(data: Data) -> RowVersions:
        (state, _), *_ = kept_states._states(data).values()
        return state.rows

    most = []
    for seed in range(100):
        result = unlearn(head, data, gu.ForgetEdges(count=1, seed=seed))
        head, data = result.model, result.data
        del result
        if seed % 10 == 9:
            gc.collect()
            most.append(numbers(rows(first), rows(data)) / sum(table.numel() for table in rows(data).hold()))
    assert max(most) <= 4, most
    again = unlearn(old, first, request)
    assert not again.notes["propagation"]["from_scratch"]
    assert torch.equal(again.model.lin.weight, alone.model.lin.weight)
    assert again.notes["certificate"] == alone.notes["certificate"]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("few", [0, 1000])
def test_a_walk_without_edges_is_that_of_the_graph_without_them(
    directed: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gunlearn.methods.linear_head.walk._FEW", few)
    draw = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 12, (2, 60), generator=draw)  # copies and self-loops among them
    edges = edges if directed else torch.cat([edges, edges.flip(0)], dim=1)
    walk, left = RandomWalk.of(edges, 12), edges
    for _ in range(4):
        gone = left[:, torch.randint(0, left.size(1), (3,), generator=draw)]
        gone = gone if directed else torch.cat([gone, gone.flip(0)], dim=1)
        stays = ~(left[:, :, None] == gone[:, None, :]).all(dim=0).any(dim=1)
        walk, left = walk.without(left[:, ~stays]), left[:, stays]
        fresh = RandomWalk.of(left, 12)
        assert walk.senders.equal(fresh.senders)
        assert walk.receivers.equal(fresh.receivers)
        assert torch.equal(walk.degree, fresh.degree)
    # Its matrices are the rows and columns of D^-1 A, dense.
    a = torch.zeros(12, 12).double()
    a.index_put_((left[1], left[0]), torch.ones(left.size(1)).double(), accumulate=True)
    a.fill_diagonal_(1)
    dense, nodes = a / a.sum(dim=1, keepdim=True), torch.tensor([2, 5, 7])
    senders, matrix = walk.gathers(nodes)
    assert torch.allclose(matrix.to_dense(), dense[nodes][:, senders])
    reached = walk.reached(nodes)
    assert torch.allclose(walk.sends(nodes, reached).to_dense(), dense[reached][:, nodes])
    assert reached.tolist() == sorted({*nodes.tolist(), *dense[:, nodes].any(dim=1).nonzero().view(-1).tolist()})
    assert torch.equal(walk.sends(nodes, reached[1:]).to_dense(), walk.sends(nodes, reached).to_dense()[1:])


def test_products_of_changed_rows_are_bounded_with_their_rounding() -> None:
    """Large rows that leave take digits of small ones with them: only the recorded error still covers these."""
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.normal(size=(30, 1))) * 1e-6
    gram, wrong = Gram.of([rows], 1, rows.device), 0
    for _ in range(20):
        large = torch.from_numpy(draw.normal(size=(5, 1))) * 1e3
        gram = gram.changed(large[:0], large).changed(large, large[:0])
        exact = sum(Fraction(float(v)) ** 2 for v in rows)
        assert Fraction(gram.largest()) ** 2 >= exact
        assert Fraction(float(gram.lengths(torch.ones(1, 1).double()))) ** 2 >= exact
        wrong += Fraction(float(gram.matrix)) < exact
    assert wrong  # control: without it the bound is false
    wide = torch.from_numpy(draw.normal(size=(50, 7)))
    gram = Gram.of(wide.split(8), 7, wide.device).changed(wide[3:9], wide[:4] * 2)
    now = torch.cat([wide[:3], wide[9:], wide[:4] * 2])
    w = torch.from_numpy(draw.normal(size=(7, 3)))
    assert gram.largest() == pytest.approx(float(torch.linalg.matrix_norm(now, 2)), rel=1e-7)
    assert gram.lengths(w).tolist() == pytest.approx((now @ w).norm(dim=0).tolist(), rel=1e-7)


def test_any_factor_gives_the_newton_step() -> None:
    draw = torch.Generator().manual_seed(0)
    z, w = torch.randn(60, 8, generator=draw).double(), torch.randn(8, 3, generator=draw).double()
    target = torch.randn(8, 3, generator=draw).double()
    problem = Logistic(z, torch.ones(60, 3).double(), 0.01, torch.zeros(8, 3).double(), count=50)
    p = torch.sigmoid(z @ w)
    dense = [
        torch.linalg.solve(z.t() @ ((p * (1 - p))[:, c, None] * z) + 0.5 * torch.eye(8).double(), target[:, c])
        for c in range(3)
    ]
    factors = {"none": None, "own": HessianFactor.of(problem, w), "far": HessianFactor.of(problem, -3 * w)}
    passes = {}
    for name, factor in factors.items():
        found = newton_step(problem, z @ w, target, factor)
        assert torch.allclose(found.solution, torch.stack(dense, dim=1), atol=1e-8)
        assert torch.allclose(found.image, z @ found.solution, atol=1e-12)
        assert float(found.left.max()) <= 1e-9 * float(target.norm(dim=0).max())
        passes[name] = found.passes
    assert passes["own"] <= 2 < min(passes["far"], passes["none"])
    flat = Logistic(z * 0, problem.sign, 0.0, problem.perturbation)
    assert HessianFactor.of(flat, w) is None


def sparse_graph() -> Data:
    """500 nodes of mean degree 5, in three classes that the features tell."""
    draw = torch.Generator().manual_seed(0)
    edges = to_undirected(remove_self_loops(torch.randint(0, 500, (2, 1250), generator=draw))[0])
    data = Data(x=torch.randn(500, 10, generator=draw), edge_index=edges)
    data.y = data.x[:, :3].argmax(dim=1)
    return gu.node_split(data, 0.1, 0.1, seed=0)


@pytest.mark.parametrize(("hops", "r_max"), [(None, 2e-2), ((0.1, 0.2, 0.3, 0.4), 1e-3)], ids=["sgc", "gpr"])
def test_fifty_requests_in_a_row(hops: tuple[float, ...] | None, r_max: float) -> None:
    """The bound against the exact gradient; the state against one that is made anew by its definition."""
    data = sparse_graph()
    head = fitted(data, alpha=50.0, K=2 if hops is None else 3, weights=hops)
    scratch = []
    for seed in range(50):
        result = unlearn(head, data, KINDS[seed % 3](count=1 + seed % 3, seed=seed), r_max=r_max)
        head, data, certificate = result.model, result.data, result.notes["certificate"]
        scratch.append(result.notes["propagation"]["from_scratch"])
        assert certificate["status"] != "uncertified"
        assert float(gradient(head, data).norm()) <= certificate["spent"]
        if seed % 10 != 9:
            continue
        nodes = data.train_mask.nonzero().view(-1)
        state, known = kept_states.pushed_state(data, nodes, head.hops, r_max, True)
        assert known
        reserve, residue, z = state.hold()
        assert not z[~state.alive].any()
        assert torch.equal(state.nodes[state.alive], nodes)
        a = dense_adjacency(data).double()  # normalised: D^-1/2 A D^-1/2
        root = RandomWalk.of(data.edge_index, int(data.num_nodes)).degree.sqrt()[:, None]
        length = data.x.double().norm(dim=1, keepdim=True)
        level = data.x.double() / torch.where(length > 0, length, 1.0)  # D^1/2 q_0
        for k, (q, r) in enumerate(zip(reserve, residue, strict=True)):
            assert torch.allclose(root * r, a @ level - root * q, atol=1e-12)
            assert float((root * r).abs().max()) <= r_max
            assert torch.allclose(state.square[k], (root * r).square().sum(dim=1), atol=1e-15)
            assert torch.allclose(state.grams[k].matrix, (root * r).t() @ (root * r), atol=1e-14)
            level = root * q
        exact = propagated(data, nodes, head.hops, True)
        stated = sum(c * float((root * r).norm()) for c, r in zip(state.shares(), residue, strict=True))
        assert 1e-9 < float((z[state.alive] - exact).norm()) <= stated
        assert torch.allclose(state.grams[-1].matrix, z.t() @ z, atol=1e-9)
        assert state.longest() == pytest.approx(float(z.norm(dim=1).max()))
    assert scratch == [True] + [False] * 49


def test_a_changed_row_left_out_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: what the bound is made of is all that the request changed."""
    data = sparse_graph()
    head, request = fitted(data, alpha=50.0), gu.ForgetNodes(count=2, seed=4)
    whole = push.Pushed.changes

    def but_one(state: push.Pushed) -> tuple[Tensor, ...]:
        places, out, into = whole(state)
        most = int((out - into).norm(dim=1).argmax())
        return tuple(torch.cat([t[:most], t[most + 1 :]]) for t in (places, out, into))

    good = unlearn(head, data, request)
    monkeypatch.setattr(push.Pushed, "changes", but_one)
    bad = unlearn(head, data, request)
    assert float(gradient(good.model, data=good.data).norm()) <= good.notes["certificate"]["spent"]
    assert float(gradient(bad.model, data=bad.data).norm()) > bad.notes["certificate"]["spent"]


def test_requests_go_on_from_any_graph_without_another_propagation(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first graph, from one of its results, and from the first again: the same bits as on fresh copies."""
    counts = {"push_all": 0, "factor": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            counts[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(kept_states, "push_all", counted("push_all", push_all))
    monkeypatch.setattr(scalegun.HessianFactor, "of", counted("factor", HessianFactor.of))
    data = sparse_graph()
    head, requests = fitted(data, alpha=50.0), [kind(count=2, seed=3) for kind in KINDS]

    def run(data: Data) -> list[gu.Result]:
        first = [unlearn(head, data, request) for request in requests]
        return [*first, unlearn(first[0].model, first[0].data, requests[1]), unlearn(head, data, requests[0])]

    found = run(data)
    assert counts == {"push_all": 1, "factor": 1}
    for request, result in zip([*requests, None, requests[0]], found, strict=True):
        if request is not None:
            alone = unlearn(head, copy.deepcopy(data), request)
            assert torch.equal(alone.model.lin.weight, result.model.lin.weight)
            assert alone.notes["certificate"] == result.notes["certificate"]
    assert counts["push_all"] == 5
    other = fitted(data, alpha=20.0)  # another head on the same graph: its own factor, the same features
    unlearn(other, data, requests[0])
    assert counts == {"push_all": 5, "factor": 6}


@pytest.mark.parametrize("name", ["x", "edge_index", "train_mask", "y"])
def test_a_graph_edited_by_numpy_is_another_graph(name: str) -> None:
    data = karate()
    head = fitted(data, alpha=50.0)
    unlearn(head, data, gu.ForgetNodes([3]))
    values = data[name].numpy()
    edits = {"x": lambda: values[5:].__imul__(-3), "y": lambda: values.__setitem__(slice(0, 6), 1 - values[:6])}
    edits["edge_index"] = lambda: values.__setitem__((slice(None), slice(0, 12)), values[:, 12:24].copy())
    edits["train_mask"] = lambda: values.__setitem__(values.argmax(), False)
    edits[name]()
    assert not np.array_equal(values, karate()[name].numpy())
    found, fresh = (unlearn(head, graph, gu.ForgetNodes([3])) for graph in (data, copy.deepcopy(data)))
    assert torch.equal(found.model.lin.weight, fresh.model.lin.weight)
    assert found.notes["certificate"] == fresh.notes["certificate"]
    # Labels are read at each request; the rest makes a new state.
    assert found.notes["propagation"]["from_scratch"] == (name != "y")


def test_a_head_with_a_bias_takes_the_step_on_exact_features() -> None:
    data = karate()
    torch.manual_seed(0)
    model = gu.train(SGConv(12, 2, K=2), data, TASK, epochs=20, lr=1e-2).model
    for kind in KINDS:
        local, exact = (unlearn(model, data, kind(count=2, seed=1), name) for name in ("scalegun", "cgu"))
        for a, b in zip(local.model.parameters(), exact.model.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        model, data = local.model, local.data


def test_threads_share_a_state_in_turns() -> None:
    data = karate()
    head = fitted(data, alpha=50.0)
    requests = [gu.ForgetNodes([node]) for node in range(8)]
    alone = [unlearn(head, copy.deepcopy(data), request).model.lin.weight for request in requests]
    together: dict[int, Tensor] = {}

    def work(k: int) -> None:
        together[k] = unlearn(head, data, requests[k]).model.lin.weight

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[k], alone[k]) for k in range(8))


def test_a_prepared_graph_is_not_read_by_the_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data, passes = gu.prepare(karate()), []
    head = fitted(data, alpha=50.0)
    forward = type(head).forward
    monkeypatch.setattr(type(head), "forward", lambda *args: passes.append(1) or forward(*args))
    for k, seed in enumerate((1, 2, 3)):
        result = unlearn(head, data, gu.ForgetEdges(count=1, seed=seed))
        assert bool(passes) == (k == 0)
        head, data = result.model, result.data
        passes.clear()
    head.lin.weight.data[0, 0] = torch.nan  # control: a head that is not finite is tried
    with pytest.raises(GunlearnError):
        unlearn(head, data, gu.ForgetEdges(count=1, seed=4))
