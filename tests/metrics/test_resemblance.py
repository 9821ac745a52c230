"""Results that copy what they are compared with, and models that are nearer to references than retraining is."""

import copy
import csv
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.core.digest import same_weights, tensor_digests
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses.divergences import js_divergence
from gunlearn.metrics.resemblance import suspicion
from gunlearn.report.summary import summarise
from tests.report.test_report import made

TASK = "node_classification"
pytestmark = pytest.mark.filterwarnings("ignore:The model:UserWarning", "ignore:The weights:UserWarning")


def train(data, seed):
    torch.manual_seed(seed)
    return gu.train(gu.nn.backbone("gcn", 34, 8, 4), data, TASK, epochs=40, lr=1e-2, seed=seed).model


@pytest.fixture(scope="module")
def setting():
    """A model, data, a request of twelve nodes, and models retrained without them."""
    data = gu.node_split(gu.load("karate"), 0.1, 0.4, seed=0)
    data.train_mask[:] = True
    data.train_mask[data.test_mask | data.val_mask] = False
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:12])
    kept = request.resolve(data).retain_data
    return train(data, 0), data, request, [train(kept, seed) for seed in (1, 2, 3)]


def result_with(setting, model):
    """A result of `utu` whose model is another one."""
    result = gu.unlearn(*setting[:3], "utu", TASK)
    result.model, result.notes, result.method = model, {}, "mine"
    return result


class Wrapped(nn.Module):
    """Another model under other names, with a table of scores."""

    def __init__(self, inner, table=None):
        super().__init__()
        self.inner = inner
        self.register_buffer("table", torch.zeros(34, 4) if table is None else table)

    def forward(self, x, edge_index):
        return self.inner(x, edge_index) + self.table


class Average(nn.Module):
    """The mean prediction of several models."""

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(models))

    def forward(self, x, edge_index):
        return torch.stack([m(x, edge_index).softmax(-1) for m in self.models]).mean(0).log()


def shaken(model, size, seed=0):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


@pytest.mark.parametrize("wrap", [copy.deepcopy, lambda m: Wrapped(copy.deepcopy(m))], ids=["copy", "other names"])
def test_a_copy_of_a_reference_is_compared_with_the_others(setting, wrap):
    *_, (one, two, three) = setting
    with pytest.warns(UserWarning, match="weights of reference 1"):
        table = gu.evaluate(result_with(setting, wrap(one)), references=[one, two])
    assert table["js_forget"] == pytest.approx(table["js_floor_forget"], rel=1e-5)  # the other one alone
    assert "reference 1" in table["suspicious"]
    assert "? suspicious" in str(table)
    with pytest.warns(UserWarning, match="with nothing"):
        assert gu.evaluate(result_with(setting, wrap(one)), references=[one])["js_forget"] is None
    assert gu.evaluate(result_with(setting, three), references=[one, two])["suspicious"] is None


