"""One forward pass is tried before any work; models that are called otherwise are called as their owner says."""

import copy
import functools
import json
import os
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.transforms import ToSparseTensor

import gunlearn as gu
from gunlearn.errors import (
    CheckpointError,
    GunlearnError,
    InvalidInputError,
    InvalidTypeError,
    UnsupportedMethodError,
    UnsupportedModelError,
)
from gunlearn.seed import isolated_rng
from gunlearn.tasks import as_task
from gunlearn.tasks.calling import Called
from gunlearn.tasks.trial import trial_pass
from tests.model_kinds import (
    KINDS,
    Matrix,
    OfData,
    Pairs,
    Timed,
    blocks,
    classes,
    links,
    per_edge,
    straight_from_training,
)
from tests.training.callbacks import Kill

NODES = "node_classification"
KIND = {kind.name: kind for kind in KINDS}


def gcn(in_channels: int = 8) -> nn.Module:
    return pyg.GCN(in_channels, 8, 2, 3)


def entries(model, data, task):
    """Every entry point, on one model and its data."""
    some = gu.ForgetEdges(count=2)
    fitting = gcn() if task == NODES else pyg.GraphSAGE(8, 8, 2, 4)
    good = gu.unlearn(fitting, classes() if task == NODES else links(), some, "utu", task)
    broken = copy.copy(good)
    broken.model = model
    broken.partition = copy.copy(good.partition)
    object.__setattr__(broken.partition, "retain_data", some.resolve(data).retain_data)
    return {
        "train": lambda: gu.train(model, data, task, epochs=2),
        "unlearn": lambda: gu.unlearn(model, data, some, "utu", task),
        "influence": lambda: gu.influence(model, data, task, items=data.edge_index[:, :2]),
        "evaluate": lambda: gu.evaluate(
            broken, train=lambda data, seed: pytest.fail("retrained before the trial pass")
        ),
    }


@pytest.mark.parametrize("entry", ["train", "unlearn", "influence", "evaluate"])
@pytest.mark.parametrize(
    ("make", "task", "words"),
    [
        (
            lambda: (OfData(pyg.GCNConv(8, 8), pyg.GCNConv(8, 3)), classes()),
            NODES,
            ["call=lambda model, data: model(data)"],
        ),
        (lambda: (Pairs(), links()), "link_prediction", ["call=", "<edge_label_index>"]),
        (lambda: (Timed(), classes(edge_time=per_edge())), NODES, ["model(data.x, data.edge_index, data.edge_time)"]),
        (lambda: (Timed(), classes()), NODES, ["edge_time", "the data holds"]),
        (lambda: (gcn(5), classes()), NODES, ["x [45, 8] float32", "call="]),
        (lambda: (gcn().double(), classes()), NODES, ["x [45, 8] float32", "call="]),
    ],
    ids=["forward(data)", "pairs", "edge_time", "edge_time missing", "width", "dtype"],
)
def test_every_entry_point_says_what_to_pass(entry, make, task, words) -> None:
    model, data = make()
    with pytest.raises(UnsupportedModelError) as found:
        entries(model, data, task)[entry]()
    assert all(word in str(found.value) for word in words), str(found.value)


class Both(nn.Module):
    """Returns logits among other things; its second argument has a name of its own."""

    def __init__(self, packed) -> None:
        super().__init__()
        self.one, self.two, self.packed = pyg.GCNConv(8, 8), pyg.GCNConv(8, 3), packed

    def forward(self, x, ei, edge_weight=None):
        h = self.one(x, ei, edge_weight).relu()
        return self.packed(self.two(h, ei, edge_weight), h)


