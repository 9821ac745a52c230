"""Steps that read a part of the graph: the same losses and gradients, and clear refusals where that cannot be."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import typing as pyg
from torch_geometric.data import Data
from torch_geometric.nn import APPNP, GATConv, GCNConv, GraphNorm, SAGEConv, SGConv
from torch_geometric.sampler import NeighborSampler, SamplerOutput
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.errors import InvalidInputError, MissingExtraError, UnsupportedMethodError
from gunlearn.losses import NLL, as_objective
from gunlearn.nn import k_hop_subgraph
from gunlearn.tasks import LinkPrediction
from gunlearn.tasks.graph.reading import is_exact
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.feeding import Feed
from tests.methods.cases import Made, same_weights
from tests.training.callbacks import Kill

REQUEST = gu.ForgetEdges(count=2, seed=1)


class Net(nn.Module):
    """Two layers with what a user may put between them."""

    def __init__(self, conv: type[nn.Module] = GCNConv, between: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = conv(6, 8), conv(8, 4)
        self.between = nn.Identity() if between is None else between

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.between(self.first(x, edge_index).relu())
        return self.second(nn.functional.dropout(h, 0.3, self.training), edge_index)


def attention() -> nn.Module:
    """Every node looks at all others."""
    return Made(lambda m, h, _: h + torch.softmax(m.query(h).mean(dim=1), dim=0) @ h, query=nn.Linear(8, 8))


def graph(num_nodes: int = 300, num_edges: int = 330) -> Data:
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(num_nodes, (2, num_edges), generator=generator)
    edge_index = to_undirected(edge_index[:, edge_index[0] != edge_index[1]], num_nodes=num_nodes)
    data = Data(x=torch.randn(num_nodes, 6, generator=generator), edge_index=edge_index)
    return gu.link_split(data, val_ratio=0.1, test_ratio=0.1, seed=0)


def model_of(*args: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(*args)


def run(model: nn.Module, data: Data, method: str = "gradient_ascent", **options: Any) -> gu.Result:
    return gu.unlearn(model, data, REQUEST, method, **{"epochs": 4, "lr": 1e-2, **options})


@pytest.mark.parametrize(("conv", "message_graph"), [(GCNConv, "retain"), (SAGEConv, "full"), (GATConv, "retain")])
def test_the_forget_set_is_learned_on_its_subgraph(
    conv: type[nn.Module], message_graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.functional, "dropout", lambda x, *a, **k: x)  # nodes are not drawn alike in another graph
    data, model = graph(), model_of(conv)
    full = run(model, data, message_graph=message_graph, subgraph="never")
    part = run(model, data, message_graph=message_graph)
    assert full.notes["graph"] == "full"
    assert part.notes["graph"].startswith("2-hop subgraph, ")
    assert part.notes["graph"].endswith(" of 300 nodes")
    for one, other in zip(full.model.parameters(), part.model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert [r["loss"] for r in part.history] == pytest.approx([r["loss"] for r in full.history], rel=1e-4)
    assert full.history[0]["loss"] != pytest.approx(full.history[-1]["loss"], rel=1e-2)  # something was learned


def own_messages() -> nn.Module:
    """Messages that no PyG layer sends, so that nobody counts them."""
    return Made(lambda m, x, e: m.lin(x).index_add(0, e[1], m.lin(x)[e[0]]), lin=nn.Linear(6, 4))


@pytest.mark.parametrize(
    "make",
    [lambda: model_of(GCNConv, GraphNorm(8)), lambda: model_of(GCNConv, attention()), own_messages],
    ids=["GraphNorm", "attention", "own messages"],
)
def test_models_that_read_more_than_a_subgraph_keep_the_whole_graph(make: Callable[[], nn.Module]) -> None:
    assert run(make(), graph()).notes["graph"] == "full"
    with pytest.raises(UnsupportedMethodError, match="other outputs"):
        run(make(), graph(), subgraph="always")
    assert "subgraph" in run(model_of(), graph()).notes["graph"]  # control


def test_batch_normalisation_is_no_obstacle_in_evaluation() -> None:
    data, task = graph(), LinkPrediction()
    model, seeds = model_of(GCNConv, nn.BatchNorm1d(8)), data.edge_index[0, ::100]
    subgraph = k_hop_subgraph(data, seeds, 2)
    assert is_exact(model, task, data, subgraph, seeds, training=False)
    assert not is_exact(model, task, data, subgraph, seeds, training=True)
    tried, untried = (run(model, data, subgraph=s) for s in ("auto", "never"))
    assert tried.notes["graph"] == "full"
    assert tried.model.between.num_batches_tracked == untried.model.between.num_batches_tracked  # tried on a copy
    # Statistics of the batch may be accepted.
    assert "subgraph" in run(model, data, subgraph="always").notes["graph"]
    assert not is_exact(model, task, data, k_hop_subgraph(data, seeds, 0), seeds, training=False)


def test_a_part_of_more_than_half_is_not_worth_it() -> None:
    assert run(model_of(), graph(60, 400)).notes["graph"] == "full"


@pytest.mark.parametrize(
    ("model", "mode"), [(gu.GCN(6, 8, 4), "default"), (Net(SAGEConv), "paper")], ids=["native", "attached"]
)
def test_inpo_reads_parts_with_its_message_scales(model: nn.Module, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.functional, "dropout", lambda x, *a, **k: x)
    options = {"mode": mode, "retain_samples": 10, "epochs": 5, "lr": 1e-3, "until": "end"}
    full, part, plain = (
        run(model, graph(), "inpo", **options, **more)
        for more in ({"subgraph": "never"}, {"subgraph": "always"}, {"subgraph": "always", "scale_messages": False})
    )
    assert "2-hop subgraph" in part.notes["graph"]
    assert [r["loss"] for r in part.history] == pytest.approx([r["loss"] for r in full.history], rel=1e-4)
    assert [r["loss"] for r in plain.history] != pytest.approx([r["loss"] for r in full.history], rel=1e-4)


def test_until_separated_ends_at_the_same_step() -> None:
    options = {"until": "separated", "epochs": 60, "lr": 1e-2, "retain_weight": 0.0, "method": "npo"}
    model = gu.train(gu.GCN(6, 8, 4), graph(), epochs=60, lr=1e-2).model
    full, part = (run(model, graph(), **options, subgraph=s) for s in ("never", "auto"))
    assert 0 < part.epochs == full.epochs < 60
    assert "subgraph" in part.notes["graph"]


def exhaust(
    model: nn.Module, data: Data, options: BatchOptions, negatives: Tensor | None
) -> tuple[float, list[Tensor]]:
    """Size-weighted means of the batches' losses and gradients, over one pass."""
    task = LinkPrediction()
    parts = task.training_parts(data)
    objective = as_objective(NLL(on="retain_edges" if negatives is None else "retain"))
    number = parts.retain.size(1)
    if negatives is not None:  # the same ones for the whole graph and, in turn, for its batches
        queue = iter(negatives.t().tolist())
        parts.sampler.sample = lambda count, like=None: torch.tensor([next(queue) for _ in range(count)]).t()
    feed = Feed(model, task, parts, objective.parts, options)
    if negatives is not None:
        queue = iter(negatives.t().tolist())  # the feed tried one batch
    loss, gradient = 0.0, [torch.zeros_like(p) for p in model.parameters()]
    for step in range(feed.steps_per_epoch):
        for draw in feed.draws.values():
            draw.step = step
        data_, items, _ = feed.reader.read(feed.sample())
        outputs = task.encode(model, data_)
        current = {name: task.decode(model, outputs, items[name]) for name in objective.parts}
        value = objective(current).total
        share = items[objective.parts[0]].num_items / (number if negatives is None else 2 * number)
        loss += share * value.item()
        for total, part in zip(gradient, torch.autograd.grad(value, list(model.parameters())), strict=True):
            total += share * part
    return loss, gradient


