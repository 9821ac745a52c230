"""INPO's two modes against the paper's formulas, written out in dense float64 numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import min_max, nora
from gunlearn.losses import TopologicalEntropy
from gunlearn.methods import INPO
from gunlearn.tasks.graph.score_targets import SCORE_TARGETS
from tests.methods.cases import dense_gcn, fresh_model, make_data, run, same_weights, trained_model, weights
from tests.training.callbacks import On

FORGET = gu.ForgetEdges(count=12, seed=3)

# The authors' table of settings: epochs, learning rate, weights of NPO : retain : entropy.
SETTINGS = {
    "Cora": (300, 1e-3, 1, 0.5),
    "DBLP": (330, 1e-3, 1, 0.8),
    "PubMed": (800, 6e-4, 2, 1),
    "CS": (800, 1e-3, 1, 0.6),
    "ogbl-collab": (1000, 2e-3, 2, 1),
    "CoraFull": (300, 1e-3, 1, 0.5),
    "a data set of my own": (300, 1e-3, 1, 0.5),
    None: (300, 1e-3, 1, 0.5),
}


@pytest.mark.parametrize("dataset", SETTINGS)
def test_paper_settings(dataset: str | None) -> None:
    method = INPO(mode="paper", dataset=dataset)
    assert (method.epochs, method.lr, method.retain_weight, method.entropy_weight) == SETTINGS[dataset]
    assert (method.beta, method.weight_decay, method.kl_weight, method.message_graph) == (5.0, 5e-7, 0.0, "full")
    assert method.max_grad_norm is None
    assert [(weight, loss.name, loss.on) for weight, loss in method.objective().terms] == [
        (1.0, "npo", "forget"),
        (method.retain_weight, "sigmoid_nll", "retain_edges"),
        (method.entropy_weight, "topological_entropy", "forget"),
    ]
    assert method.objective().terms[0][1].ratio_offset == 1e-4


def test_what_is_given_wins_over_the_mode() -> None:
    for mode in ("paper", "default"):
        method = INPO(mode=mode, dataset="DBLP", epochs=7, lr=0.5, entropy_weight=0.0, beta=2.0, weight_decay=0.0)
        given = (method.epochs, method.lr, method.entropy_weight, method.beta, method.weight_decay)
        assert given == (7, 0.5, 0.0, 2.0, 0.0)
        assert TopologicalEntropy.name not in {loss.name for _, loss in method.objective().terms}


def test_default_mode_repairs_what_it_says() -> None:
    method = INPO()
    terms = {loss.name: loss for _, loss in method.objective().terms}
    assert terms["nll"].on == "retain"  # with negatives
    assert terms["kl_to_reference"].on == "retain"
    assert terms["npo"].ratio_offset == 0.0
    assert "sigmoid_nll" not in terms
    assert method.message_graph == "retain"


def dense_embeddings(
    w: dict[str, Tensor], data: Data, edge_index: Tensor, scale: np.ndarray | float = 1.0
) -> np.ndarray:
    return dense_gcn(w, data, edge_index, torch.as_tensor(scale)).numpy()


def probability(z: np.ndarray, edges: Tensor) -> np.ndarray:
    return expit((z[edges[0]] * z[edges[1]]).sum(1))


def entropy(z: np.ndarray, reference: np.ndarray, edges: Tensor) -> float:
    """Both directions of each edge, both of its end points, repeats kept, as the official code goes."""
    ends = torch.cat([edges, edges.flip(0)], dim=1).flatten().numpy()
    return float(-(softmax(reference[ends], 1) * log_softmax(z[ends], 1)).sum(1).mean())


def paper_terms(z: np.ndarray, z_ref: np.ndarray, partition: Any) -> dict[str, float]:
    forget, retain = partition.forget_edge_index, partition.retain_edge_index
    ratio = probability(z, forget) / probability(z_ref, forget)
    return {
        "npo(forget)": float((2 / 5 * np.log(1 + (ratio + 1e-4) ** 5)).mean()),
        "sigmoid_nll(retain_edges)": float(np.log1p(np.exp(-probability(z, retain))).mean()),
        "topological_entropy(forget)": entropy(z, z_ref, forget),
    }


def few_retained() -> gu.ForgetEdges:
    """All edges of two neighbours but one between others: nodes without a retained edge exist."""
    data = make_data()
    u, v = data.edge_index[:, 0]
    touching = ((data.edge_index == u) | (data.edge_index == v)).any(0).nonzero().view(-1)
    once = touching[data.edge_index[0, touching] < data.edge_index[1, touching]]
    return gu.ForgetEdges(edge_ids=once)


@pytest.mark.parametrize("request_", [FORGET, few_retained()], ids=["drawn", "two bare nodes"])
def test_paper_mode_by_hand(request_: gu.Request) -> None:
    model, data = trained_model(), make_data()
    partition = request_.resolve(data)
    s = min_max(nora(model, data)).double().numpy()
    touched = np.zeros(data.num_nodes, dtype=bool)
    touched[partition.retain_edge_index.flatten()] = True
    damping = np.exp(-(s[:, None] + s[None, :]))
    # The official mask: entries whose two end points have some retained edge each; self-loops and forgotten edges too.
    node_wise = np.where(touched[:, None] & touched[None, :], damping, 1.0)

    w = weights(model)
    z_ref = dense_embeddings(w, data, data.edge_index)
    by_hand = paper_terms(dense_embeddings(w, data, data.edge_index, node_wise), z_ref, partition)
    result = run("inpo:paper", model, data, request_, epochs=1, dataset="DBLP")
    record = result.history[0]
    for name, value in by_hand.items():
        assert record[name] == pytest.approx(value, rel=2e-5), name
    weights_of = {"npo(forget)": 1, "sigmoid_nll(retain_edges)": 1, "topological_entropy(forget)": 0.8}
    assert record["loss"] == pytest.approx(sum(weights_of[name] * value for name, value in by_hand.items()), rel=2e-5)
    assert math.log1p(math.exp(-1)) <= record["sigmoid_nll(retain_edges)"] <= math.log(2)

    # Controls: other readings of the paper give other numbers.
    retained = np.zeros((data.num_nodes,) * 2, dtype=bool)
    row, col = partition.retain_data.edge_index
    retained[row, col] = True
    off_diagonal = ~np.eye(data.num_nodes, dtype=bool)
    for mask in (retained, touched[:, None] & touched[None, :] & off_diagonal, np.zeros_like(retained)):
        other = paper_terms(dense_embeddings(w, data, data.edge_index, np.where(mask, damping, 1.0)), z_ref, partition)
        assert other["npo(forget)"] != pytest.approx(by_hand["npo(forget)"], rel=1e-3)
    if request_ is not FORGET:  # only there do end points without a retained edge exist
        assert not touched[partition.forget_edge_index].all()
        everywhere = paper_terms(dense_embeddings(w, data, data.edge_index, damping), z_ref, partition)
        assert everywhere["npo(forget)"] != pytest.approx(by_hand["npo(forget)"], rel=1e-3)
    # The reference has plain messages, so that the ratio is not 1 at the start.
    assert record["npo(forget)"] != pytest.approx(2 / 5 * math.log(2), rel=1e-2)


def test_paper_mode_without_scaling_starts_at_its_closed_form() -> None:
    result = run("inpo:paper", trained_model(), make_data(), FORGET, epochs=1, scale_messages=False)
    expected = 2 / 5 * math.log(1 + (1 + 1e-4) ** 5)
    assert result.history[0]["npo(forget)"] == pytest.approx(expected, rel=1e-6)
    assert abs(expected - 2 / 5 * math.log(2)) > 1e-4 * 0.9  # the offset can be told from none


def test_default_mode_by_hand() -> None:
    model, data = trained_model(), make_data()
    partition = FORGET.resolve(data)
    retain = partition.retain_data
    s = min_max(nora(model, retain)).double().numpy()
    scale = np.exp(-(s[:, None] + s[None, :]))
    np.fill_diagonal(scale, 1.0)  # self-loops are no edges
    w = weights(model)
    forget = partition.forget_edge_index
    options = {"beta": 3.0, "entropy_weight": 0.7, "lr": 1e-2, "until": "end"}
    after = run("inpo", model, data, FORGET, epochs=1, **options).model
    history = run("inpo", model, data, FORGET, epochs=2, **options).history

    def terms(graph: Tensor, factor: np.ndarray | float) -> list[tuple[float, float]]:
        """NPO and entropy before the first and the second step; the reference in the same surroundings."""
        reference = dense_embeddings(w, data, graph, factor)
        out = []
        for z in (reference, dense_embeddings(weights(after), data, graph, factor)):
            ratio = probability(z, forget) / probability(reference, forget)
            out.append((float((2 / 3 * np.log(1 + ratio**3)).mean()), entropy(z, reference, forget)))
        return out

    expected = terms(retain.edge_index, scale)
    assert expected[0][0] == pytest.approx(2 / 3 * math.log(2))  # model and reference agree at the start
    for record, (npo, te) in zip(history, expected, strict=True):
        assert record["npo(forget)"] == pytest.approx(npo, rel=5e-5)
        assert record["topological_entropy(forget)"] == pytest.approx(te, rel=5e-5)
    # Controls: self-loops scaled too, the full graph, or no scales: other numbers.
    everything = np.exp(-(s[:, None] + s[None, :]))
    for graph, factor in ((retain.edge_index, everything), (data.edge_index, scale), (retain.edge_index, 1.0)):
        assert terms(graph, factor)[1] != pytest.approx(expected[1], rel=1e-3)


@pytest.mark.parametrize(("variant", "name"), [("default", "sage"), ("paper", "gcn")])
def test_scales_are_in_force_only_in_training_passes(variant: str, name: str) -> None:
    data, seen = make_data(), []

    def plain_now(state: Any, model: nn.Module, **_: Any) -> None:
        model.eval()
        twin = fresh_model(name, seed=8)
        twin.load_state_dict(model.state_dict())
        twin.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(data.x, data.edge_index), twin(data.x, data.edge_index))
        seen.append(state.epoch)

    events = ("train_begin", "epoch_begin", "step_end", "epoch_end", "train_end")
    model, watch = trained_model(name), On(**dict.fromkeys(events, plain_now))
    result = run(f"inpo:{variant}", model, data, FORGET, epochs=2, callbacks=[watch])
    assert seen == [0, 0, 1, 1, 1, 2, 2, 2]
    twin = fresh_model(name).eval()
    twin.load_state_dict(result.model.state_dict())
    torch.testing.assert_close(result.model(data.x, data.edge_index), twin(data.x, data.edge_index))
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(result.model.modules(), twin.modules(), strict=True))
    # Control: the scales do act.
    plain = run(f"inpo:{variant}", model, data, FORGET, epochs=2, scale_messages=False)
    assert plain.history[0] != result.history[0]


@pytest.mark.parametrize("variant", ["default", "unseen"])
def test_the_influence_estimate_leaves_nothing_behind(variant: str) -> None:
    data, seen = make_data(), []
    watch = On(train_begin=lambda model, **_: seen.append([p.grad for p in model.parameters()]))
    run(f"inpo:{variant}", trained_model(), data, FORGET, epochs=1, callbacks=[watch])
    assert seen == [[None] * 4]
    assert not data.x.requires_grad
    assert data.x.grad is None


def test_paper_mode_steps() -> None:
    """Two steps of torch's Adam in float64; the first also holds the estimate's gradient, as in the official code."""
    model, data = trained_model(), make_data()
    partition = FORGET.resolve(data)
    options = {"entropy_weight": 0.0, "retain_weight": 0.0, "lr": 1e-3}
    result = run("inpo:paper", model, data, FORGET, epochs=2, **options)
    assert not data.x.requires_grad
    assert data.x.grad is None
    touched = torch.zeros(64, dtype=torch.bool)
    touched[partition.retain_edge_index.flatten()] = True
    s = min_max(nora(model, data)).double()
    scale = torch.where(touched[:, None] & touched[None, :], torch.exp(-(s[:, None] + s[None, :])), 1.0)
    p: dict[str, Tensor] = {}

    def log_prob(scale: Tensor | float) -> Tensor:
        z = dense_gcn(p, data, data.edge_index, scale)
        u, v = partition.forget_edge_index
        return nn.functional.logsigmoid((z[u] * z[v]).sum(1))

    def two_steps(estimate_first: bool) -> dict[str, Tensor]:
        for name, tensor in weights(model).items():
            p[name] = tensor.double().requires_grad_()
        optimizer = torch.optim.Adam(p.values(), lr=1e-3, weight_decay=5e-7)
        reference = log_prob(1.0).detach()
        if estimate_first:
            out = dense_gcn(p, data, data.edge_index).softmax(-1)
            (out * out.detach()).sum().backward()
        for _ in range(2):
            ratio = (log_prob(scale) - reference).exp()
            (2 / 5 * torch.log(1 + (ratio + 1e-4) ** 5)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return {name: tensor.detach() for name, tensor in p.items()}

    ours = result.model.state_dict()
    for name, tensor in two_steps(estimate_first=True).items():
        torch.testing.assert_close(ours[name].double(), tensor, rtol=0, atol=2e-5)
    # Control: without the left-over gradient the weights come out elsewhere.
    assert max(float((ours[n] - t).abs().max()) for n, t in two_steps(estimate_first=False).items()) > 2e-4


def test_each_idea_can_be_switched_off_and_matters() -> None:
    model, data = trained_model(), make_data()
    options = {"epochs": 3, "lr": 1e-2, "entropy_weight": 0.5, "kl_weight": 5.0, "retain_weight": 1.0}
    whole = run("inpo", model, data, FORGET, **options)
    for off in ({"entropy_weight": 0.0}, {"kl_weight": 0.0}, {"retain_weight": 0.0}, {"scale_messages": False}):
        assert not same_weights(run("inpo", model, data, FORGET, **{**options, **off}).model, whole.model)


@pytest.mark.parametrize("method", ["inpo", "gradient_ascent"])
def test_until_unseen_lets_edges_go(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = trained_model(), make_data()
    more = {"epochs": 5, "lr": 1e-2, **({"kl_weight": 1.0} if method == "inpo" else {})}

    def until(target: Tensor) -> gu.Result:
        monkeypatch.setitem(SCORE_TARGETS, "unseen", lambda *problem: target)
        return run(method, model, data, FORGET, until="unseen", **more)

    low, high = torch.full((12,), -1e6), torch.full((12,), 1e6)
    plain = run(method, model, data, FORGET, until="end", **more)
    done, never = until(high), until(low)
    assert done.epochs == 0
    assert same_weights(done.model, model)
    assert never.history == plain.history  # nobody is let go: an ordinary run
    assert same_weights(never.model, plain.model)
    half = until(torch.cat([low[:6], high[6:]]))
    if method == "inpo":  # each edge still in it contributes 2 ln 2 / beta
        assert half.history[0]["npo(forget)"] == pytest.approx(plain.history[0]["npo(forget)"] / 2, rel=1e-5)
    else:
        partition = FORGET.resolve(data)
        z = dense_embeddings(weights(model), data, partition.retain_data.edge_index)
        by_hand = np.log(probability(z, partition.forget_edge_index[:, :6])).sum() / 12
        assert half.history[0]["gradient_ascent(forget)"] == pytest.approx(by_hand, rel=1e-4)
    assert until(torch.cat([low[:1], high[1:]])).epochs == 5  # 11 of 12 are not 95 %