@pytest.mark.parametrize(
    ("packed", "read"),
    [
        (lambda out, h: (out, h), "[0]"),
        (lambda out, h: [h.mean(), out], "[1]"),
        (lambda out, h: {"loss": None, "logits": out}, "['logits']"),
    ],
    ids=["tuple", "list", "dict"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_call_that_is_offered_for_several_outputs_is_code_that_works(packed, read, weighted) -> None:
    data = classes(edge_weight=per_edge()) if weighted else classes()
    with isolated_rng(0):
        model = Both(packed)
    with pytest.raises(UnsupportedModelError) as found:
        gu.unlearn(model, data, gu.ForgetEdges(count=2), "finetune", NODES, epochs=1)
    code = str(found.value).partition("; pass call=")[2]
    more = ", edge_weight=data.edge_weight" if weighted else ""
    assert code == f"lambda model, data: model(data.x, data.edge_index{more}){read}"
    call = eval(code)  # as its reader would paste it
    result = gu.unlearn(model, data, gu.ForgetEdges(count=2), "finetune", NODES, call=call, epochs=1)
    assert torch.allclose(result.task.encode(model, data), call(model, data), atol=1e-6)
    with pytest.raises(UnsupportedModelError, match=r"another 'call' that returns \["):
        gu.unlearn(model, data, gu.ForgetEdges(count=2), "utu", NODES, call=lambda m, d: m(d.x, d.edge_index))


def test_an_error_in_a_model_with_names_of_its_own_offers_no_placeholders() -> None:
    """The control is `<edge_label_index>` above, an argument that the data lack."""
    with pytest.raises(
        UnsupportedModelError, match="pass a model and data that fit, or call=lambda model, data"
    ) as found:
        gu.unlearn(Both(lambda out, h: out[0, 9]), classes(), gu.ForgetEdges(count=2), "utu", NODES)
    assert "<" not in str(found.value)


def test_a_container_of_parts_is_offered_no_call_that_cannot_run() -> None:
    """The control is `model(data)` above, of a model with a forward of its own."""
    parts = nn.ModuleDict({"one": pyg.GCNConv(8, 3)})
    with pytest.raises(UnsupportedModelError, match=r"pass call=lambda model, data: \.\.\.$"):
        gu.unlearn(parts, classes(), gu.ForgetEdges(count=2), "utu", NODES)


def test_a_matrix_model_is_called_even_by_a_method_that_keeps_all_weights() -> None:
    with pytest.raises(UnsupportedModelError, match="adj_t"):
        gu.unlearn(Matrix(), classes(), gu.ForgetEdges(count=2), "utu", NODES)


@pytest.mark.parametrize("name", ["model(data)", "edge_time", "pairs in forward", "LightGCN"])
def test_a_call_gives_the_model_s_own_outputs(name) -> None:
    kind = KIND[name]
    data = kind.data()
    with isolated_rng(0):
        model = kind.model(data).eval()
    outputs = trial_pass(model, data, as_task(kind.task, kind.call, kind.decode)).outputs
    with torch.no_grad():
        assert torch.allclose(outputs, kind.call(model, data), atol=1e-6)


def test_the_same_model_learns_the_same_called_either_way() -> None:
    data = classes()
    with isolated_rng(0):
        model = gcn()
    one, other = (
        gu.train(model, data, NODES, epochs=5, seed=3, call=call).model
        for call in (None, lambda model, data: model(data.x, data.edge_index))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_decode_of_one_s_own_scores_pairs() -> None:
    data = links()
    with isolated_rng(0):
        model = Pairs().eval()
    call, decode = KIND["pairs in forward"].call, KIND["pairs in forward"].decode
    task = as_task("link_prediction", call, decode)
    items = task.held_out_items(data, "test")
    with torch.no_grad():
        found = task.predict(model, data, items).logits
        assert torch.allclose(found, model(data.x, data.edge_index, items.edge_label_index), atol=1e-6)
    result = gu.unlearn(model, data, gu.ForgetEdges(count=3), "npo", call=call, decode=decode, epochs=2)
    assert any(
        not torch.equal(a, b) for a, b in zip(result.model.head.parameters(), model.head.parameters(), strict=True)
    )


def test_curvature_knows_the_parameters_of_a_decode() -> None:
    """Gauss-Newton products are those of autograd's Jacobian, with a head that only `decode` reads."""
    from gunlearn.curvature.training_loss import TrainingLoss, training_items
    from gunlearn.methods.second_order.influence_update import curvature_of

    kind, data = KIND["pairs in forward"], links()
    with isolated_rng(0):
        model = Pairs().double().eval()
    data.x = data.x.double()
    task = as_task(kind.task, kind.call, kind.decode)
    items = training_items(task, data, 0)
    loss = TrainingLoss(model, task, data, items, torch.ones(items.num_items).double(), kernels=True)
    z = loss.predict(loss.outputs()).logits
    rows = [torch.autograd.grad(one, loss.params, retain_graph=True, allow_unused=True) for one in z]
    jacobian = torch.stack([torch.cat([torch.zeros_like(p).view(-1) if g is None else g.view(-1)
                                       for g, p in zip(row, loss.params, strict=True)]) for row in rows])  # fmt: skip
    p = z.sigmoid()
    expected = jacobian.t() @ ((p * (1 - p) / len(z)).detach().view(-1, 1) * jacobian)
    matrix = curvature_of(loss, "gauss_newton", 0.0)
    assert torch.allclose(matrix @ torch.eye(matrix.size).double(), expected, atol=1e-9)


def test_removed_edges_reach_a_model_called_by_a_function() -> None:
    seen = []

    def call(model, data):
        seen.append(data.edge_index.size(1))
        return model(data.x, data.edge_index)

    data = classes()
    result = gu.unlearn(gcn(), data, gu.ForgetEdges(count=5, seed=0), "finetune", NODES, epochs=2, call=call)
    assert result.data.edge_index.size(1) < data.edge_index.size(1)
    assert data.edge_index.size(1) not in seen


def test_a_function_that_reads_another_graph_is_refused() -> None:
    data = classes()
    for call in (
        lambda model, _: model(data.x, data.edge_index),
        lambda model, given: model(given.x, data.edge_index),
    ):
        with pytest.raises(UnsupportedModelError, match="to read the edges of its argument"):
            gu.unlearn(gcn(), data, gu.ForgetEdges(count=2), "utu", NODES, call=call)


def test_a_model_that_keeps_a_graph_of_its_own_is_warned_of() -> None:
    class Keeps(pyg.GCN):
        def forward(self, x, edge_index):
            return super().forward(x, self.own)

    data = classes()
    model = Keeps(8, 8, 2, 3)
    model.register_buffer("own", data.edge_index.clone())
    with pytest.warns(UserWarning, match="keeps a graph of its own"):
        gu.train(model, data, NODES, epochs=1)


@pytest.mark.parametrize("name", ["x", "edge_index", "edge_weight"])
@pytest.mark.parametrize("how", ["train", "unlearn"])
def test_a_model_that_changes_the_data_is_refused_and_leaves_them(name: str, how: str) -> None:
    class Changes(pyg.GCN):
        def forward(self, x, edge_index, edge_weight=None):
            {"x": x, "edge_index": edge_index, "edge_weight": edge_weight}[name][0] = 1
            return super().forward(x, edge_index, edge_weight)

    data = classes()
    data.edge_weight = torch.rand(data.num_edges)
    before, model = data[name].clone(), Changes(8, 8, 2, 3)
    run = {
        "train": lambda: gu.train(model, data, NODES, epochs=1),
        "unlearn": lambda: gu.unlearn(model, data, gu.ForgetNodes([3]), "finetune", NODES),
    }[how]
    with pytest.raises(UnsupportedModelError, match=rf"data.{name} as it is.*changes it in place.*{name}\.clone"):
        run()
    assert torch.equal(data[name], before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(value: float) -> None:
    class Breaks(pyg.GCN):
        def forward(self, x, edge_index):
            return super().forward(x, edge_index) * value

    with pytest.raises(UnsupportedModelError, match="finite outputs"):
        gu.unlearn(Breaks(8, 8, 2, 3), classes(), gu.ForgetNodes([3]), "finetune", NODES)


def test_a_forward_pass_without_gradients_is_refused() -> None:
    class Cut(pyg.GCN):
        @torch.no_grad()
        def forward(self, x, edge_index):
            return super().forward(x, edge_index)

    with pytest.raises(UnsupportedModelError, match=r"torch\.no_grad"):
        gu.unlearn(Cut(8, 8, 2, 3), classes(), gu.ForgetNodes([3]), "finetune", NODES)


def test_a_call_inside_no_grad_is_told_so() -> None:
    """The control is the model's own `no_grad`, above."""
    data = gu.node_split(gu.load("digits"), seed=0)
    model = gu.GCN(data.num_features, 4, 10)
    with torch.no_grad(), pytest.raises(InvalidInputError, match=r"one inside torch\.no_grad\(\)\); call it outside"):
        gu.unlearn(model, data, gu.ForgetNodes(count=2), "finetune", epochs=1)


def test_calls_that_enclose_other_values_are_told_apart() -> None:
    def weighted(value: float):
        weights = torch.full((3,), value)
        return lambda model, data: model(data.x, data.edge_index, weights)

    one, same, other = (repr(Called("call", weighted(value))) for value in (1.0, 1.0, 5.0))
    assert one == same != other


def test_a_layer_s_attributes_reach_it_for_forgotten_nodes_beside_the_graph() -> None:
    kind = KIND["edge_time"]
    data = kind.data()
    some = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:2])
    result = gu.unlearn(Timed(), data, some, "npo", NODES, epochs=2, call=kind.call)
    assert len(result.history) == 2


def test_an_ensemble_of_shards_takes_no_call() -> None:
    with pytest.raises(UnsupportedMethodError, match="ensemble"):
        gu.unlearn(
            OfData(pyg.GCNConv(8, 8), pyg.GCNConv(8, 3)),
            classes(),
            gu.ForgetNodes([3]),
            "grapheraser",
            NODES,
            call=KIND["model(data)"].call,
        )


def idle() -> nn.Module:
    """A model whose message passing layer is never called."""
    model = Matrix()
    model.conv = pyg.GCNConv(8, 3)
    return model


@pytest.mark.parametrize("run", ["inpo", "inpo_s", "gnndelete", "first_order"])
def test_layers_that_are_never_called_are_no_place_to_attach_to(run) -> None:
    kind = KIND["adj_t @ x"]
    data = links()
    attempts = {
        "first_order": lambda: gu.influence(idle(), data, estimator=run, items=data.edge_index[:, :2], call=kind.call)
    }
    with pytest.raises(UnsupportedModelError):
        attempts.get(run, lambda: gu.unlearn(idle(), data, gu.ForgetEdges(count=2), run, call=kind.call))()


def test_a_matrix_model_gets_exact_influences_by_brute_force() -> None:
    kind, data = KIND["adj_t @ x"], links()
    with isolated_rng(0):
        model = idle().eval()
    pair = data.edge_index[:, :1]
    (found,) = gu.influence(model, data, items=pair, call=kind.call, target="embeddings", estimator="brute")
    without = copy.copy(data)
    without.edge_index = data.edge_index[:, ~((data.edge_index == pair) | (data.edge_index == pair.flip(0))).all(0)]
    with torch.no_grad():
        expected = (kind.call(model, without) - kind.call(model, data)).norm(dim=1).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_model_with_a_row_per_node_reads_two_graphs_one_after_the_other() -> None:
    kind, data = KIND["LightGCN"], links()
    result = gu.unlearn(kind.model(data), data, gu.ForgetNodes([3]), "npo", call=kind.call, epochs=1)
    assert not result.unchanged
    assert "reset" in result.notes


@pytest.mark.parametrize("method", ["npo", "continued_training", "auto"])
def test_a_call_reads_a_matrix_that_the_data_keep_beside_their_edges(method) -> None:
    """A joint graph has no matrix, so that the two are read one after the other; the control reads `edge_index`."""
    data = ToSparseTensor(remove_edge_index=False)(classes())
    some = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:2])
    with isolated_rng(0):
        model = pyg.GCN(8, 8, 2, 3)
    options = {"epochs": 2} if method == "npo" else {"lr": 1e-2}
    one, other = (
        gu.unlearn(model, data, some, method, NODES, call=call, **options).model
        for call in (
            lambda model, data: model(data.x, data.adj_t),
            lambda model, data: model(data.x, data.edge_index),
        )
    )
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), model.parameters(), strict=True))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_model_that_mixes_two_graphs_is_warned_of() -> None:
    kind = KIND["GPS"]
    data = kind.data()
    some = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:2])
    with pytest.warns(UserWarning, match="mixes nodes of unconnected graphs"):
        gu.unlearn(kind.model(data), data, some, "npo", NODES, epochs=1)


