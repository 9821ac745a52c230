"""Probabilities are not read as logits, and a model that draws at each call is not measured as if it did not."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import GCNConv
from torch_geometric.utils import dropout_edge

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.tasks import ImageClassification, LinkPrediction, NodeClassification
from gunlearn.tasks.logits import is_distribution

NODES, LINKS = "node_classification", "link_prediction"


class Net(nn.Module):
    """Two convolutions; `end` turns what they return into the outputs, `before` the edges that they read."""

    def __init__(self, end=None, before=None, out=4):
        super().__init__()
        self.a, self.b, self.end, self.before = GCNConv(34, 8), GCNConv(8, out), end, before

    def forward(self, x, edge_index):
        edge_index = edge_index if self.before is None else self.before(edge_index)
        h = self.b(self.a(x, edge_index).relu(), edge_index)
        return h if self.end is None else self.end(h)


class Links(Net):
    """Pairs scored by a `decode` of its own."""

    def __init__(self, decode):
        super().__init__()
        self.decoder = decode

    def decode(self, z, edge_label_index):
        u, v = z[edge_label_index]
        return self.decoder((4 * u * v).sum(-1))


@pytest.fixture(scope="module")
def data():
    return {
        NODES: gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0),
        LINKS: gu.link_split(gu.load("karate"), 0.1, 0.1),
    }


def trained(model, data, task=NODES):
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return gu.train(model, data, task, epochs=30, lr=1e-2).model


def with_end(model, end):
    model = copy.deepcopy(model)
    model.end = end
    return model


def ways(model, data, task):
    """Every function that a user hands a model to."""
    request = gu.ForgetEdges(count=2)
    yield "train", lambda: gu.train(model, data, task, epochs=1)
    yield "unlearn", lambda: gu.unlearn(model, data, request, "utu", task)
    yield "influence", lambda: gu.influence(model, data, task, estimator="degree")
    plain = trained(Net(), data, task)
    result = gu.unlearn(plain, data, request, "utu", task)
    yield "reference", lambda: gu.evaluate(result, references=[trained(Net(), data, task), model])
    yield "evaluated", lambda: gu.evaluate(gu.training.Result(model, "m", partition=result.partition, task=result.task))
    made = lambda data, seed: copy.deepcopy(model) if data.edge_index.numel() else None  # noqa: E731
    yield "retrained", lambda: gu.evaluate(result, train=made)


BAD = {
    "softmax": (NODES, Net(lambda h: h.softmax(-1)), "softmax"),
    "softmax module": (NODES, Net(nn.Softmax(1)), "softmax"),
    "half precision": (NODES, Net(lambda h: h.softmax(-1).bfloat16()), "softmax"),
    "sigmoid of each class": (NODES, Net(torch.sigmoid), "sigmoid"),
    "sigmoid decoder": (LINKS, Links(torch.sigmoid), "sigmoid"),
    "sigmoid module": (LINKS, Links(nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Sigmoid(), nn.Flatten(0))), "sigmoid"),
    "dropout": (NODES, Net(lambda h: F.dropout(h, 0.5)), "the same twice in evaluation mode"),
    "edges dropped": (LINKS, Net(before=lambda e: dropout_edge(e, 0.3)[0]), "the same twice"),
    "a latent variable": (LINKS, Net(lambda h: h + torch.randn_like(h)), "latent variables drawn"),
    "a noisy decoder": (LINKS, Links(lambda s: s + torch.randn_like(s)), "the same twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_way_refuses_it(name, data):
    task, model, words = BAD[name]
    for way, call in ways(model, data[task], task):
        state = torch.get_rng_state()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(UnsupportedModelError, match=words):
            raise AssertionError(f"{way}: {call()}")
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert model.training


def test_items_without_a_graph(data):
    items = torch.randn(40, 5), torch.arange(40) % 3
    for model, words in (
        (nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)), "softmax"),
        (nn.Sequential(nn.Linear(5, 3), nn.Sigmoid()), "sigmoid"),
    ):
        with pytest.raises(UnsupportedModelError, match=f"{words}.*ImageClassification"):
            gu.unlearn(model, items, gu.ForgetItems(count=4), "finetune", "image_classification", epochs=1)
    small = nn.Sequential(nn.Linear(5, 3), nn.Hardtanh(0.1, 0.9))  # in [0, 1], and no probability
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.unlearn(small, items, gu.ForgetItems(count=4), "npo", "image_classification", epochs=1)
    model = nn.Sequential(nn.Linear(5, 3), nn.Softmax(1))
    gu.unlearn(model, items, gu.ForgetItems(count=4), "npo", ImageClassification(outputs="probabilities"), epochs=1)


GOOD = {
    "logits": (NODES, Net()),
    "log_softmax": (NODES, Net(lambda h: h.log_softmax(-1))),
    "dropout in training": (NODES, Net(nn.Dropout(0.5))),
    "embeddings of unit length": (LINKS, Net(lambda h: F.normalize(h, dim=-1))),
    "positive embeddings": (LINKS, Net(lambda h: F.normalize(h.relu() + 1e-3, dim=-1))),
    "softmaxed embeddings": (LINKS, Net(lambda h: h.softmax(-1))),
    "a decoder of logits": (LINKS, Links(lambda s: s)),
    "small positive logits": (LINKS, Links(lambda s: s.abs() / 100 + 0.4)),
    "a decoder of log-odds": (LINKS, Links(lambda s: s.sigmoid().logit())),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_passes_without_a_word(name, data):
    task, model = GOOD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.unlearn(model, data[task], gu.ForgetEdges(count=2), "utu", task)
        gu.train(model, data[task], task, epochs=1)


def test_what_looks_like_a_probability_is_warned_of(data):
    model = Links(lambda s: 1 / (1 + (-3 * s.clamp(-9, 9)).exp()))  # a sigmoid by hand
    with pytest.warns(UserWarning, match=r"lie in \[0, 1\]"):
        gu.unlearn(model, data[LINKS], gu.ForgetEdges(count=2), "utu")


@pytest.mark.parametrize(
    "method", ["finetune", "npo", "scrub", "imu", "ssd", "gif", "bad_teacher", "random_label", "gradient_ascent"]
)
def test_methods_read_log_probabilities_and_probabilities_as_logits(method, data):
    data = data[NODES]
    model = trained(Net(), data)
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:3])
    options = {} if method in ("gif", "ssd") else {"epochs": 4}
    found = [
        gu.unlearn(with_end(model, end), data, request, method, task, **options)
        for end, task in (
            (None, NODES),
            (lambda h: h.log_softmax(-1), NODES),
            (lambda h: h.softmax(-1), NodeClassification(outputs="probabilities")),
        )
    ]
    before, one, *others = (
        torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, *(r.model for r in found))
    )
    assert (one - before).norm() > 1e-3
    for other in others:
        assert (other - one).norm() < 0.02 * (one - before).norm()


def test_figures_of_probabilities_are_those_of_logits(data):
    data = data[NODES]
    models = [trained(Net(), data)]
    models += [gu.train(Net(), data, NODES, epochs=5, lr=1e-2).model for _ in range(2)]
    tables = []
    for end, task in ((None, NODES), (lambda h: h.softmax(-1), NodeClassification("probabilities"))):
        one, *others = (with_end(m, end) for m in models)
        result = gu.unlearn(one, data, gu.ForgetNodes(count=3), "utu", task)
        tables.append(gu.evaluate(result, references=others))
        scores = gu.influence(one, data, task, estimator="brute", items=[[0], [1]])
        tables[-1].rows[0]["score"] = float(scores)
    for name in ("js_forget", "js_test", "test_acc", "forget_prob", "score"):
        assert tables[0].rows[0][name] == pytest.approx(tables[1].rows[0][name], rel=1e-3)


def test_pairs_of_probabilities(data):
    data = data[LINKS]
    plain, soft = trained(Links(lambda s: s), data, LINKS), Links(torch.sigmoid)
    soft.load_state_dict(plain.state_dict())
    found = [
        gu.unlearn(m, data, gu.ForgetEdges(count=3), "npo", task, epochs=3).model.a.lin.weight
        for m, task in ((plain, LINKS), (soft, LinkPrediction(outputs="probabilities")))
    ]
    assert torch.allclose(*found, rtol=1e-2, atol=1e-4)
    assert not torch.equal(found[0], plain.a.lin.weight)


def test_outputs_that_are_no_probabilities(data):
    for model, task, words in (
        (Net(), NodeClassification(outputs="probabilities"), "sum to 1"),
        (Links(lambda s: 9 * s), LinkPrediction(outputs="probabilities"), r"in \[0, 1\]"),
        (Net(), LinkPrediction(outputs="probabilities"), "'decode'"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            gu.unlearn(model, data[task.name], gu.ForgetEdges(count=2), "utu", task)
    for kind in (NodeClassification, LinkPrediction, ImageClassification):
        with pytest.raises(InvalidInputError, match="'logits', 'probabilities'"):
            kind(outputs="logit")
        assert "outputs" not in vars(kind())  # a default adds nothing to the names of checkpoints


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_rows_that_are_distributions(dtype, classes):
    z = 3 * torch.randn(50, classes, generator=torch.Generator().manual_seed(classes))
    assert is_distribution(z.softmax(-1).to(dtype))
    assert is_distribution(F.one_hot(z.argmax(-1), classes).to(dtype))
    for other in (z, z.log_softmax(-1), z.abs(), z.sigmoid(), torch.zeros_like(z)):
        assert not is_distribution(other.to(dtype))
    assert not is_distribution(torch.ones(5, 1))
