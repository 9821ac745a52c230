"""GraphEraser: partitions, what is retrained and what is not, weights, the contract of an ensemble."""

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.shards import grapheraser
from gunlearn.methods.shards.grapheraser import ShardEnsemble, fit_weights, shard_graph
from gunlearn.methods.shards.partitioning import assign, balanced_kmeans, capacity, label_propagation
from gunlearn.seed import isolated_rng
from tests.methods.cases import MODELS, SHARD_CASES, make_data, run, same_weights, trained_model
from tests.methods.test_method_contract import contract_of

TASK = gu.NodeClassification()
SHORT = {"num_shards": 4, "shard_epochs": 15, "eval_every": 15}


@functools.cache
def problem() -> tuple[nn.Module, Data]:
    return trained_model("gcn"), make_data()


def erase(model: nn.Module, data: Data, request: gu.Request, **options: Any) -> gu.Result:
    return gu.unlearn(model, data, request, "grapheraser", "node_classification", **{**SHORT, **options})


@functools.cache
def first() -> gu.Result:
    """An ensemble, after a request."""
    return erase(*problem(), gu.ForgetNodes([9]))


# Partitions.


def test_assignment_fills_and_never_overfills() -> None:
    cost = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    cost[:, 0] *= 0.01  # everybody would go there
    found = assign(cost, torch.tensor([10, 10, 10]))
    assert torch.bincount(found).tolist() == [10, 10, 10]
    assert torch.equal(assign(cost, torch.tensor([30, 30, 30])), cost.argmin(1))
    assert (found == 0).nonzero().view(-1).tolist() == sorted(cost[:, 0].argsort()[:10].tolist())  # the cheapest


def test_label_propagation_cuts_fewer_edges_within_the_limit(data_root: Any) -> None:
    data = gu.load("Cora", data_root)
    size = data.num_nodes
    with isolated_rng(0):
        shard = label_propagation(data.edge_index, size, 5, slack=0.1)
        drawn = torch.randint(5, (size,))
    cut, cut_by_chance = ((s[data.edge_index[0]] != s[data.edge_index[1]]).float().mean() for s in (shard, drawn))
    assert torch.bincount(shard, minlength=5).max() <= capacity(size, 5, 0.1)
    assert cut < 0.5 < cut_by_chance
    with isolated_rng(0):
        still = label_propagation(data.edge_index, size, 5, slack=0.0, sweeps=0)
    assert torch.bincount(still).max() - torch.bincount(still).min() <= 1


def test_kmeans_finds_balanced_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    z = (centre[:, None] + torch.randn(3, 40, 2, generator=generator)).view(-1, 2)
    costs = []
    for seed in range(4):
        with isolated_rng(seed):
            shard = balanced_kmeans(z, 3, slack=0.1, sweeps=20)
        assert torch.bincount(shard, minlength=3).max() <= capacity(120, 3, 0.1)
        means = torch.stack([z[shard == s].mean(0) for s in range(3)])
        costs.append(float((z - means[shard]).square().sum()))
    assert min(costs) == pytest.approx(
        float((z.view(3, 40, 2) - z.view(3, 40, 2).mean(1, True)).square().sum()), rel=1e-5
    )
    spread = torch.zeros(120, 2)  # all at one place: only the room decides
    with isolated_rng(0):
        assert torch.bincount(balanced_kmeans(spread, 3, slack=0.0)).tolist() == [40, 40, 40]


def test_no_matrix_of_nodes_by_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            out = func(*args, **(kwargs or {}))
            dense = isinstance(out, Tensor) and out.layout == torch.strided
            largest.append(out.numel() if dense else 0)
            return out

    size = 2000
    edge_index = torch.randint(size, (2, 4000), generator=torch.Generator().manual_seed(0))
    with isolated_rng(0), Watch():
        label_propagation(edge_index, size, 5)
        balanced_kmeans(torch.randn(size, 8), 5)
    assert max(largest) <= 2 * size * 8
    with isolated_rng(0), Watch():  # control
        torch.cdist(torch.randn(size, 2), torch.randn(size, 2))
    assert max(largest) > size**2 / 2


# What a request does.


def test_untouched_shards_are_bit_identical_and_every_touched_one_is_retrained() -> None:
    before = first()
    shard, data = before.model.shard, before.data
    train = data.train_mask.nonzero().view(-1)
    gone = torch.tensor([int(train[0]), int(train[shard[train] != shard[train[0]]][0])])
    touched = shard[gone].unique().tolist()
    assert len(touched) == 2
    result = erase(before.model, data, gu.ForgetNodes(gone))
    assert result.notes["touched"] == touched
    assert torch.equal(result.model.shard, shard)  # not partitioned again
    assert result.notes["setup_seconds"] == 0.0 < result.notes["request_seconds"]
    for number, (old, new) in enumerate(zip(before.model.models, result.model.models, strict=True)):
        assert same_weights(old, new) == (number not in touched)
        if number in touched:  # from new weights, on what is left of it: the same as by hand
            part = shard_graph(result.data, shard, number)
            with isolated_rng(4 * int(before.model.draws[number]) + number):
                fresh = gu.methods.reset_model(old)
                args = gu.methods.TrainArguments(15, 1e-2, eval_every=15, keep="best")
                gu.methods.train_from_scratch(fresh, part, TASK, args)
            assert same_weights(fresh, new)