def test_the_result_carries_the_call() -> None:
    kind, data = KIND["model(data)"], classes()
    models = [OfData(pyg.GCNConv(8, 8), pyg.GCNConv(8, 3)) for _ in range(3)]
    result = gu.unlearn(models[0], data, gu.ForgetNodes([3]), "utu", NODES, call=kind.call)
    assert type(result.model) is OfData
    assert "call" in json.dumps(result.record()["notes"])
    with torch.no_grad():
        right = (result.model(result.data).argmax(1) == data.y)[result.data.test_mask]
    assert gu.evaluate(result, references=models[1:])["test_acc"] == pytest.approx(float(right.double().mean()))
    with pytest.raises(UnsupportedModelError, match="'call'"):
        gu.evaluate(result, references=models[1:], call=lambda model, data: model(data.nothing))


def test_the_trial_disturbs_nothing() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = gcn()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x, edge_index):
            self.calls += 1
            return self.net(x, edge_index) + torch.rand(()) * 0

    model, data = Counting().train(), classes()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(3)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    trial_pass(model, data, as_task(NODES))
    assert random.random() == expected[0]
    assert np.random.rand() == expected[1]
    assert torch.equal(torch.rand(3), expected[2])
    assert model.training
    assert model.calls == 0
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_variational_autoencoder_straight_from_training() -> None:
    data = links()
    with isolated_rng(0):
        model = straight_from_training(data)
    assert not model.__mu__.is_leaf  # what the last pass left behind
    result = gu.unlearn(model, data, gu.ForgetEdges(count=3), "npo", epochs=2)
    assert model.training
    assert not model.__mu__.is_leaf
    assert torch.isfinite(gu.influence(model, data, items=data.edge_index[:, :2])).all()
    with torch.no_grad():  # evaluation mode reads means, not samples
        model.eval()
        expected = model.encode(data.x, data.edge_index)
    assert torch.allclose(trial_pass(model.train(), data, as_task("link_prediction")).outputs, expected, atol=1e-5)
    assert result.num_forget == 3