def test_retraining_that_meets_its_own_seed(setting):
    model, data, request, _ = setting
    result = gu.unlearn(model, data, request, "retrain", TASK, seed=1, train=train)
    with pytest.warns(UserWarning, match="weights of reference 1, bit for bit"):
        table = gu.evaluate(result, train=train, seed=0)
    assert table["js_test"] == pytest.approx(table["js_floor_test"], rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gu.evaluate(result, train=train, seed=5)["suspicious"] is None


@pytest.mark.parametrize(
    "near",
    [lambda r: shaken(r[0], 1e-4), lambda r: Average([shaken(m, 1e-4) for m in r[:2]])],
    ids=["shaken copy", "average"],
)
def test_nearer_than_retraining_is_suspicious(setting, near, tmp_path):
    *_, references = setting
    with pytest.warns(UserWarning, match="nearer to the references"):
        table = gu.evaluate(result_with(setting, near(references)), references=references[:2])
    assert table["js_forget"] < table["js_floor_forget"]
    assert "suspicious" in table
    assert table["suspicious"]
    assert all(row["suspicious"] is None for row in table.rows[1:])
    assert "mine ?" in str(table)
    assert "? suspicious" in str(table)
    assert "suspicious" in table.report(tmp_path / "r.html").read_text()
    (row, *_) = csv.DictReader(table.save_csv(tmp_path / "r.csv").open())
    assert row["suspicious"] == table["suspicious"] == gu.Evaluation.load(table.save(tmp_path / "e.json"))["suspicious"]


@pytest.mark.parametrize(("apart", "number", "marked"), [(12, 12, True), (1, 12, False), (6, 12, True), (9, 9, False)])
def test_nearness_on_few_items_is_noise(apart, number, marked):
    """References that differ on `apart` of `number` items, and a model that predicts their average.

    Below the floor it is by the same on each of these and by nothing on the others. With a share `s` of them the mean
    is `s` of it, and twice the standard error `2 sqrt(s (1 - s) / (number - 1))`: beyond that for a half, not for one.
    """
    low, high = torch.full((number,), 0.5), torch.full((number,), 0.5)
    low[:apart], high[:apart] = 0.2, 0.8
    others = [SimpleNamespace(probability=lambda _, p=p: p, digests=Counter("r"), model=object()) for p in (low, high)]
    problem = SimpleNamespace(references=others, divergence=js_divergence)
    view = SimpleNamespace(problem=problem, references=others, result=object(), model=object(), digests=Counter())
    view.probability = lambda part: (low + high) / 2
    assert bool(suspicion(view)) == marked


def test_scores_copied_into_a_table(setting):
    """The original's weights, and what the references say of each node beside them."""
    model, data, request, references = setting
    kept = request.resolve(data)
    with torch.no_grad():
        said = Average(references[:2])(data.x, data.edge_index) - model(data.x, data.edge_index).log_softmax(-1)
        table = said + (kept.retain_data.x * 0).sum(-1, keepdim=True)
    found = gu.evaluate(result_with(setting, Wrapped(copy.deepcopy(model), table)), references=references[:2])
    assert "unchanged" in found["unchanged"]
    assert "beside 1 more." in found["unchanged"]
    assert found["suspicious"]
    assert "mine" in str(found)
    assert "= unchanged weights" in str(found)


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_honest_retraining_is_not_suspicious(setting, seed):
    _, data, request, references = setting
    model = train(request.resolve(data).retain_data, seed)
    found = gu.evaluate(result_with(setting, model), references=references)
    assert found["suspicious"] is None
    assert found["unchanged"] is None
    assert gu.evaluate(result_with(setting, shaken(setting[0], 1e-3)), references=references)["suspicious"] is None


def test_added_layers_are_told_from_changed_weights():
    data = gu.link_split(gu.load("karate"), 0.1, 0.1, seed=0)
    torch.manual_seed(0)
    model = gu.train(gu.GCN(34, 8, 4), data, epochs=20).model
    found = gu.evaluate(gu.unlearn(model, data, gu.ForgetEdges(count=3), "gnndelete", epochs=3))
    assert "bit for bit, beside" in found["unchanged"]
    assert "(convs.0.deletions" in found["unchanged"]


def test_references_that_are_none(setting):
    model, *_, references = setting
    result = result_with(setting, shaken(model, 1e-2))
    for given, error, words in (
        ([references[0], copy.deepcopy(model)], InvalidInputError, "original model as reference 2"),
        ([references[0], Wrapped(copy.deepcopy(model), torch.randn(34, 4))], InvalidInputError, "original model"),
        ([references[0], result.model], InvalidInputError, "result's own model"),
        ([references[0], copy.deepcopy(references[0])], InvalidInputError, "different seeds"),
        ([references[0], None], InvalidTypeError, "Expected models"),
    ):
        with pytest.raises(error, match=words):
            gu.evaluate(result, references=given)
    wide = gu.nn.backbone("gcn", 34, 16, 4)
    with pytest.warns(UserWarning, match="reference 2 is of another architecture"):
        gu.evaluate(result, references=[references[0], wide])


@pytest.mark.parametrize(("of", "size"), [("result", 3e-2), ("original", 3e-2), ("original", 1e-3)])
def test_copies_with_noise_as_references_are_named(setting, of, size):
    model, data, request, honest = setting
    result = gu.unlearn(model, data, request, "finetune", TASK, epochs=10, lr=1e-2)
    base = {"result": result.model, "original": model}[of]
    with pytest.warns(UserWarning, match=f"Reference 1 looks like a copy of the {of}.*Reference 2 looks like"):
        table = gu.evaluate(result, references=[shaken(base, size, seed) for seed in (1, 2)])
    assert "? suspicious" in str(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gu.evaluate(result, references=honest)["suspicious"] is None


def moved(model, by):
    """The same probabilities: a constant on all logits."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.convs[-1].bias.add_(by)
    return model


def test_references_that_predict_alike_up_to_rounding_are_refused(setting):
    model, data, request, honest = setting
    result = gu.unlearn(model, data, request, "finetune", TASK, epochs=10, lr=1e-2)
    with pytest.raises(InvalidInputError, match=r"different seeds .*up to rounding"):
        gu.evaluate(result, references=[honest[0], moved(honest[0], 0.3)])
    with pytest.raises(InvalidInputError, match="reference 2, which scores every item as the original"):
        gu.evaluate(result, references=[honest[0], moved(model, 0.3)])


def never_trained(data, seed):
    torch.manual_seed(seed)
    return gu.nn.backbone("gcn", data.x.size(1), 8, 4)


def test_references_that_were_never_trained_are_marked(setting, tmp_path):
    model, data, _, references = setting
    result = result_with(setting, shaken(model, 1e-2))
    with pytest.warns(UserWarning, match="Reference 1 looks untrained.*Reference 2 looks untrained"):
        table = gu.evaluate(result, train=never_trained)
    assert [bool(row["untrained"]) for row in table.rows] == [True, True, True, False]
    assert "retrain #" in str(table)
    assert "# untrained" in table.report(tmp_path / "r.html").read_text()
    assert gu.Evaluation.load(table.save(tmp_path / "e.json"))["untrained"] == table["untrained"]
    with pytest.warns(UserWarning, match="Reference 2 looks untrained"):
        table = gu.evaluate(result, references=[references[0], never_trained(data, 0)])
    assert "Reference 1" not in table["untrained"]
    assert gu.evaluate(result, references=references)["untrained"] is None


@pytest.mark.parametrize("task", ["link_prediction", "node_regression", "node_multilabel"])
def test_untrained_references_of_other_tasks(task):
    """Also where new weights cannot be drawn: chance is what references are compared with then."""
    data, links = gu.load("karate"), task == "link_prediction"
    data = gu.link_split(data, 0.1, 0.2, seed=0) if links else gu.node_split(data, 0.1, 0.2, seed=0)
    degree = torch.bincount(data.edge_index[0], minlength=34).float()
    if not links:
        data.y = degree.view(-1, 1) if task == "node_regression" else (degree > degree.median()).float().view(-1, 1)

    def new(seed):
        torch.manual_seed(seed)
        return gu.nn.backbone("gcn", 34, 16, 8 if links else 1)

    def learned(data, seed):
        return gu.train(new(seed), data, task, epochs=150, lr=1e-2, seed=seed).model

    request = gu.ForgetEdges(count=3, seed=0) if links else gu.ForgetNodes(count=3, seed=0)
    result = gu.unlearn(learned(data, 0), data, request, "utu", task)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gu.evaluate(result, train=learned)["untrained"] is None
    with pytest.warns(UserWarning, match="Reference 2 looks untrained"):
        assert gu.evaluate(result, references=[learned(data, 1), new(2)])["untrained"]


def test_untrained_beside_a_model_that_cannot_be_reset(setting, monkeypatch):
    """Chance is what references are compared with then."""
    model, data, _, references = setting
    result = result_with(setting, shaken(model, 1e-2))
    monkeypatch.setattr(type(model), "reset_parameters", lambda self: 1 / 0, raising=False)
    with pytest.warns(UserWarning, match=r"Reference 2 looks untrained: .*best\), the model before"):
        gu.evaluate(result, references=[references[0], never_trained(data, 0)])


def test_a_saved_retraining_meets_its_own_seed(setting, tmp_path):
    """Loaded weights are told by their content, in the result's place and in a reference's."""
    model, data, request, _ = setting
    retrained = gu.unlearn(model, data, request, "retrain", TASK, seed=1, train=train)
    retrained.save(tmp_path)
    loaded = gu.Result.load(tmp_path, gu.nn.backbone("gcn", 34, 8, 4)).model
    with pytest.warns(UserWarning, match="weights of reference 1, bit for bit"):
        assert gu.evaluate(result_with(setting, loaded), train=train, seed=0)["suspicious"]
    with pytest.warns(UserWarning, match="weights of reference 2, bit for bit"):
        assert gu.evaluate(retrained, references=[setting[3][1], loaded])["suspicious"]


def test_digests_follow_content_and_not_names():
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    twin = copy.deepcopy(a)
    assert same_weights(a, twin)
    assert not same_weights(a, b)
    assert not same_weights(a, Wrapped(a))
    assert tensor_digests(a) == tensor_digests(twin) != tensor_digests(b)
    assert tensor_digests(a) < tensor_digests(Wrapped(a))
    assert not tensor_digests(b) <= tensor_digests(Wrapped(a))
    assert tensor_digests(a) != tensor_digests(copy.deepcopy(a).double())
    twin.bias.data[0] = torch.nextafter(twin.bias.data[0], torch.tensor(9.0))
    assert not same_weights(a, twin)
    assert tensor_digests(nn.Embedding(1, 1).bfloat16())


def test_a_difference_within_noise_is_marked():
    """Two seeds: the gaps of one method agree, those of the other cancel."""
    rows = [made("utu", 0.2, s) for s in (0, 1, 2)]
    rows += [made("npo", 0.1 + 0.001 * s, s) for s in (0, 1, 2)] + [made("gif", 0.1 + 0.09 * s, s) for s in (0, 1, 2)]
    lines = {line.method: line for line in summarise([*rows, made("finetune", 0.19)])}
    assert {name: line.unsure for name, line in lines.items()} == {
        "utu": False,
        "npo": False,
        "gif": True,
        "finetune": False,
    }
    assert (lines["npo"].compared, lines["finetune"].compared) == (3, 1)
