"""Paper modes train as the authors' code does, quirks included; the controls are the default modes."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam
from torch_geometric.utils import k_hop_subgraph

import gunlearn as gu
from gunlearn.methods import METHODS
from gunlearn.methods.any_task.imu import IMU
from gunlearn.methods.any_task.scrub import Scrub
from gunlearn.methods.graph.cognac import PHASES, Cognac
from gunlearn.methods.graph.erasing import erase
from gunlearn.methods.graph.etr import ETR
from gunlearn.methods.graph.megu import MEGU
from gunlearn.nn.attach.operators import DeletionOperator
from gunlearn.report.listing import listing
from gunlearn.training.optimizers import PhasedOptimizer
from tests.methods.cases import make_data, ring, same_weights, trained_model
from tests.methods.forgetting import classifier


class Watch(gu.Callback):
    """Notes the optimiser, and the rate of each step."""

    optimizer: Any
    rates: list[float]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer, self.rates = kwargs["optimizer"], []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])


def watched(method: gu.Method) -> Watch:
    watch = Watch()
    model = trained_model("gcn")
    gu.unlearn(model, make_data(), gu.ForgetNodes(count=4, seed=3), method, "node_classification", callbacks=[watch])
    return watch


@pytest.mark.parametrize(
    ("cls", "mode", "kind", "settings"),
    [
        (IMU, "paper", SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4}),
        (MEGU, "paper", SGD, {"lr": 5e-2, "momentum": 0.0, "weight_decay": 0.0}),
        (Scrub, "paper", Adam, {"lr": 5e-4, "weight_decay": 0.1}),
        (Scrub, "paper_large", SGD, {"lr": 5e-4, "momentum": 0.9, "weight_decay": 5e-4}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_the_papers_optimiser_and_its_settings(cls: type, mode: str, kind: type, settings: dict[str, float]) -> None:
    optimizer = watched(cls(mode=mode, epochs=1)).optimizer
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in settings} == settings
    assert type(watched(cls(epochs=1)).optimizer) is Adam


def test_a_named_optimiser_replaces_the_papers_and_its_options() -> None:
    method = IMU(mode="paper", optimizer="adagrad", epochs=1)
    assert method.optimizer_options is None
    assert type(watched(method).optimizer) is torch.optim.Adagrad
    assert IMU(mode="paper", optimizer_options={"momentum": 0.5}).optimizer_options == {"momentum": 0.5}


def test_scrubs_rate_falls_where_the_authors_epochs_end() -> None:
    rates = watched(Scrub(mode="paper")).rates
    falls = [step for step, (a, b) in enumerate(pairwise(rates), 1) if b < a]
    # Three epochs of 4 + 16 steps, then 16 each: the fifth ends after 92 steps. The rate falls when that step is taken.
    assert [3 * 20 + (epoch - 3) * 16 for epoch in (5, 8, 9)] == [step + 1 for step in falls]
    assert rates[-1] == pytest.approx(5e-7)
    assert len(set(watched(Scrub(epochs=20)).rates)) == 1


def test_each_phase_of_cognac_has_an_optimiser_of_its_own() -> None:
    optimizer = watched(Cognac(mode="paper", epochs=7)).optimizer
    assert isinstance(optimizer, PhasedOptimizer)
    steps = {phase: {int(state["step"]) for state in optimizer.optimizers[phase].state.values()} for phase in PHASES}
    assert steps == {"contrast": {1}, "ascent": {3}, "descent": {3}}
    assert {p: o.param_groups[0]["lr"] for p, o in optimizer.optimizers.items()} == {
        "contrast": 1.5e-2, "ascent": 2.5e-3, "descent": 1.5e-2,
    }  # fmt: skip
    assert type(watched(Cognac(epochs=7)).optimizer) is Adam


def labelled_ring() -> Any:
    return gu.node_split(ring(40, 20), 0.2, 0.2)


@pytest.mark.parametrize("request_", [gu.ForgetNodes(count=3, seed=1), gu.ForgetEdges(count=5, seed=1)], ids=str)
def test_etr_takes_the_first_rows_of_pygs_subgraph_as_the_authors_do(request_: gu.Request) -> None:
    model, data = copy.deepcopy(classifier()[0]).double().requires_grad_(), labelled_ring()
    data.x = data.x.double()
    partition, train = request_.resolve(data), data.train_mask
    edges = partition.forgets == ("edges",)
    among = [e[:, train[e].all(0)] for e in (data.edge_index, partition.retain_data.edge_index)]
    start = partition.forget_edge_index.unique() if edges else partition.forget_nodes
    gone = start[:0] if edges else start[train[start]]
    reached = k_hop_subgraph(start, 1 if edges else 2, among[0], num_nodes=data.num_nodes)[0]
    near = reached[train[reached] & ~torch.isin(reached, gone)]
    weights = copy.deepcopy(model)

    def mean(edge_index: Tensor, nodes: Tensor) -> list[Tensor]:
        nodes = nodes[torch.isin(nodes, edge_index)]
        subset, local, _, _ = k_hop_subgraph(nodes, 2, edge_index, relabel_nodes=True, num_nodes=data.num_nodes)
        out = weights(data.x[subset], local)[: nodes.numel()]
        loss = cross_entropy(out, data.y[subset][: nodes.numel()], label_smoothing=0.1)
        return list(torch.autograd.grad(loss, list(weights.parameters()))) if nodes.numel() else []

    whole = cross_entropy(weights(data.x, among[0])[train], data.y[train], label_smoothing=0.1)
    g_all = list(torch.autograd.grad(whole, list(weights.parameters())))
    g_gone, g_near = mean(among[0], gone), mean(among[0], near)
    with torch.no_grad():
        erase(list(weights.parameters()), g_all, g_gone or None, g_near, 0.05)
    n, u, i = int(train.sum()), gone.numel(), near.numel()
    g_last = mean(among[1], near)
    with torch.no_grad():
        for k, (parameter, last) in enumerate(zip(weights.parameters(), g_last, strict=True)):
            step = n * g_all[k] - (u * g_gone[k] if u else 0) - i * g_near[k] + i * last
            parameter.sub_(0.3 * step / (n - u))
    result = gu.unlearn(model, data, request_, ETR(mode="paper", erase_ratio=0.05), "node_classification")
    own = gu.unlearn(model, data, request_, ETR(mode="paper", erase_ratio=0.05, rows="own"), "node_classification")
    for got, want in zip(result.model.parameters(), weights.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
    assert not same_weights(own.model, result.model)
    assert result.notes["items"] == {"removed": u, "within_reach": i, "retained": n - u}


def test_first_rows_with_everything_at_the_erased_weights_are_refused() -> None:
    with pytest.raises(gu.errors.InvalidInputError, match="rows='first'"):
        ETR(mode="paper", rectify="erased")


def test_cognacs_paper_mode_returns_the_best_model_on_validation_nodes() -> None:
    model, data = trained_model("gcn"), make_data()
    request, seen = gu.ForgetNodes(count=4, seed=3), []

    class Look(gu.Callback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if Cognac(mode="paper").phase(state.step - 1) != "ascent":
                retain = request.resolve(data).retain_data
                guess = kwargs["model"].eval()(retain.x, retain.edge_index).argmax(1)[data.val_mask]
                score = balanced_accuracy_score(data.y[data.val_mask], guess)
                seen.append((score, state.step, copy.deepcopy(kwargs["model"].state_dict())))

    found = gu.unlearn(model, data, request, "cognac:paper", "node_classification", callbacks=[Look()], epochs=42)
    score, step, weights = max(seen, key=lambda one: (round(one[0], 9), -one[1]))
    assert found.notes["chosen"] == step
    assert found.notes["validation_accuracy"] == pytest.approx(score)
    assert all(torch.equal(value, weights[name]) for name, value in found.model.state_dict().items())
    assert step < seen[-1][1]  # or the choice decides nothing here
    last = gu.unlearn(model, data, request, "cognac:paper", "node_classification", keep="last", epochs=42)
    assert all(torch.equal(value, seen[-1][2][name]) for name, value in last.model.state_dict().items())
    del data.val_mask
    with pytest.raises(gu.errors.UnsupportedMethodError, match="keep='last'"):
        gu.unlearn(model, data, request, "cognac:paper", "node_classification", epochs=3)


def test_gnndeletes_operators_step_as_with_the_authors_two_optimisers() -> None:
    model, data, request = trained_model("gcn"), make_data(), gu.ForgetEdges(count=6, seed=3)
    partition = request.resolve(data)
    results = {
        kind: gu.unlearn(model, data, request, "gnndelete:paper", seed=5, epochs=4, alpha=0.0, lr=0.1, **options)
        for kind, options in {"paper": {}, "own loss": {"leftover": False}}.items()
    }
    ends = partition.forget_edge_index.unique()
    edges = data.edge_index[:, k_hop_subgraph(ends, 2, data.edge_index, num_nodes=data.num_nodes)[3]]
    reached = [k_hop_subgraph(ends, hops, data.edge_index, num_nodes=data.num_nodes)[0] for hops in (1, 2)]
    kept = [nodes[~torch.isin(nodes, ends)] for nodes in reached]
    convs = [conv.requires_grad_(False) for conv in copy.deepcopy(model).eval().convs]
    with torch.no_grad():
        hidden = convs[0](data.x, partition.retain_data.edge_index)
        target = [hidden, convs[1](hidden.relu(), partition.retain_data.edge_index)]
    weights = [torch.full((z.size(1), z.size(1)), 1e-3, requires_grad=True) for z in target]
    optimizers = [Adam([weight], lr=0.1) for weight in weights]
    for _ in range(4):
        losses, h = [], data.x
        for k, conv in enumerate(convs):
            h = conv(h.relu() if k else h, edges)
            h = h.index_copy(0, reached[k], h[reached[k]] @ weights[k])
            losses.append(mse_loss(h[kept[k]], target[k][kept[k]]))
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward(retain_graph=True)
            optimizer.step()
            optimizer.zero_grad()  # before the next loss leaves its gradient there
    found = {
        kind: [m.weight for m in result.model.modules() if isinstance(m, DeletionOperator)]
        for kind, result in results.items()
    }
    for got, want in zip(found["paper"], weights, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["own loss"][0], weights[0], rtol=1e-2, atol=1e-3)


def test_the_table_says_which_paper_modes_were_held_against_their_authors() -> None:
    head, rows = listing("method")
    told = {row[0]: row[head.index("paper mode")] for row in rows}
    for name, said in told.items():
        cls = METHODS[name]
        has_one = any(label.startswith("paper") for label in cls.variants)
        assert (said == "-") == (not has_one), name
        if said.startswith("authors' code"):  # a study says so, with the figures side by side
            folder = Path(__file__).parents[2] / cls.compared
            assert name in (folder / "README.md").read_text(), name
        elif has_one:
            assert said == "never held against the authors' code"
    assert {"megu", "cognac", "etr", "gnndelete", "inpo"} <= {n for n, s in told.items() if s.startswith("authors'")}
    assert told["scrub"] == told["gnndelete_ni"] == "never held against the authors' code"
    assert told["npo"] == "-"
