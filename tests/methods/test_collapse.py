"""Runs that end in a model without use are refused or warned of; the others are not."""

import math
import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.errors import DivergenceError
from gunlearn.training.collapse import Knowledge, collapse

NODES = "node_classification"


@pytest.fixture(scope="module")
def setting():
    data = gu.node_split(gu.load("karate"), 0.1, 0.2, seed=0)
    torch.manual_seed(0)
    model = gu.train(gu.nn.backbone("gcn", 34, 8, 4), data, NODES, epochs=60, lr=1e-2).model
    return model, data, gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:3])


@pytest.mark.parametrize("method", ["finetune", "graddiff", "npo", "scrub"])
def test_a_method_that_reads_retained_items_and_diverges_is_refused(setting, method):
    with pytest.raises(DivergenceError, match=f"'{method}' collapsed: on retained items its mean loss"):
        gu.unlearn(*setting, method, NODES, lr=1e4, epochs=30)


def test_the_collapse_of_gradient_ascent_is_a_warning_with_the_losses(setting):
    model, data, request = setting
    with pytest.warns(UserWarning, match="'gradient_ascent' collapsed") as caught:
        result = gu.unlearn(model, data, request, "gradient_ascent", NODES, lr=1e4, epochs=30)
    kept = request.resolve(data).retain_data
    rows = kept.train_mask.nonzero().view(-1)
    rows = rows[~torch.isin(rows, data.train_mask.nonzero().view(-1)[:3])]
    with torch.no_grad():
        losses = [cross_entropy(m(kept.x, kept.edge_index)[rows], data.y[rows]) for m in (model, result.model)]
    said = str(caught[0].message)
    assert all(f"{float(loss):.3g} " in said or f"{float(loss):.3g}," in said for loss in losses)
    assert f"{math.log(4):.3g}" in said
    assert "collapsed" in result.notes["collapsed"]
    assert "collapsed" in repr(result)


@pytest.mark.parametrize("task", ["link_prediction", "node_regression", "node_multilabel", "image_classification"])
def test_other_tasks_say_so_too(task):
    torch.manual_seed(0)
    data, model, request = gu.load("karate"), gu.nn.backbone("gcn", 34, 8, 1), gu.ForgetNodes([3, 5])
    data.train_mask = torch.arange(34) < 30
    degree = torch.bincount(data.edge_index[0], minlength=34).float().view(-1, 1)
    data.y = degree if task == "node_regression" else (degree > 3).float()
    if task == "link_prediction":
        data, model = gu.link_split(gu.load("karate"), 0.1, 0.1), gu.nn.backbone("gcn", 34, 8, 4)
        request = gu.ForgetEdges(count=3)
    elif task == "image_classification":
        data, model = (torch.randn(40, 3), torch.arange(40) % 3), torch.nn.Linear(3, 3)
        request = gu.ForgetItems([1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "collapsed" not in gu.unlearn(model, data, request, "finetune", task, epochs=2).notes
    with pytest.raises(DivergenceError, match="collapsed"):
        gu.unlearn(model, data, request, "graddiff", task, lr=1e4, epochs=30)


@pytest.mark.parametrize(
    ("after", "refuse", "ends"),
    [
        (Knowledge(1.2, 1.1, 0.5, 1 / 3), True, "well"),  # worse, but it still predicts
        (Knowledge(1.3, 1.1, 0.3, 1 / 3), True, "warned"),  # as by chance
        (Knowledge(10.0, 1.1, 0.5, 1 / 3), True, "well"),
        (Knowledge(12.0, 1.1, 0.5, 1 / 3), True, "warned"),
        (Knowledge(101.0, 1.1, 0.5, 1 / 3), True, "refused"),
        (Knowledge(101.0, 1.1, 0.5, 1 / 3), False, "warned"),
    ],
)
def test_the_bounds(after, refuse, ends):
    before = Knowledge(0.5, 1.1, 0.8, 1 / 3)
    if ends == "refused":
        with pytest.raises(DivergenceError):
            collapse(before, after, "mine", refuse)
    elif ends == "warned":
        with pytest.warns(UserWarning, match="'mine' collapsed"):
            assert collapse(before, after, "mine", refuse)
    else:
        assert collapse(before, after, "mine", refuse) == ""


@pytest.mark.parametrize(
    ("before", "after", "warned"), [(0.05, 0.19, 0), (0.05, 0.21, 1), (0.002, 0.01, 0), (0.8, 1.1, 1)]
)
def test_a_task_may_say_how_many_times_a_loss_may_be(before, after, warned):
    """The control has no such number, and says nothing of a loss near a guess's."""
    assert collapse(Knowledge(before, 1.0), Knowledge(min(after, 0.9), 1.0), "mine", True) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert bool(collapse(Knowledge(before, 1.0), Knowledge(after, 1.0), "mine", True, 4.0)) == bool(warned)


@pytest.mark.parametrize("call", ["train", "unlearn"])
def test_a_classifier_without_a_task_is_warned_of(setting, call):
    wide, data, request = setting
    model = gu.nn.backbone("gcn", 34, 8, int(data.y.max()) + 1)

    def run(model, data, *task):
        if call == "train":
            return gu.train(model, data, *task, epochs=1)
        return gu.unlearn(model, data, request, "finetune", *task, epochs=1)

    with pytest.warns(UserWarning, match=r'task="node_classification"'):
        assert "link_prediction" in repr(run(model, data))
    split = gu.link_split(data, 0.1, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, data, NODES)
        run(model, data, "link_prediction")  # as it was asked for
        run(wide, data)  # another number of outputs than classes
        run(model, split)  # data for link prediction