def test_attention_without_a_second_derivative_takes_a_newton_step() -> None:
    kind = KIND["GPS"]
    data = kind.data()
    with isolated_rng(0):
        model = gu.train(kind.model(data), data, NODES, epochs=60, lr=1e-2, eval_every=20).model
    assert gu.unlearn(model, data, gu.ForgetNodes([3]), "gif", NODES).notes["distance"] > 0


def test_calls_are_named_alike_in_every_process_and_apart_from_others() -> None:
    namespaces = [{}, {}, {}]
    for names, body in zip(namespaces, ("data.x", "data.x", "data.z"), strict=True):
        exec(f"f = lambda model, data: model({body})", names)
    one, same, other = (repr(Called("call", names["f"])) for names in namespaces)
    assert one == same != other
    assert "0x" not in one


def test_checkpoints_of_a_run_with_a_call_are_resumed(tmp_path) -> None:
    data, request, model = classes(), gu.ForgetEdges(count=2), gcn()

    def run(*callbacks, folder=None, factor=1):
        call = lambda model, data: model(data.x, data.edge_index) * factor  # noqa: E731 - made anew each time
        options = {"epochs": 4, "call": call, "checkpoint_dir": folder, "callbacks": callbacks}
        return gu.unlearn(model, data, request, "finetune", NODES, **options)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(Kill(), folder=tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        run(folder=tmp_path, factor=2)
    watch = Kill((), None)
    resumed = run(watch, folder=tmp_path)
    assert watch.begun == [3, 4]  # epochs 1 and 2 are those of the killed run
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]