def propagated() -> nn.Module:
    return Made(lambda m, x, e: m.prop(m.conv(x, e), e), conv=SGConv(6, 4, K=2), prop=APPNP(K=1, alpha=0.2))


@pytest.mark.parametrize(
    ("conv", "subgraph"),
    [(GCNConv, "always"), (GCNConv, "never"), (SAGEConv, "auto"), (GATConv, "always"), (None, "auto")],
)
def test_exhausted_batches_are_the_full_batch(conv: type[nn.Module] | None, subgraph: str) -> None:
    data, model = graph(80, 100), (model_of(conv) if conv else propagated()).double().eval()
    data.x = data.x.double()
    task = LinkPrediction()
    negatives = task.training_parts(data).sampler.sample(task.training_parts(data).retain.size(1))
    negatives = negatives[:, torch.randperm(negatives.size(1))]
    for pairs in (None, negatives):
        whole = exhaust(model, data, BatchOptions(), pairs)
        batches = exhaust(model, data, BatchOptions(batch_size=17, subgraph=subgraph), pairs)
        assert batches[0] == pytest.approx(whole[0], rel=1e-10)
        torch.testing.assert_close(batches[1], whole[1], rtol=1e-8, atol=1e-12)
    one = exhaust(model, data, BatchOptions(batch_size=10**6, sampler="random_node"), None)
    assert one[0] == pytest.approx(exhaust(model, data, BatchOptions(), None)[0], rel=1e-10)
    cut = exhaust(model, data, BatchOptions(batch_size=17, sampler="random_node"), None)
    assert cut[0] != pytest.approx(whole[0], rel=1e-3)  # the control: biased messages are noticed


