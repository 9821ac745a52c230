"""Numbers and yes-or-no labels of nodes and graphs: likelihoods by torch.distributions, figures by scikit-learn."""

import math

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import Distillation, KLToReference, Prediction
from gunlearn.losses.functional import gaussian_js_divergence, gaussian_kl
from gunlearn.tasks import GraphRegression, NodeMultilabel, NodeRegression, as_task
from tests.model_kinds import blocks, numbers, one_label, several_labels
from tests.tasks.cases import CASES

REQUEST = gu.ForgetNodes(mask=torch.arange(45) % 15 == 1)


def model(width: int = 1, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GCN(8, 16, 2, width)


def fitted(data: Data, task: str, width: int = 1, epochs: int = 100, seed: int = 0) -> nn.Module:
    return gu.train(model(width, seed), data, task, epochs=epochs, lr=1e-2, eval_every=50).model


@pytest.mark.parametrize("scale", [None, 0.5, (0.5, 2.0)])
def test_a_regression_s_likelihood_is_the_normal_one_up_to_a_constant(scale) -> None:
    generator = torch.Generator().manual_seed(0)
    data = Data(y=torch.randn(6, 2, generator=generator), num_nodes=6)
    outputs, task = torch.randn(6, 2, generator=generator), NodeRegression(scale)
    unit = torch.tensor((1.0,) if scale is None else scale).expand(2)
    normal = torch.distributions.Normal(outputs, unit)
    best = torch.distributions.Normal(data.y, unit)
    expected = (normal.log_prob(data.y) - best.log_prob(data.y)).sum(1)
    found = task.decode(model(2), outputs, task.items_at(data, torch.arange(6)))
    assert torch.allclose(found.log_prob, expected, atol=1e-6)
    other = found.replace(logits=found.logits + 1)
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(outputs + unit, unit)).sum(1)
    for loss in (KLToReference(reduction="none"), Distillation(3.0, reduction="none")):
        assert torch.allclose(loss({loss.on: found}, {loss.on: other}), kl, atol=1e-6)


def test_the_divergence_of_two_normal_distributions() -> None:
    """By the definition, on a fine grid; bounded by ln 2, and a quarter of the KL where means are close."""
    x = torch.linspace(-10, 25, 35_001).double()
    means = torch.tensor([[0.0], [0.01], [1.0], [3.0], [15.0]]).double()
    found = gaussian_js_divergence(torch.zeros_like(means), means)
    for mean, value in zip(means.view(-1), found, strict=True):
        p, q = (torch.distributions.Normal(m, 1.0).log_prob(x).exp() for m in (torch.zeros(()).double(), mean))
        mid = (p + q) / 2
        terms = torch.xlogy(p, p / mid).nan_to_num() + torch.xlogy(q, q / mid).nan_to_num()
        assert float(value) == pytest.approx(float(torch.trapezoid(terms, x)) / 2, abs=1e-6)
    assert float(found.max()) <= math.log(2)
    assert float(found[1]) == pytest.approx(float(gaussian_kl(means[1:2], 0 * means[1:2])) / 4, rel=1e-3)


def test_training_a_regression_is_least_squares() -> None:
    data = numbers()
    task = as_task("node_regression")
    with torch.no_grad():
        found = task.predict(model(), data, task.train_items(data)).log_prob.mean()
        out = model()(data.x, data.edge_index).view(-1)
    assert float(-found) == pytest.approx(
        float(nn.functional.mse_loss(out[data.train_mask], data.y[data.train_mask])) / 2
    )


def test_the_scale_is_that_of_the_retained_residuals() -> None:
    data = numbers()
    trained = fitted(data, "node_regression")
    result = gu.unlearn(trained, data, REQUEST, "npo", "node_regression", epochs=2)
    kept = data.train_mask & ~REQUEST.mask
    with torch.no_grad():
        error = (trained(result.data.x, result.data.edge_index).view(-1) - data.y)[kept]
    assert result.notes["scale"] == pytest.approx([float(error.square().mean().sqrt())], rel=1e-5)
    own = gu.unlearn(trained, data, REQUEST, "npo", NodeRegression(2.0), epochs=2)
    assert own.notes["scale"] == [2.0]
    assert own.task.for_training().scale == (2.0,)


