"""The functions a user calls: evaluation with and without references, saved results, the example in the docs."""

import copy
import dataclasses
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
import gunlearn.api
from gunlearn.errors import ChangedDataError, CheckpointError, GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, NPO
from gunlearn.methods import OwnObjective
from gunlearn.metrics import Figure, LinkEvaluator
from gunlearn.tasks import as_task
from tests.methods.cases import fresh_model, make_data, run, same_weights, trained_model

JS = [f"js_{name}" for name in ("forget", "test", "retain")]
FLOORS = [f"js_floor_{name}" for name in ("forget", "test", "retain")]


@pytest.fixture(scope="module")
def result() -> gu.Result:
    return run("npo", trained_model(), make_data(), epochs=5, lr=1e-2)


def by_the_evaluator(result: gu.Result, references: Sequence[nn.Module] = ()) -> dict[str, Any]:
    """Figures of the model, which tests/metrics holds against scikit-learn and scipy."""
    return LinkEvaluator(result.task, result.partition, references).row(result.model)


def test_without_references_distances_are_none(result: gu.Result) -> None:
    table = gu.evaluate(result)
    assert len(table.rows) == 1
    assert [table[name] for name in JS + FLOORS] == [None] * 6
    assert table.rows[0].items() >= by_the_evaluator(result).items()
    assert (table["method"], table["num_forget"], table["epochs"]) == ("npo", 12, 5)
    assert table["seconds"] > 0
    with pytest.raises(KeyError):
        table["accuracy"]


def test_with_references(result: gu.Result) -> None:
    models = [fresh_model("gcn", seed) for seed in (1, 2)]
    table = gu.evaluate(result, references=models)
    assert [row["method"] for row in table.rows] == ["npo", "retrain", "retrain", "utu"]
    assert table.rows[0].items() >= by_the_evaluator(result, models).items()
    for name, floor in zip(JS, FLOORS, strict=True):
        # A reference is measured against the other one alone, not against itself.
        assert table.rows[1][name] == pytest.approx(table[floor], rel=1e-3) != table[name]
    # Of a model that came from elsewhere nothing is known that could be shown as 0.
    given = table.rows[1]
    assert [given[name] for name in ("seed", "seconds", "seconds_per_epoch", "epochs", "peak_memory_mb")] == [None] * 5
    assert (given["num_forget"], given["request_hash"]) == (12, result.request_hash)
    assert "retrain" in str(table)