@pytest.mark.parametrize("options", [{"batch_size": 40}, {"batch_size": 60, "sampler": "random_node"}])
def test_training_in_batches_learns_and_repeats(options: dict[str, Any]) -> None:
    data = graph(120, 300)
    trained = gu.train(gu.GCN(6, 8, 4), data, epochs=12, lr=1e-2, eval_every=4, **options)
    losses = [record["loss"] for record in trained.history]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert trained.config["batch_size"] == options["batch_size"]
    retrained = [run(trained.model, data, "retrain", **{"epochs": 6, "eval_every": 3, **options}) for _ in range(2)]
    assert same_weights(retrained[0].model, retrained[1].model)


@pytest.mark.parametrize("options", [{"batch_size": 50}, {"retain_samples": 30}])
def test_a_resumed_run_reads_the_same_batches(options: dict[str, Any], tmp_path) -> None:
    data, model = graph(120, 300), gu.GCN(6, 8, 4)
    options = {"method": "graddiff", "epochs": 9, **options}
    straight = run(model, data, **options)
    with pytest.raises(KeyboardInterrupt):
        run(model, data, **options, checkpoint_dir=tmp_path, callbacks=[Kill(5, 6)])
    resumed = run(model, data, **options, checkpoint_dir=tmp_path)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in straight.history]
    assert same_weights(straight.model, resumed.model)


@pytest.mark.parametrize("method", ["inpo", "npo", "graddiff", "finetune"])
def test_methods_take_samples_and_batches(method: str) -> None:
    data, model = graph(120, 300), gu.GCN(6, 8, 4)
    full = run(model, data, method)
    for options in ({"retain_samples": 20}, {"batch_size": 20}):
        part = run(model, data, method, **options)
        assert part.epochs
        assert not same_weights(part.model, full.model)
    everything = run(model, data, method, retain_samples=10**6)
    assert same_weights(everything.model, full.model)


def test_options_of_graphs_are_refused_for_images() -> None:
    data = Data(x=torch.randn(60, 5), y=torch.arange(60) % 3)
    for options in ({"batch_size": 16, "sampler": "random_node"}, {"subgraph": "always"}, {"message_graph": "full"}):
        message = f"no '{list(options)[-1]}' for task 'image_classification'"
        with pytest.raises(UnsupportedMethodError, match=message):
            gu.unlearn(nn.Linear(5, 3), data, gu.ForgetItems([1]), "finetune", "image_classification", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "cluster"}, "'sampler' among"),
        ({"subgraph": True}, "'subgraph' among"),
        ({"batch_size": 0}, "'batch_size' to be an integer >= 1"),
        ({"retain_samples": 2.5}, "'retain_samples' to be an integer >= 1"),
        ({"retain_samples": 5, "batch_size": 5}, "either 'batch_size' or 'retain_samples'"),
        ({"sampler": "random_node"}, "'batch_size' for sampler='random_node'"),
        ({"num_neighbors": (5, 5)}, "with sampler='neighbor' alone"),
        ({"sampler": "neighbor", "batch_size": 5}, "'num_neighbors' "),
    ],
)
def test_bad_options_are_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        gu.methods.GradDiff(**options)


def test_what_cannot_be_read_in_parts_is_refused() -> None:
    data, model = graph(120, 300), gu.GCN(6, 8, 4)
    with pytest.raises(InvalidInputError, match="no 'retain_samples' for 'gradient_ascent'"):
        run(model, data, "gradient_ascent", retain_samples=10)
    with pytest.raises(UnsupportedMethodError, match="no forget part for sampler='random_node'"):
        run(model, data, "graddiff", batch_size=10, sampler="random_node")
    with pytest.raises(InvalidInputError, match="'retain_samples' between the number of strata"):
        run(model, data, "graddiff", retain_samples=1)


class Enclosed(gu.methods.GradDiff):
    """Surroundings that know the whole graph alone."""

    def surroundings(self, problem):
        return lambda model: gu.nn.attach.ScaledMessages(
            model, problem.partition.retain_data.edge_index, torch.ones(problem.partition.retain_data.num_edges)
        )


def test_surroundings_that_know_no_parts() -> None:
    data, model = graph(), gu.GCN(6, 8, 4)
    assert gu.unlearn(model, data, REQUEST, Enclosed(epochs=1, retain_samples=5)).notes["graph"] == "full"
    with pytest.raises(UnsupportedMethodError, match=r"method 'on\(subgraph\)'"):
        gu.unlearn(model, data, REQUEST, Enclosed(epochs=1, retain_samples=5, subgraph="always"))