def test_figures_of_a_regression() -> None:
    data = numbers()
    models = [fitted(data, "node_regression", seed=s) for s in range(3)]
    result = gu.unlearn(models[0], data, REQUEST, "finetune", "node_regression", epochs=2)
    table = gu.evaluate(result, references=models[1:])
    with torch.no_grad():
        first, second, third = (
            m(result.data.x, result.data.edge_index)[result.data.test_mask] for m in (result.model, *models[1:])
        )
    truth = data.y[result.data.test_mask]
    assert table["test_mse"] == pytest.approx(metrics.mean_squared_error(truth, first.view(-1)), rel=1e-5)
    assert table["test_r2"] == pytest.approx(metrics.r2_score(truth, first.view(-1)), abs=1e-5)
    unit = result.notes["scale"][0]
    both = [gaussian_js_divergence(first / unit, other / unit).mean() for other in (second, third)]
    assert table["js_test"] == pytest.approx(float(sum(both)) / 2, rel=1e-4)
    assert 0 <= table["mia_auc"] <= 1
    assert "R2 test" in str(table)


def test_several_labels_are_bernoulli_and_unknown_ones_count_nowhere() -> None:
    data = several_labels()
    data.y[4, 1] = -1
    task, out = NodeMultilabel(), torch.randn(45, 3, generator=torch.Generator().manual_seed(0))
    found = task.decode(model(3), out, task.items_at(data, torch.arange(45)))
    expected = torch.distributions.Bernoulli(logits=out).log_prob(data.y.clamp(min=0).float())
    assert not found.mask[4, 1]
    assert torch.allclose(found.log_prob[found.mask], expected[found.mask], atol=1e-6)
    loss = gu.train(model(3), data, task, epochs=1).history[0]["loss"]
    torch.manual_seed(0)
    with torch.no_grad():
        raw = model(3)(data.x, data.edge_index)[data.train_mask]
    known, y = (data.y != -1)[data.train_mask], data.y[data.train_mask].float()
    assert loss == pytest.approx(float(nn.functional.binary_cross_entropy_with_logits(raw[known], y[known])), rel=1e-5)


@pytest.mark.parametrize(("make", "width"), [(several_labels, 3), (one_label, 1)])
def test_figures_of_labels(make, width) -> None:
    data = make()
    models = [fitted(data, "node_multilabel", width, 40, s) for s in range(3)]
    result = gu.unlearn(models[0], data, REQUEST, "finetune", "node_multilabel", epochs=2)
    table = gu.evaluate(result, references=models[1:])
    with torch.no_grad():
        out = result.model(result.data.x, result.data.edge_index)[result.data.test_mask]
    truth = data.y[result.data.test_mask].view(-1, width).numpy()
    expected = metrics.roc_auc_score(truth, out.numpy(), average="macro")
    assert table["test_roc_auc"] == pytest.approx(expected, abs=1e-6)
    assert table["test_f1"] == pytest.approx(metrics.f1_score(truth.ravel(), out.numpy().ravel() > 0), abs=1e-6)
    assert 0 <= table["js_forget"] <= math.log(2)


def test_a_model_may_return_one_value_per_node() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x, edge_index):
            return self.net(x, edge_index).squeeze(-1)

    for task, data in (("node_regression", numbers()), ("node_multilabel", one_label())):
        flat, wide = (gu.unlearn(m, data, REQUEST, "finetune", task, epochs=2) for m in (Flat(), Flat().net))
        assert len(flat.history) == len(wide.history) == 2


def test_scrub_r_counts_errors_of_labels_in_a_column() -> None:
    """As of labels in one dimension."""
    data = one_label()
    flat = data.clone()
    flat.y = data.y.view(-1)
    column = data.clone()
    column.y = data.y.view(-1, 1)
    original, request = model(), REQUEST
    results = [gu.unlearn(original, d, request, "scrub_r", "node_multilabel", epochs=2) for d in (flat, column)]
    assert results[0].notes["chosen"] == results[1].notes["chosen"]
    assert results[0].notes["reference_error"] == results[1].notes["reference_error"]