def test_with_a_training_function(result: gu.Result) -> None:
    calls: list[tuple[Data, int]] = []

    def train(data: Data, seed: int) -> nn.Module:
        calls.append((data, seed))
        return gu.train(fresh_model("gcn", seed), data, epochs=10, lr=1e-2, seed=seed).model

    state = torch.get_rng_state()
    table = gu.evaluate(result, train=train, seed=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert [seed for _, seed in calls] == [11, 12]
    forgotten = {tuple(pair) for pair in result.partition.forget_edge_index.t().tolist()}
    for data, _ in calls:
        assert not forgotten & {tuple(sorted(pair)) for pair in data.edge_index.t().tolist()}
        assert torch.equal(data.edge_index, result.partition.retain_data.edge_index)
    assert [row["method"] for row in table.rows] == ["npo", "retrain", "retrain", "utu"]
    assert [row["seed"] for row in table.rows] == [0, 11, 12, 0]
    assert all(table[name] is not None and table[name] >= 0 for name in JS + FLOORS)
    assert table["js_floor_test"] > 0
    assert all(row["seconds"] > 0 and row["epochs"] is None for row in table.rows[1:3])


def test_what_cannot_be_evaluated(result: gu.Result, tmp_path: Any) -> None:
    loaded = gu.Result.load(result.save(tmp_path), fresh_model("gcn"))
    with pytest.raises(InvalidInputError, match=r"got a loaded one.*as_task\('node_classif.*, or 'link_p") as refused:
        gu.evaluate(loaded)
    assert "image" not in str(refused.value)
    images = gu.Result(nn.Linear(2, 2), "npo")  # control
    with pytest.raises(InvalidInputError, match=r"as_task\('image_classification'\), or 'node_classification'"):
        gu.evaluate(images)
    with pytest.raises(InvalidInputError, match="either 'train' or 'references'"):
        gu.evaluate(result, train=lambda data, seed: None, references=[fresh_model("gcn")])


def test_a_loaded_result_is_evaluated_with_its_request(result: gu.Result, tmp_path: Any) -> None:
    loaded = gu.Result.load(result.save(tmp_path), fresh_model("gcn"))
    loaded.task, loaded.partition = as_task("link_prediction"), gu.ForgetEdges(count=1).resolve(result.partition.data)
    with pytest.raises(InvalidInputError, match="partition of the request that this result forgot"):
        gu.evaluate(loaded)
    loaded.partition = result.partition
    assert gu.evaluate(loaded)["forget_auc"] == gu.evaluate(result)["forget_auc"]


EDITS = {
    "x by torch": lambda data: data.x.add_(1.0),
    "x unseen by torch": lambda data: data.x.data.mul_(-1.0),
    "x by numpy": lambda data: data.x.numpy().__setitem__((0, 0), 7.0),
    "edge_index": lambda data: data.edge_index.__setitem__((slice(None), 0), data.edge_index[:, 1]),
    "x, another": lambda data: data.__setitem__("x", data.x + 1),
    "val_pos_edge_index, which is gone": lambda data: data.__delitem__("val_pos_edge_index"),
}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_data_that_were_edited_after_unlearning_are_refused(edit: str, prepared: bool) -> None:
    data = gu.prepare(make_data().clone()) if prepared else make_data().clone()
    result = gu.unlearn(fresh_model("gcn"), data, gu.ForgetEdges(count=3), "utu", "link_prediction")
    if not prepared:
        data.note, data.x = torch.ones(3), data.x.clone()  # one attribute more, and the same values
    before = gu.evaluate(result)["forget_auc"]
    EDITS[edit](data)
    with pytest.raises(ChangedDataError, match=rf"data\.{edit.split()[0].strip(',')}: "):
        gu.evaluate(result)
    assert before is not None


def test_a_training_function_that_reads_other_data_is_refused_or_named(result: gu.Result) -> None:
    data = result.partition.data
    fit = lambda graph, seed: gu.train(fresh_model("gcn", seed), graph, epochs=2, seed=seed).model  # noqa: E731
    with pytest.raises(InvalidInputError, match=r"read nothing of them.*references="):
        gu.evaluate(result, train=lambda given, seed: fit(data, seed))
    with pytest.warns(UserWarning, match=r"'train' read data\.x .* and not data\.edge_index .*, where what is forgot"):
        gu.evaluate(result, train=lambda given, seed: fit(data if given.x is not None else None, seed))
    as_before = (lambda given: given, copy.copy, copy.deepcopy, lambda given: given.clone().to("cpu"))
    made_anew = (lambda given: type(given).from_dict(given.to_dict()), lambda given: type(given)(**given.to_dict()))
    for copied in (*as_before, *made_anew):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*'train' read")
            gu.evaluate(result, train=lambda given, seed, copied=copied: fit(copied(given), seed))


def test_a_training_function_that_reads_the_old_features_is_named() -> None:
    """Edges that were sorted anew and hold the same are no difference: the control reads them and no features."""
    data = make_data().clone()
    result = gu.unlearn(fresh_model("gcn"), data, gu.ForgetFeatures([0, 1]), "utu", "link_prediction")
    given = [k for k in (0, 1) if result.data.edge_index is data.edge_index]

    def old_features(graph: Any, seed: int) -> torch.nn.Module:
        mixed = data.clone()
        mixed.edge_index = graph.edge_index
        return gu.train(fresh_model("gcn", seed), mixed, epochs=2, seed=seed).model

    with pytest.warns(UserWarning, match=r"'train' read data\.edge_index .* and not data\.x, where what is forgot"):
        gu.evaluate(result, train=old_features)
    assert not given


def test_an_evaluation_is_a_mapping_of_figures(result: gu.Result) -> None:
    table = gu.evaluate(result)
    assert isinstance(table, Mapping)
    assert {"forget_auc", "js_test", "seconds"} <= set(table) == dict(table).keys()
    assert table.get("forget_auc") == table.rows[0]["forget_auc"]
    assert "test_acc" not in table  # no figure of links


@pytest.mark.parametrize(("name", "meant"), [("js_forgett", "js_forget"), ("retain_aucc", "retain_auc")])
def test_a_figure_that_is_not_there_is_told_with_the_nearest(result: gu.Result, name: str, meant: str) -> None:
    table = gu.evaluate(result)
    with pytest.raises(KeyError, match=f"did you mean '{meant}'"):
        table[name]
    assert table.get(name) is None
    assert name not in table


def test_one_metric_needs_no_list(result: gu.Result) -> None:
    class Ones(Figure):
        """One, always."""

        name, better = "ones", "higher"

        def compute(self, view: Any) -> float:
            return 1.0

    assert gu.evaluate(result, metrics=Ones())["ones"] == 1.0
    assert set(gu.evaluate(result, metrics="retain_auc")) == set(gu.evaluate(result))
    with pytest.raises(InvalidInputError, match="did you mean 'retain_auc'"):
        gu.evaluate(result, metrics="retain_aucs")


def test_images_are_evaluated() -> None:
    data = Data(x=torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), y=torch.arange(60) % 2)
    data.test_mask = torch.arange(60) >= 40
    result = gu.unlearn(nn.Linear(4, 2), data, gu.ForgetItems(count=6), "npo", "image_classification", epochs=1)
    seen: list[int] = []

    def train(data: Data, seed: int) -> nn.Module:
        seen.append(data.x.size(0))
        torch.manual_seed(seed)
        return nn.Linear(4, 2)

    table = gu.evaluate(result, train=train)
    assert seen == [54, 54]
    assert all(0 <= table[name] <= 1 for name in ("test_acc", "forget_acc", "mia_auc", *JS, *FLOORS))