@pytest.mark.parametrize("method", ["etr", "ssd", "finetune"])
def test_outputs_without_a_gradient_are_refused(method: str) -> None:
    """Where a loss must have one."""
    data, call = classes(), lambda model, data: model(data.x, data.edge_index).detach()
    with pytest.raises(UnsupportedModelError, match="a loss with a gradient"):
        gu.unlearn(gcn(), data, gu.ForgetNodes(count=2), method, NODES, call=call)
    with pytest.raises(UnsupportedModelError, match="a loss with a gradient"):
        gu.influence(gcn(), data, NODES, of="nodes", estimator="gradient_similarity", target=torch.sum, call=call)


def test_wrong_calls() -> None:
    with pytest.raises(InvalidTypeError, match="'call'"):
        gu.train(gcn(), classes(), NODES, epochs=1, call="forward")
    with pytest.raises(InvalidInputError, match="'decode' for link prediction"):
        gu.train(gcn(), classes(), NODES, epochs=1, decode=lambda model, z, pairs: z)
    with pytest.raises(GunlearnError, match="on a graph alone"):
        gu.train(nn.Linear(8, 3), (blocks().x, blocks().y), "image_classification", call=lambda model, data: data)


OUTSIDE = classes()


def through_another(model, data):
    return model(OUTSIDE.x, data.edge_index)


class Owner:
    def __init__(self) -> None:
        self.data = OUTSIDE

    def __call__(self, model, data):
        return model(self.data.x, data.edge_index)


