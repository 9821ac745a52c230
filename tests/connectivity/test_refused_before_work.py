"""What `connect` refuses, it refuses before a curve is trained; and what results know of each other is held against."""

import copy

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.connectivity import Dial, LinearPath, barrier, connect, evaluate_path, find_curve, path_summary, save_path
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.errors import ChangedDataError, GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.seed import isolated_rng
from tests.connectivity.cases import items, perceptron, trained
from tests.training.callbacks import On

TASK = gu.ImageClassification()
NODES = "node_classification"


@pytest.fixture(scope="module")
def problem():
    data = items(number=60)
    models = [trained(perceptron(seed), data, seed, steps=40) for seed in range(3)]
    return data, gu.ForgetItems(label=1), models


@pytest.fixture(scope="module")
def nodes():
    data = gu.node_split(gu.load("digits"), seed=0)
    with isolated_rng(0):
        model = gu.nn.backbone("gcn", data.num_features, 8, 10)
    base = gu.train(model, data, NODES, epochs=10, lr=1e-2, seed=0).model
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:20])
    return data, base, request


@pytest.mark.parametrize(
    "more",
    [
        {"points": 2}, {"child": "colour"}, {"child": "merged"}, {"child": 3}, {"align": True}, {"align": "colour"},
        {"metrics": "colour"}, {"tolerance_retain": -1}, {"bound_forget": 0}, {"loader": "data"}, {"references": [3]},
        {"references": "original"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_arguments_cost_no_training(problem, more: dict) -> None:
    data, request, (one, two, original) = problem
    steps: list[int] = []
    more = {**more, **({"loader": data} if "loader" in more else {})}
    if more == {"references": "original"}:
        more = {"references": [copy.deepcopy(original)], "original": original}
    heard = [On(step_end=lambda state, **_: steps.append(state.step))]
    with pytest.raises(GunlearnError, match="Expected"):
        connect(one, two, data, request, TASK, path="bezier", steps=3, callbacks=heard, **more)
    assert not steps


@pytest.mark.parametrize("more", [{"callbacks": [On()]}, {"checkpoint_dir": "x"}], ids=["callbacks", "checkpoint_dir"])
def test_a_straight_line_takes_nothing_of_a_training(problem, more: dict) -> None:
    data, request, (one, two, _) = problem
    with pytest.raises(InvalidInputError, match=f"no settings of a curve for path='linear' .got {next(iter(more))}"):
        connect(one, two, data, request, TASK, **more)


def unlearned(nodes, data=None, seed: int = 0, request=None):
    own, base, usual = nodes
    given = own if data is None else data
    return gu.unlearn(base, given, request or usual, "finetune", NODES, epochs=1, lr=1e-3, seed=seed)


def test_results_of_one_request_on_other_data_are_refused(nodes) -> None:
    """A request is hashed by what it names, which both data have."""
    other = nodes[0].clone()
    other.x = other.x + 1
    first, second = unlearned(nodes), unlearned(nodes, other)
    assert first.request_hash == second.request_hash
    with pytest.raises(InvalidInputError, match="results that were made on different data"):
        connect(first, second, points=3)
    connect(first, unlearned(nodes, nodes[0].clone(), seed=1), points=3)  # control: the same content


def test_data_that_were_edited_since_are_refused(nodes) -> None:
    data = nodes[0].clone()
    result = unlearned(nodes, data)
    connect(result, nodes[1], points=3)  # control
    data.y[:] = 0
    with pytest.raises(ChangedDataError, match=r"data\.y: other values"):
        connect(result, nodes[1], points=3)


def test_data_given_beside_a_request_are_those_that_judge(nodes) -> None:
    """The request alone says no data: the results' own are read, which must be one and unedited."""
    own, _, request = nodes
    data = own.clone()
    first, second = unlearned(nodes, data), unlearned(nodes, own.clone(), seed=1)
    plain = connect(first, second, request=request, points=3).evaluation.column("loss_retain")
    assert plain == connect(first, second, points=3).evaluation.column("loss_retain")
    other = own.clone()
    other.x = own.x * 5
    with pytest.raises(InvalidInputError, match="made on different data"):
        connect(first, unlearned(nodes, other), request=request, points=3)
    connect(first, unlearned(nodes, other), other, request, points=3)  # control: these are said to judge
    partition = first.partition
    data.x.mul_(5)
    for given in (request, partition):
        with pytest.raises(ChangedDataError, match=r"data\.x: other values"):
            connect(first, second, request=given, points=3)


def test_what_one_graph_has_beside_makes_no_other_data(nodes) -> None:
    more = nodes[0].clone()
    more.note, more.beside = "x", torch.randn(more.num_nodes, 2)
    assert connect(unlearned(nodes), unlearned(nodes, more, seed=1), points=3).evaluation.rows


def test_results_of_two_tasks_or_calls_are_refused() -> None:
    data, request = gu.link_split(gu.load("karate"), seed=0), gu.ForgetEdges(count=3, seed=0)
    base = gu.train(gu.GCN(data.num_features, 8, 4), data, epochs=10, seed=0).model

    def score(model, z, pairs):
        return -(z[pairs[0]] - z[pairs[1]]).square().sum(-1)

    def run(**more):
        return gu.unlearn(base, data, request, "finetune", epochs=1, **more)

    first, second, plain = run(decode=score), run(decode=score, seed=1), run()
    own = connect(first, second, points=3).evaluation.column("loss_retain")
    named = connect(first, second, task="link_prediction", points=3).evaluation.column("loss_retain")
    assert named == own  # the results' own way to score pairs, not the default one
    assert own != connect(plain, plain, points=3).evaluation.column("loss_retain")  # control
    for pair in ((first, plain), (plain, first)):
        with pytest.raises(InvalidInputError, match="called in two ways"):
            connect(*pair, points=3)
        assert connect(*pair, decode=score, points=3).evaluation.rows  # said which
    classes = copy.deepcopy(plain)
    classes.task = gu.NodeClassification()
    for pair in ((plain, classes), (classes, plain)):
        with pytest.raises(InvalidInputError, match="the results' own task"):
            connect(*pair, points=3)


def test_another_task_than_the_results_own_is_refused(nodes) -> None:
    with pytest.raises(
        InvalidInputError, match=r"the results' own task, 'node_classification' \(got 'link_prediction'\)"
    ):
        connect(unlearned(nodes), nodes[1], task="link_prediction", points=3)


def test_references_and_originals_are_what_they_are_called(nodes) -> None:
    data, base, _ = nodes
    first, second = unlearned(nodes), unlearned(nodes, seed=1)
    other = unlearned(nodes, request=gu.ForgetNodes(data.train_mask.nonzero().view(-1)[30:40]))
    with pytest.raises(InvalidInputError, match=r"got a result of another request as number 1; pass its 'model'"):
        connect(first, second, references=[other], points=3)
    dial = connect(first, second, points=3).dial
    for asked in (lambda: dial.choose(references=other), lambda: dial.figures(base, (), other)):
        with pytest.raises(InvalidInputError, match=r"got a result of another request as number 1"):
            asked()
    connect(first, second, references=[other.model], points=3)  # somebody who knows better
    with pytest.raises(InvalidInputError, match="the original model as reference 1"):
        connect(first, second, references=[base], points=3)
    with pytest.raises(InvalidInputError, match="'original' to be the model before unlearning"):
        connect(first, second, original=first, points=3)
    connect(first.model, second.model, data, nodes[2], NODES, original=other, points=3)  # before a second request


def test_the_call_of_a_model_reaches_a_path(nodes) -> None:
    data, base, request = nodes

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(base)

        def forward(self, *, graph: Data) -> dict:
            return {"out": self.inner(graph.x, graph.edge_index)}

    ends, plain = [Whole(), Whole()], [copy.deepcopy(base), copy.deepcopy(base)]
    with torch.no_grad():
        for model in (ends[1].inner, plain[1]):
            for parameter in model.parameters():
                parameter.mul_(0.5)
    found = connect(*ends, data, request, NODES, points=3, call=lambda model, data: model(graph=data)["out"])
    expected = connect(*plain, data, request, NODES, points=3)
    for name in ("loss_retain", "loss_forget"):
        assert found.evaluation.column(name) == pytest.approx(expected.evaluation.column(name), rel=1e-5)


def test_ends_and_bends_of_another_kind_are_named(problem) -> None:
    data, request, (one, two, _) = problem
    with pytest.raises(InvalidInputError, match="parameters of one dtype"):
        connect(one, copy.deepcopy(two).double(), data, request, TASK, points=3)
    wide = torch.nn.Linear(4, 3)
    with pytest.raises(GunlearnError, match="In the model where bends begin"):
        connect(one, two, data, request, TASK, path="bezier", start="original", original=wide, steps=1)


def test_public_functions_take_what_connect_takes(nodes) -> None:
    data, base, request = nodes
    result, partition = unlearned(nodes), request.resolve(data)
    with isolated_rng(0):
        path = gu.connectivity.BezierPath(base, result)
    state = find_curve(
        path, NODES, partition, gu.losses.NLL(on="retain") + gu.losses.KLToReference(on="retain"),
        gu.connectivity.CurveSettings(steps=2), original=gu.train(base, data, NODES, epochs=1, lr=1e-6, seed=0),
    )  # fmt: skip
    assert state.step == 2
    others = torch.nn.ModuleList([copy.deepcopy(base) for _ in range(2)])
    with torch.no_grad(), isolated_rng(3):
        for model in others:
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
    assert len(evaluate_path(path, NODES, partition, points=3, references=others).references) == 2
    assert evaluate_path(path, NODES, partition, points=3, references=None).references == []
    listed = evaluate_path(path, NODES, partition, points=[torch.tensor(t) for t in (0.0, 0.5, 1.0)])
    assert listed.ts == [0, 0.5, 1]


def test_things_of_another_kind_are_told_so(problem, tmp_path) -> None:
    data, request, (one, two, _) = problem
    path, partition = LinearPath(one, two), request.resolve(data)
    connection = connect(one, two, data, request, TASK, points=3)
    for call, words in (
        (lambda: save_path(connection, tmp_path), r"a path to store \(got Connection\); pass its 'path'"),
        (lambda: save_path("p", path), r"a path to store \(got str\)"),
        (lambda: Dial(path, TASK, request), r"a partition, request\.resolve\(data\), or None \(got ForgetItems\)"),
        (lambda: Dial("path", TASK, partition), r"a path for a dial \(got str\)"),
        (lambda: connection.dial.figures(0.5), r"a model, such as dial\.at\(0\.5\) \(got float\)"),
        (lambda: evaluate_path("path", TASK, partition), r"a path to evaluate \(got str\)"),
        (lambda: gu.connectivity.load_path(tmp_path, None), r"modules or results"),
    ):
        with pytest.raises(InvalidTypeError, match=words):
            call()
    for call, words in (
        (lambda: Dial(path, TASK, None), "a partition, or 'data' where nothing was forgotten"),
        (lambda: path.point(7), r"one of the path's 2 points \(got number 7\)"),
        (lambda: path.put(torch.nn.Linear(2, 2), 0.5), "the weights of the path's architecture"),
        (lambda: path.model_at({"x": torch.zeros(1)}), "the weights of the path's architecture"),
        (lambda: path.model_at(dict.fromkeys(path.moving, torch.zeros(1))), r"\(1,\) for '0.weight', which has"),
        (lambda: connection.evaluation.column("loss_ret"), "did you mean 'loss_retain'"),
        (lambda: connection.evaluation.table(["loss_ret"]), "did you mean 'loss_retain'"),
        (lambda: connection.evaluation.table(every=0), "'every' to be an integer >= 1"),
        (lambda: gu.connectivity.align_models(one, two, inputs=data.x[:0]), "data on which models return something"),
        (lambda: barrier([0, 0.5, 1], [1, float("nan"), 2]), "finite values"),
        (lambda: barrier([0, 0.5, 1], [1, float("inf"), 2]), "finite values"),
        (lambda: barrier([0, 1, 0.5], [1, 2, 4]), "ascending points from 0 to 1"),
        (lambda: barrier([0, 0.5], [1, 2]), "ascending points from 0 to 1"),
        (lambda: barrier([0, 0.5, 1], [1, 2]), "a value for each of 3 points"),
        (lambda: path_summary([0, 1], [0.0]), "a value for each of 1 points"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
    assert connection.evaluation.table("loss_retain") == connection.evaluation.table(["loss_retain"])


def test_statistics_of_a_graph_come_from_the_loader(nodes) -> None:
    """The control is a loader of the retained graph itself, whose statistics are the usual ones."""
    data, _, request = nodes

    class Normed(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            with isolated_rng(seed):
                self.conv, self.head = gu.nn.backbone("gcn", data.num_features, 8, 8), torch.nn.Linear(8, 10)
            self.norm = torch.nn.BatchNorm1d(8)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.conv(x, edge_index)).relu())

    ends, partition = [Normed(0), Normed(1)], request.resolve(data)
    other = data.clone()
    other.x = data.x[torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))] * 3
    path = LinearPath(*ends)
    loaded = PartLosses(gu.NodeClassification(), partition, ends[0], loader=other)
    made = path.put(copy.deepcopy(path.template), 0.5, loaded.recompute)
    with torch.no_grad():
        hidden = made.conv(other.x, other.edge_index)
    assert torch.allclose(made.norm.running_mean, hidden.mean(0), atol=1e-5)
    usual = path.put(
        copy.deepcopy(path.template), 0.5, PartLosses(gu.NodeClassification(), partition, ends[0]).recompute
    )
    assert not torch.allclose(made.norm.running_mean, usual.norm.running_mean, atol=1e-3)


def normed(seed: int) -> torch.nn.Module:
    with isolated_rng(seed):
        layers = torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
        return torch.nn.Sequential(*layers)


def test_statistics_of_a_child_are_computed_anew(nodes) -> None:
    """A child that a function makes has other weights, and so other statistics; hidden by stale ones in the control."""
    data = items(number=60)

    def normed(seed: int) -> torch.nn.Module:
        with isolated_rng(seed):
            return torch.nn.Sequential(
                torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
            )

    def child(model: torch.nn.Module, t: float) -> torch.nn.Module:
        made = copy.deepcopy(model)
        with torch.no_grad():
            made[0].bias.add_(5.0)
        return made

    found = connect(normed(0), normed(1), data, task=TASK, points=3, child=child)
    middle = found.dial.at(0.5)
    hidden = middle[0](data.x[data.train_mask] if hasattr(data, "train_mask") else data.x)
    assert torch.allclose(middle[1].running_mean, hidden.mean(0), atol=1e-4)


def test_a_dial_judges_all_points_by_statistics_of_one_kind(nodes) -> None:
    """Stale statistics of the first model alone would make any loss on the way look like a gain."""
    data = items(number=80)

    def normed(seed: int) -> torch.nn.Module:
        with isolated_rng(seed):
            made = torch.nn.Sequential(
                torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
            )
        return gu.train(made, data, TASK, epochs=40, lr=1e-2, batch_size=20, seed=seed).model

    first, second = normed(0), normed(1)
    with torch.no_grad():
        second[3].bias.add_(torch.tensor([3.0, 0.0, -3.0]))
    fresh = connect(first, second, data, gu.ForgetItems(label=1), TASK, points=5).dial.choose(points=11)
    with torch.no_grad():
        first[1].running_mean.add_(-30.0)
    stale = connect(first, second, data, gu.ForgetItems(label=1), TASK, points=5).dial.choose(points=11)
    assert stale == fresh < 1