@pytest.mark.parametrize(
    "request_", [gu.ForgetNodes(count=3, seed=1), gu.ForgetEdges(count=20, seed=1), gu.ForgetFeatures(count=3, seed=1)]
)
def test_what_is_forgotten_is_in_no_shard(request_: gu.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[int, Data]] = []
    trained: list[Data] = []
    train, cut = grapheraser.train_from_scratch, grapheraser.shard_graph
    monkeypatch.setattr(
        grapheraser, "shard_graph", lambda data, shard, n: parts.append((n, cut(data, shard, n))) or parts[-1][1]
    )
    monkeypatch.setattr(
        grapheraser, "train_from_scratch", lambda model, data, *args: trained.append(data) or train(model, data, *args)
    )
    model, data = problem()
    result = erase(model, data, request_)
    partition, shard = result.partition, result.model.shard
    seen = [(number, part) for data in trained for number, part in parts if part is data]
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3]
    forgotten = set(map(tuple, partition.forget_edge_index.t().tolist()))
    gone = torch.cat([partition.forget_nodes, partition.feature_nodes])
    held = set()
    for number, part in seen:
        nodes = (shard == number).nonzero().view(-1)
        assert part.num_nodes == nodes.numel()
        held |= {(min(a, b), max(a, b)) for a, b in nodes[part.edge_index].t().tolist()}
        assert (part.x[torch.isin(nodes, gone)] == 0).all()
        lost = torch.isin(nodes, partition.forget_nodes)
        assert not part.train_mask[lost].any()
        assert (part.y[lost] == -1).all()
    assert not held & forgotten
    ends = shard[partition.retain_edge_index]
    assert len(held) == int((ends[0] == ends[1]).sum())  # control: the other edges within shards are all there
    inside = shard[partition.forget_edge_index[0]] == shard[partition.forget_edge_index[1]]
    by_hand = set(shard[partition.forget_edge_index[0, inside]].tolist())
    by_hand |= set(shard[gone].tolist())
    assert result.notes["touched"] == sorted(by_hand)


def test_an_edge_between_shards_touches_none() -> None:
    before = first()
    data, shard = before.data, before.model.shard
    row, col = data.edge_index
    across = data.edge_index[:, shard[row] != shard[col]][:, :1]
    result = erase(before.model, data, gu.ForgetEdges(across))
    assert result.notes["touched"] == []
    assert all(same_weights(a, b) for a, b in zip(before.model.models, result.model.models, strict=True))


# The aggregation.