@pytest.mark.parametrize("entry", ["train", "unlearn", "influence", "evaluate"])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda model, data: model(OUTSIDE.x, data.edge_index), "OUTSIDE.x"),
        (lambda model, data: model(data.x + 0.1 * OUTSIDE.x, data.edge_index), "OUTSIDE.x"),
        (lambda model, data, x=OUTSIDE.x: model(x, data.edge_index), "x"),
        (lambda model, data: through_another(model, data), "OUTSIDE.x"),
        (lambda model, data, all=[OUTSIDE]: model(all[0].x, data.edge_index), r"all\[0\].x"),
        (Owner(), "self.data.x"),
        (Owner().__call__, "self.data.x"),
        (functools.partial(lambda model, data, own: model(own.x, data.edge_index), own=OUTSIDE), "own.x"),
    ],
)
def test_features_from_outside_the_function_are_refused(entry, call, name) -> None:
    data, some = classes(), gu.ForgetNodes([3])
    run = {
        "train": lambda: gu.train(gcn(), data, NODES, epochs=1, call=call),
        "unlearn": lambda: gu.unlearn(gcn(), data, some, "utu", NODES, call=call),
        "influence": lambda: gu.influence(gcn(), data, NODES, items=data.edge_index[:, :2], call=call),
        "evaluate": lambda: gu.evaluate(
            gu.unlearn(gcn(), data, some, "utu", NODES), references=[gcn(), gcn()], call=call
        ),
    }
    with pytest.raises(UnsupportedModelError, match=rf"its argument 'data' alone \(got {name} "):
        run[entry]()


def test_other_values_around_a_call_are_its_owner_s_business() -> None:
    data, scale, number = classes(), torch.ones(3), OUTSIDE.num_nodes

    def call(model, data):
        assert number == OUTSIDE.num_nodes
        return model(data.x, data.edge_index) * scale

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.unlearn(gcn(), data, gu.ForgetNodes([3]), "utu", NODES, call=call)


def test_features_that_no_output_reads_are_said() -> None:
    hidden = [[[[[[OUTSIDE.x]]]]]]  # deeper than is looked at
    call = lambda model, data: model(hidden[0][0][0][0][0][0], data.edge_index)  # noqa: E731
    for request in (gu.ForgetNodes([3]), gu.ForgetFeatures([3])):
        with pytest.warns(UserWarning, match=r"GCN does not read data\.x"):
            result = gu.unlearn(gcn(), classes(), request, "utu", NODES, call=call)
        assert "does not read data.x" in result.notes["why"]


@pytest.mark.parametrize("method", ["utu", "finetune"])
def test_a_model_that_reads_no_edges_says_so_where_edges_are_forgotten(method) -> None:
    class Plain(nn.Sequential):
        def forward(self, x, edge_index):
            return super().forward(x)

    data, options = classes(), {} if method == "utu" else {"epochs": 1}
    model = Plain(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.warns(UserWarning, match="Plain reads no edges"):
        result = gu.unlearn(model, data, gu.ForgetEdges(count=2), method, NODES, **options)
    assert "Plain reads no edges" in result.notes["why"]
    assert method == "finetune" or "reads no edges" in str(result)
    with warnings.catch_warnings():  # nodes are forgotten as such, and edges are the items of link prediction
        warnings.simplefilter("error")
        gu.unlearn(model, data, gu.ForgetNodes([3]), method, NODES, **options)
        gu.unlearn(model, links(), gu.ForgetEdges(count=2), method, **options)


class WithLock(nn.Module):
    """Holds something that cannot be copied, beside a layer that can."""

    def __init__(self, make) -> None:
        super().__init__()
        self.one, self.inner = pyg.GCNConv(8, 3), nn.Identity()
        self.inner.held = make()

    def forward(self, x, edge_index):
        return self.one(x, edge_index)


class LeftOut(nn.Identity):
    """Follows the advice: copies make a lock of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Lock()

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "held"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.held = threading.Lock()


@pytest.mark.parametrize(("make", "kind"), [(threading.Lock, "lock"), (lambda: open(os.devnull), "TextIOWrapper")])  # noqa: SIM115
def test_what_cannot_be_copied_is_named_with_what_to_do(make, kind) -> None:
    """Tensors that a forward pass left are another matter; a model that leaves it out of copies is the control."""
    data, model = classes(), WithLock(make)
    said = rf"{kind}.*in 'inner.held'\); keep a .*Identity.__getstate__"
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        gu.unlearn(model, data, gu.ForgetEdges(count=1), "utu", NODES)
    assert "forward pass" not in str(caught.value)
    model.inner = LeftOut()
    gu.unlearn(model, data, gu.ForgetEdges(count=1), "utu", NODES)