def test_newton_steps_of_a_regression_are_those_of_least_squares() -> None:
    """A linear model: one step with no damping lands on the minimum of the retained loss."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(8, 1)

        def forward(self, x, edge_index):
            return self.map(x)

    data = numbers()
    data.x = data.x.double()
    data.y = data.y.double() + torch.randn(45, generator=torch.Generator().manual_seed(1)).double() / 3
    design = torch.cat([data.x, torch.ones(45, 1).double()], 1)
    solve = lambda mask: torch.linalg.lstsq(design[mask], data.y[mask]).solution  # noqa: E731
    trained = Linear().double()
    with torch.no_grad():
        best = solve(data.train_mask)
        trained.map.weight.copy_(best[:8]), trained.map.bias.copy_(best[8:])
    result = gu.unlearn(
        trained, data, REQUEST, "gif", "node_regression", damping=0.0, tolerance=1e-6, max_iterations=30
    )  # fmt: skip
    found = torch.cat([result.model.map.weight.view(-1), result.model.map.bias])
    assert torch.allclose(found, solve(data.train_mask & ~REQUEST.mask), atol=1e-5)


def test_forgotten_numbers_enter_no_later_loss() -> None:
    """Without masks: the label of a forgotten node is zero afterwards, and must not be learned."""
    data = blocks()
    data.y = data.x[:, 0] + 5
    retained = REQUEST.resolve(data).retain_data
    for task in ("node_regression", "node_multilabel"):
        if task == "node_multilabel":
            data.y = (data.y > 5).float()
            retained = REQUEST.resolve(data).retain_data
        assert not bool(torch.isin(REQUEST.mask.nonzero().view(-1), as_task(task).train_items(retained).index).any())


@pytest.mark.parametrize(
    ("task", "data", "width", "error", "words"),
    [
        ("node_classification", numbers, 1, InvalidInputError, "task of regression"),
        ("node_classification", lambda: blocks_of(torch.zeros(45).long()), 1, UnsupportedModelError, "node_multilabel"),
        ("node_classification", several_labels, 3, InvalidInputError, "multilabel"),
        ("node_multilabel", numbers, 1, InvalidInputError, "0 and 1"),
        ("node_multilabel", several_labels, 2, UnsupportedModelError, "Expected 3 logits"),
        ("node_regression", several_labels, 3, InvalidInputError, "float"),
        ("node_regression", numbers, 2, UnsupportedModelError, "Expected 1 predictions"),
    ],
)
def test_labels_and_tasks_that_do_not_fit_are_refused_before_any_training(task, data, width, error, words) -> None:
    data = data()
    for attempt in (
        lambda: gu.train(model(width), data, task, epochs=1, callbacks=[Never()]),
        lambda: gu.unlearn(model(width), data, gu.ForgetEdges(count=2), "retrain", task, callbacks=[Never()]),
    ):
        with pytest.raises(error, match=words):
            attempt()


class Never(gu.Callback):
    def on_train_begin(self, *args, **kwargs) -> None:
        pytest.fail("training began")


def blocks_of(y: torch.Tensor) -> Data:
    data = blocks()
    data.y = y
    return data


def test_scores_of_classes_are_not_asked_of_numbers() -> None:
    data = numbers()
    with pytest.raises(UnsupportedMethodError, match="'embeddings'"):
        gu.influence(model(), data, "node_regression", items=data.edge_index[:, :2])


def test_influence_on_a_loss_of_numbers_is_the_change_of_the_squared_error() -> None:
    data, net = numbers(), model()
    pair = data.edge_index[:, :1]
    (found,) = gu.influence(net, data, "node_regression", items=pair, target="loss")
    gone = ((data.edge_index == pair).all(0)) | ((data.edge_index == pair.flip(0)).all(0))
    with torch.no_grad():
        before, after = (
            (net(data.x, e).view(-1) - data.y)[data.val_mask].square().mean() / 2
            for e in (data.edge_index, data.edge_index[:, ~gone])
        )
    assert float(found) == pytest.approx(float(after - before), abs=1e-6)


def test_nodes_of_whole_graphs_are_no_graphs() -> None:
    """A node's number is no graph's: nothing is left out of the sum, and a node has no label of its own."""
    (case,) = [case for case in CASES if case.task == "graph_regression"]
    data, net = case.data(), case.models(1)[0].eval()
    node = torch.tensor([5, 60])
    found = gu.influence(net, data, case.task, of="nodes", items=node, target="embeddings", estimator="brute")
    for one, score in zip(node, found, strict=True):
        gone = (data.edge_index == one).any(0)
        with torch.no_grad():
            change = net(data.x, data.edge_index[:, ~gone], data.batch) - net(data.x, data.edge_index, data.batch)
        assert float(score) == pytest.approx(float(change.norm(dim=1).sum()), rel=1e-4)
    with pytest.raises(UnsupportedMethodError, match="loss term of their own"):
        gu.influence(net, data, case.task, of="nodes", items=node, target="loss", estimator="if")


def test_graphs_that_lost_all_nodes_are_learned_no_more() -> None:
    (case,) = [case for case in CASES if case.task == "graph_regression"]
    data = case.data()
    for name in ("train_mask", "val_mask", "test_mask"):
        del data[name]
    partition = case.request.resolve(data)
    left = GraphRegression().train_items(partition.retain_data).index
    assert sorted([*left.tolist(), *partition.forget_graphs.tolist()]) == list(range(34))


def test_predictions_of_numbers_are_no_classes() -> None:
    means = Prediction(log_prob=torch.zeros(4), logits=torch.zeros(4, 2), gaussian=True)
    with pytest.raises(InvalidInputError, match="regression"):
        means.class_logits()
    assert means.detach().gaussian
    assert not Prediction(log_prob=torch.zeros(4), logits=torch.zeros(4), gaussian=True).bernoulli


def test_the_task_of_the_docs_learns_and_unlearns() -> None:
    from tests.conftest import REPOSITORY
    from tests.test_readme import executed

    names = executed(REPOSITORY / "docs" / "models.md", "class NodeCounts")
    result, task, data = names["result"], names["NodeCounts"](), names["data"]
    assert len(result.history) == 5
    out = torch.randn(34, 1)
    found = task.decode(None, out, task.items_at(data, torch.arange(34))).log_prob
    poisson = [torch.distributions.Poisson(rate).log_prob(data.y) for rate in (out.view(-1).exp(), data.y)]
    assert torch.allclose(found, poisson[0] - poisson[1], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "task", "width", "figure"),
    [
        (numbers, "node_regression", 1, "test_mse"),
        (several_labels, "node_multilabel", 3, "test_f1"),
        (one_label, "node_multilabel", 1, "test_f1"),
    ],
)
def test_a_forgotten_node_without_a_training_label_has_no_figures(make, task, width, figure) -> None:
    data = make()
    result = gu.unlearn(
        fitted(data, task, width, epochs=60), data, gu.ForgetNodes(data.test_mask.nonzero()[:1].view(-1)), "utu", task
    )
    table = gu.evaluate(result, train=lambda left, seed: fitted(left, task, width, epochs=60, seed=seed))
    assert table["js_forget"] is None
    assert table["js_test"] > 0
    assert table[figure] is not None


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinite_numbers_are_refused_before_work_starts(value) -> None:
    """They ended in a diverged model. An unknown number of a node that is not trained on is the control."""
    data = Data(
        x=torch.randn(45, 8), edge_index=blocks().edge_index, y=torch.randn(45), train_mask=torch.arange(45) > 9
    )
    data.y[3] = math.nan
    gu.unlearn(model(), data, gu.ForgetNodes([20]), "finetune", "node_regression", epochs=1)
    data.y[30] = value
    for run in (
        lambda: gu.unlearn(model(), data, gu.ForgetNodes([20]), "finetune", "node_regression", epochs=1),
        lambda: gu.train(model(), data, "node_regression", epochs=1),
    ):
        with pytest.raises(InvalidInputError, match=r"numbers data.y that are finite, .*\(got inf at \[30\]\)"):
            run()


def test_a_training_node_without_a_label_is_told_what_to_do() -> None:
    data = Data(
        x=torch.randn(45, 8), edge_index=blocks().edge_index, y=torch.randn(45), train_mask=torch.arange(45) > 9
    )
    data.y[30] = math.nan
    with pytest.raises(InvalidInputError, match=r"\(got 1 without\); take nodes without one out of data.train_mask"):
        gu.unlearn(model(), data, gu.ForgetNodes([20]), "utu", "node_regression")
    data.train_mask &= ~data.y.isnan()
    gu.unlearn(model(), data, gu.ForgetNodes([20]), "utu", "node_regression")