def test_the_ensemble_is_the_weighted_mean() -> None:
    result, (_, data) = first(), problem()
    with torch.no_grad():
        out = result.model(data.x, data.edge_index)
        each = torch.stack([m(data.x, data.edge_index).softmax(1).double() for m in result.model.models])
    expected = (each * result.model.weight.double().view(-1, 1, 1)).sum(0)
    torch.testing.assert_close(out.double().exp(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(out, result.model.eval()(data.x, data.edge_index))


def test_weights_maximise_the_likelihood_of_retained_training_nodes() -> None:
    ensemble, data = copy.deepcopy(first().model), first().data
    fit_weights(ensemble, data, TASK, learned=True, steps=3000)
    w = ensemble.weight.double().numpy()
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-6)
    index = data.train_mask.nonzero().view(-1)
    with torch.no_grad():
        p = torch.stack([m(data.x, data.edge_index).softmax(1)[index, data.y[index]] for m in ensemble.models], 1)
    p = p.double().numpy()

    def loss(v: np.ndarray) -> float:
        return -np.log(p @ (v**2 / (v**2).sum())).mean()

    best = min(minimize(loss, np.random.default_rng(s).random(4)).fun for s in range(4))
    assert loss(np.sqrt(w)) == pytest.approx(best, abs=1e-4)
    assert loss(np.ones(4)) > best + 1e-3  # control: equal weights are worse
    spoiled = copy.copy(data)
    spoiled.y = torch.where(data.train_mask, data.y, (data.y + 1) % 4)
    other = copy.deepcopy(first().model)
    fit_weights(other, spoiled, TASK, learned=True, steps=3000)
    assert torch.equal(other.weight, ensemble.weight)  # no held-out label is read
    fit_weights(other, data, TASK, learned=False)
    assert other.weight.tolist() == [0.25] * 4


def test_a_shard_without_training_nodes_has_no_say_and_is_touched_anew() -> None:
    """Nothing is learned there, so only its new weights tell that it was reset: other ones each time."""
    before = first()
    members = (before.model.shard == 0) & before.data.train_mask
    others = ((before.model.shard == 0) & ~before.data.train_mask & ~before.data.forgotten_mask).nonzero().view(-1)
    request = gu.ForgetFeatures(others[:1])
    empty = erase(before.model, before.data, gu.ForgetNodes(mask=members))
    assert empty.model.weight[0] == 0
    assert torch.isfinite(empty.model(empty.data.x, empty.data.edge_index)).all()
    once, again = (erase(empty.model, empty.data, request) for _ in range(2))
    twice = erase(once.model, once.data, gu.ForgetNodes(others[1:2]))
    assert once.notes["touched"] == twice.notes["touched"] == [0]
    for one, other in ((empty, once), (once, twice)):
        assert not same_weights(one.model.models[0], other.model.models[0])
        assert all(same_weights(a, b) for a, b in zip(one.model.models[1:], other.model.models[1:], strict=True))
    assert same_weights(once.model, again.model)


def test_without_validation_the_last_step_counts() -> None:
    model, data = problem()
    blind = copy.copy(data)
    del blind.val_mask
    blind.test_mask = data.test_mask | data.val_mask  # what training reads is the same
    options = {"eval_every": None, "shard_epochs": 15, "lr": 0.3}
    one, two = (erase(model, d, gu.ForgetNodes([9]), **options) for d in (data, blind))
    assert same_weights(one.model, two.model)
    chosen = erase(model, data, gu.ForgetNodes([9]), **{**options, "eval_every": 1})
    assert not same_weights(chosen.model, one.model)  # control


# The contract: as `test_method_contract.py` has it, for a result of another class than the given model's.


@pytest.mark.parametrize(("case", "name"), [*zip(SHARD_CASES, ("sage", "autoencoder"), strict=True)], ids=str)
def test_the_contract(case: Any, name: str, tmp_path: Any) -> None:
    results = []

    def run_it(model: nn.Module, data: Data) -> None:
        for seed in (1, 1, 2):
            results.append(run(case, model, data, seed=seed, **{**SHORT, "shard_epochs": 3, "eval_every": 3}))

    contract_of(case, name).untouched(run_it)
    one, again, other = results
    assert same_weights(one.model, again.model)
    assert not same_weights(one.model, other.model)
    assert not any(module.training for module in one.model.modules())
    assert all(p.grad is None for p in one.model.parameters())
    assert (one.epochs, one.history, one.mode) == (0, [], case.variant)
    template = ShardEnsemble(MODELS[name](), torch.zeros_like(one.model.shard), 4)
    with pytest.warns(UserWarning, match="forward_hook 1 of models.0"):  # the caller's hooks, which the template lacks
        loaded = gu.Result.load(one.save(tmp_path), template, strict=False)
    assert same_weights(loaded.model, one.model)
    assert loaded.record() == one.record()


def test_refusals() -> None:
    model, data = problem()
    for options, message in (({"shard_epochs": -1}, "epochs"), ({"num_shards": 65}, "Expected at most 64 shards")):
        with pytest.raises(InvalidInputError, match=message):
            erase(model, data, gu.ForgetNodes([1]), **options)
    with pytest.raises(UnsupportedMethodError, match="Expected a task among"):
        gu.unlearn(model, data, gu.ForgetNodes([1]), "grapheraser")
    small = gu.node_split(Data(x=data.x[:8], edge_index=torch.tensor([[0, 1], [1, 0]]), y=data.y[:8]), 0.2, 0.2)
    with pytest.raises(UnsupportedModelError, match="Expected an ensemble of shards of 8 nodes"):
        erase(first().model, small, gu.ForgetFeatures([1]))


def test_on_a_real_graph_it_forgets_as_retraining_of_shards_does(data_root: Any) -> None:
    """Forgotten labels are as unlikely as under other shards; the no-op, its opposite and fine-tuning keep them."""
    data = gu.node_split(gu.load("Cora", data_root))
    wrong = copy.copy(data)  # a few training nodes with a label that nothing but memory can know
    train = data.train_mask.nonzero().view(-1)[:40]
    wrong.y = data.y.clone()
    wrong.y[train] = (data.y[train] + 1) % 7
    options = {"num_shards": 2, "shard_epochs": 40, "eval_every": 40, "lr": 3e-2}
    base = gu.GCN(data.num_features, 16, 7)
    untouched = erase(base, wrong, gu.ForgetNodes([int(data.test_mask.nonzero()[0])]), **options)
    memory = untouched.model
    result = erase(memory, untouched.data, gu.ForgetNodes(train), **options)
    partition = result.partition

    @torch.no_grad()
    def loss(model: nn.Module) -> float:
        return float(cross_entropy(model(data.x, data.edge_index)[train], wrong.y[train]))

    finetuned = copy.deepcopy(memory)
    for model in finetuned.models:
        args = gu.methods.TrainArguments(5, 1e-3)
        gu.methods.train_from_scratch(model, partition.retain_data, TASK, args)
    flipped = erase(memory, untouched.data, gu.ForgetNodes(data.train_mask.nonzero().view(-1)[-40:]), **options)
    assert loss(result.model) > max(loss(memory), loss(finetuned), loss(flipped.model)) + 0.2