@pytest.mark.skipif(pyg.WITH_PYG_LIB or pyg.WITH_TORCH_SPARSE, reason="the sampler is there")
def test_neighbor_sampling_names_what_is_missing() -> None:
    with pytest.raises(MissingExtraError, match=r"pyg-lib or torch-sparse .* use sampler='k_hop'"):
        gu.train(gu.GCN(6, 8, 4), graph(), epochs=1, batch_size=5, sampler="neighbor", num_neighbors=(5, 5))


def every_neighbor(sampler: NeighborSampler, seed: Tensor, *args: Any, **kwargs: Any) -> SamplerOutput:
    """What pyg-lib's sampler returns for two layers when asked for all neighbours: seeds first, CSC edge numbers."""
    nodes, rows, cols, edges, begin = seed.tolist(), [], [], [], 0
    for _ in range(2):
        end = len(nodes)
        for place in range(begin, end):
            for edge in range(int(sampler.colptr[nodes[place]]), int(sampler.colptr[nodes[place] + 1])):
                source = int(sampler.row[edge])
                if source not in nodes:
                    nodes.append(source)
                rows.append(nodes.index(source))
                cols.append(place)
                edges.append(edge)
        begin = end
    return SamplerOutput(*(torch.tensor(v, dtype=torch.long) for v in (nodes, rows, cols, edges)))


def check_all_neighbors(data: Data) -> None:
    model = model_of(SAGEConv).eval()  # SAGE reads no degree of senders
    options = BatchOptions(batch_size=17, sampler="neighbor", num_neighbors=(-1, -1))
    sampled, whole = exhaust(model, data, options, None), exhaust(model, data, BatchOptions(), None)
    assert sampled[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(sampled[1], whole[1], rtol=1e-4, atol=1e-6)


def test_neighbors_as_pygs_loader_hands_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyg, "WITH_PYG_LIB", True)
    monkeypatch.setattr(NeighborSampler, "_sample", every_neighbor)
    data = graph(80, 100)
    data.edge_index = data.edge_index[:, torch.randperm(data.num_edges)]
    check_all_neighbors(data)


@pytest.mark.skipif(importlib.util.find_spec("pyg_lib") is None, reason="needs pyg-lib")
def test_all_neighbors_are_the_full_batch() -> None:
    check_all_neighbors(graph(80, 100))


def per_node(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """Of a model that holds something for every node, as models without features do: it runs on one graph alone."""
    model.passes += 1
    h = model.embedding.weight
    return model.conv(torch.cat([h, x[:, :4]], dim=1) if model.conv.in_channels == 12 else h, edge_index)


@pytest.mark.parametrize("kind", ["embedding", "position"])
def test_models_of_one_graph_keep_the_whole_graph(kind: str) -> None:
    data = gu.link_split(gu.load("karate"), seed=0)
    torch.manual_seed(0)
    conv = GCNConv(12 if kind == "position" else 8, 4)
    model = Made(per_node, conv=conv, embedding=nn.Embedding(data.num_nodes, 8))
    model.register_buffer("passes", torch.zeros(()))
    for method, options in (
        ("gradient_ascent", {}),
        ("inpo", {"retain_samples": 20}),
        ("inpo", {}),
        ("finetune", {"batch_size": 20}),
    ):
        result = run(model, data, method, epochs=2, **options)
        assert result.notes["graph"] == "full"
        plain = run(model, data, method, epochs=2, subgraph="never", **options)
        assert result.model.passes == plain.model.passes  # trying the subgraph leaves no trace on the model
    with pytest.raises(UnsupportedMethodError, match="always"):
        run(model, data, epochs=2, subgraph="always")


def test_a_complete_part_has_no_negatives() -> None:
    blocks = [torch.combinations(torch.arange(6) + 6 * k).t() for k in range(5)]
    data = Data(x=torch.eye(30), edge_index=to_undirected(torch.cat(blocks, dim=1)), num_nodes=30)
    result = gu.train(gu.GCN(30, 8, 4), data, epochs=3, batch_size=4, sampler="random_node")
    assert all(math.isfinite(record["loss"]) for record in result.history)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradient_ascent", {}),
        ("inpo", {"retain_samples": 20, "until": "separated"}),
        ("npo", {"retain_samples": 10}),
        ("finetune", {"batch_size": 30}),
        ("finetune", {"batch_size": 60, "sampler": "random_node"}),
    ],
)
def test_parts_of_the_graph_hold_no_held_out_edges(method: str, options: dict[str, Any]) -> None:
    data, other, less = graph(), graph(), graph()
    for name in ("val_pos_edge_index", "val_neg_edge_index", "test_pos_edge_index", "test_neg_edge_index"):
        other[name] = (other[name] + 7) % other.num_nodes
    torch.manual_seed(0)
    model = model_of()
    expected = run(model, data, method, **options).model
    assert same_weights(run(model, other, method, **options).model, expected)
    less.x = less.x + 0.1  # control: what may be learned from does matter
    assert not same_weights(run(model, less, method, **options).model, expected)