DAMAGES = {
    "weights": lambda weights, record: weights.write_bytes(weights.read_bytes()[:100]),
    "record": lambda weights, record: record.write_text(record.read_text()[:50]),
    "record is no object": lambda weights, record: record.write_text("[1, 2]"),
    "unknown field": lambda weights, record: record.write_text('{"method": "npo", "colour": "red"}'),
    "no weights": lambda weights, record: weights.unlink(),
    "no folder": lambda weights, record: weights.parent.rename(weights.parent.with_name("elsewhere")),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "other model"])
def test_a_damaged_result_is_refused(result: gu.Result, damage: str, tmp_path: Any) -> None:
    directory, template = result.save(tmp_path / "result"), fresh_model("sage" if damage == "other model" else "gcn")
    if damage in DAMAGES:
        DAMAGES[damage](directory / "model.safetensors", directory / "result.json")
    with pytest.raises(CheckpointError, match="Expected a saved result"):
        gu.Result.load(directory, template)


def test_training_leaves_the_callers_alone() -> None:
    model, data = fresh_model("pyg"), make_data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = gu.train(model, data, epochs=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not first.model.training
    assert same_weights(first.model, gu.train(model, data, epochs=3, seed=1).model)
    assert not same_weights(first.model, gu.train(model, data, epochs=3, seed=2).model)
    assert (first.method, first.request_hash, first.epochs) == ("train", None, 3)
    with pytest.raises(InvalidTypeError, match="torch module"):
        gu.train("model", data)


def test_training_without_a_split_keeps_the_last_epoch() -> None:
    data = make_data()
    whole = Data(x=data.x, edge_index=data.edge_index)
    result = gu.train(fresh_model("gcn"), whole, epochs=3, eval_every=1)
    assert (result.epochs, result.notes["best_epoch"]) == (3, None)
    assert all("val_loss" not in record for record in result.history)


def test_training_loss_falls() -> None:
    history = gu.train(fresh_model("gcn"), make_data(), epochs=60, lr=1e-2).history
    assert np.mean([r["loss"] for r in history[-5:]]) < np.mean([r["loss"] for r in history[:5]]) - 0.05


def test_influence() -> None:
    data, model = make_data(), trained_model("sage")
    for of, number in (("nodes", 64), ("edges", data.num_edges)):
        scores = gu.influence(model, data, of=of)
        assert scores.shape == (number,)
        assert torch.isfinite(scores).all()
    for arguments, words in (({"of": "graphs"}, "influence of one of"), ({"estimator": "guess"}, "an estimator among")):
        with pytest.raises(InvalidInputError, match=words):
            gu.influence(model, data, **arguments)


def test_requests_by_influence_take_the_most_influential() -> None:
    data, model = make_data(), trained_model()
    result = gu.unlearn(model, data, gu.ForgetEdges(count=5, by="influence"), "utu")
    scores = gu.influence(model, data)
    chosen = scores[result.partition.forget_mask]
    assert chosen.min() >= scores[~result.partition.forget_mask].max()


def test_every_public_name_loads() -> None:
    for name in gu.__all__:
        assert getattr(gu, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unlearned'"):
        gu.unlearned  # noqa: B018
    assert inspect.isfunction(gu.influence)
    assert set(gu.__all__) <= set(dir(gu))


def test_documented_arguments_exist() -> None:
    for function in (gu.train, gu.unlearn, gu.evaluate, gunlearn.api.influence):
        for name in inspect.signature(function).parameters:
            assert f"{name}:" in function.__doc__ or f"**{name}" in function.__doc__


def own_rate(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": "1"}, "'seed' to be an integer"),
        ({"seed": 1.5}, "'seed' to be an integer"),
        ({"callbacks": [3]}, "on_epoch_end"),
        ({"callbacks": [gu.EarlyStopping]}, "on_epoch_end"),
        ({"callbacks": gu.EarlyStopping()}, "a list of callbacks"),
        ({"epochs": 3, "steps": 4}, "'epochs' or 'steps'"),
        ({"lr": 0.1, "optimizer": own_rate}, "no 'lr'"),
        ({"weight_decay": 0.1, "optimizer": own_rate}, "'weight_decay'"),
        ({"optimizer": nn.Linear}, "its class, or a function"),
    ],
)
def test_what_would_be_ignored_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(GunlearnError, match=words):
        gu.unlearn(trained_model(), make_data(), gu.ForgetEdges(count=3), "finetune", **options)
    with pytest.raises(GunlearnError, match=words):
        gu.train(fresh_model("sage"), make_data(), **options)


def test_a_class_of_optimisers_takes_the_rate_as_its_name_does() -> None:
    def tuned(**options: Any) -> nn.Module:
        return run("finetune", trained_model(), make_data(), epochs=2, **options).model

    assert same_weights(tuned(optimizer=torch.optim.SGD, lr=0.1), tuned(optimizer="sgd", lr=0.1))
    assert not same_weights(tuned(optimizer=torch.optim.SGD, lr=0.1), tuned(optimizer=torch.optim.SGD, lr=0.2))
    assert same_weights(tuned(optimizer=own_rate), tuned(optimizer="sgd", lr=0.1))


def test_only_results_are_evaluated() -> None:
    with pytest.raises(InvalidTypeError, match="'unlearn' returned"):
        gu.evaluate(trained_model())


def test_an_objective_is_a_method() -> None:
    objective = NPO(beta=5.0) + NLL(on="retain")
    data, request = make_data(), gu.ForgetEdges(count=3)
    given = gu.unlearn(trained_model(), data, request, objective, epochs=3, lr=1e-2)
    by_class = gu.unlearn(trained_model(), data, request, OwnObjective(given=objective, epochs=3, lr=1e-2))
    assert same_weights(given.model, by_class.model)
    assert not same_weights(given.model, trained_model())
    with pytest.raises(InvalidInputError, match="did you mean 'epochs'"):
        gu.unlearn(trained_model(), data, request, objective, epoch=3)


@pytest.mark.parametrize(
    ("method", "words"), [(OwnObjective, "got the class OwnObjective"), (3, "got int"), (None, "got NoneType")]
)
def test_what_is_no_method_is_refused(method: Any, words: str) -> None:
    with pytest.raises(InvalidTypeError, match=words):
        gu.unlearn(trained_model(), make_data(), gu.ForgetEdges(count=3), method)


def test_a_method_that_returns_nothing_and_a_training_function_beside_settings_are_refused() -> None:
    class Silent(gu.Method):
        name = "silent"

        def run(self, problem: Any) -> None:
            """Forget to return."""

    silent = dataclasses.dataclass(frozen=True)(Silent)()
    with pytest.raises(InvalidTypeError, match="Outcome from 'silent'"):
        gu.unlearn(trained_model(), make_data(), gu.ForgetEdges(count=3), silent)
    options: dict[str, Any] = {"train": lambda data, seed: trained_model(), "epochs": 3}
    with pytest.raises(InvalidInputError, match=r"beside 'train'.*\['epochs'\]"):
        gu.unlearn(trained_model(), make_data(), gu.ForgetEdges(count=3), "retrain", **options)


@pytest.mark.parametrize("what", ["edges", "nodes"])
def test_a_training_function_may_change_the_data_that_it_gets(what: str) -> None:
    data = make_data()
    request = gu.ForgetEdges(count=3) if what == "edges" else gu.ForgetNodes([3])

    def trained(retained: Data, seed: int) -> nn.Module:
        for value in retained.to_dict().values():
            if isinstance(value, torch.Tensor):
                value.zero_()
        return fresh_model("gcn", seed)

    result = gu.unlearn(trained_model(), data, request, "utu")
    before = [copy.deepcopy(d.to_dict()) for d in (data, result.data)]
    gu.evaluate(result, train=trained)
    retrained = gu.unlearn(trained_model(), data, request, "retrain", train=trained)
    for now, then in zip((data, result.data, retrained.data), (*before, before[1]), strict=True):
        assert all(torch.equal(torch.as_tensor(now[k]), torch.as_tensor(v)) for k, v in then.items())


def test_a_training_function_may_change_the_rows_that_it_gets() -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 3
    before = x.clone()

    def trained(rows: Any, seed: int) -> nn.Module:
        rows[0].zero_()  # a pair, as the caller has it
        return nn.Linear(3, 3)

    result = gu.unlearn(nn.Linear(3, 3), (x, y), gu.ForgetItems([1]), "retrain", "image_classification", train=trained)
    assert torch.equal(x, before)
    assert torch.equal(result.data[0], before[torch.arange(12) != 1])
