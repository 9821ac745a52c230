"""What every method must do, run over all rows of the case table and models that users bring."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.losses import NLL, KLToReference, as_objective
from gunlearn.methods import METHODS, Method
from tests.methods.cases import (
    CASES,
    HEAD_CASES,
    MODELS,
    SHARD_CASES,
    STATE_CASES,
    TRAINING,
    MethodCase,
    fresh_model,
    make_data,
    registered_specs,
    run,
    same_weights,
    trained_model,
    weights,
)
from tests.training.callbacks import On

CONTRACT = [*CASES, *HEAD_CASES]
per_case = pytest.mark.parametrize("case", CASES, ids=str)
per_contract_case = pytest.mark.parametrize("case", CONTRACT, ids=str)
per_training_case = pytest.mark.parametrize("case", TRAINING, ids=str)
# A few steps of a paper's settings may do harm, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* of the training nodes that stay are predicted otherwise")
HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def test_every_registered_method_and_variant_has_a_row() -> None:
    assert sorted(case.spec for case in [*CONTRACT, *SHARD_CASES, *STATE_CASES]) == sorted(registered_specs())


def test_every_method_of_the_package_is_registered() -> None:
    def leaves(cls: type) -> set[type]:
        below = set().union(*(leaves(sub) for sub in cls.__subclasses__()), set())
        own = {cls} if cls.__module__.startswith("gunlearn.") and "name" in vars(cls) else set()
        return own | below

    registered = set(METHODS.values())  # loads them all
    assert leaves(Method) - {Method} == registered
    assert all(name == cls.name and cls.summary and cls.cost for name, cls in METHODS.items())


def no_op(*args: Any) -> None:
    """A hook of the caller's."""


def hostile(name: str) -> nn.Module:
    """A trained model in an untidy state: mixed modes, one frozen parameter, left-over gradients, hooks."""
    model = trained_model(name)
    model.train()
    list(model.modules())[-1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(no_op)
    list(model.modules())[1].register_forward_pre_hook(no_op)
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a method could spoil."""
    modules = dict(model.named_modules())
    return {
        "parameters": {k: (p.detach().clone(), p.requires_grad, id(p)) for k, p in model.named_parameters()},
        "buffers": {k: b.detach().clone() for k, b in model.named_buffers()},
        "grads": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        "modes": {k: m.training for k, m in modules.items()},
        "hooks": {
            k: {hook: list(getattr(m, hook).values()) for hook in HOOKS if getattr(m, hook)} for k, m in modules.items()
        },
        "attributes": {k: sorted(vars(m)) for k, m in modules.items()},
    }


def data_snapshot(data: Data) -> dict[str, Any]:
    return {
        k: (v.clone(), v._version, v.requires_grad, id(v)) if isinstance(v, Tensor) else v
        for k, v in data.to_dict().items()
    }


def rng_snapshot() -> list[Any]:
    name, keys, *rest = np.random.get_state()
    return [random.getstate(), name, torch.from_numpy(keys.astype(np.int64)), *rest, torch.get_rng_state()]


def equal(a: Any, b: Any) -> bool:
    """Deep equality that knows tensors."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def test_snapshots_notice_what_they_should() -> None:
    model, data = hostile("sage"), make_data()
    for spoil in (
        lambda: next(model.parameters()).data.add_(1),
        lambda: model.eval(),
        lambda: model.zero_grad(),
        lambda: model.requires_grad_(True),
        lambda: model.norm.running_mean.add_(1),
        lambda: model.register_forward_hook(no_op),
        lambda: setattr(model, "cache", 1),
    ):
        before = snapshot(model)
        assert equal(before, snapshot(model))
        spoil()
        assert not equal(before, snapshot(model))
    before = data_snapshot(data)
    data.x.requires_grad_()
    assert not equal(before, data_snapshot(data))
    before = rng_snapshot()
    random.random()
    assert not equal(before, rng_snapshot())


def check_untouched(case: MethodCase, name: str, run_it: Any) -> None:
    model, data = hostile(name), make_data()
    before, before_data, before_rng = snapshot(model), data_snapshot(data), rng_snapshot()
    run_it(model, data)
    assert equal(before, snapshot(model))
    assert equal(before_data, data_snapshot(data))
    assert equal(before_rng, rng_snapshot())


# Each method on some model, each model with some methods.
PAIRS = [(case, case.head or list(MODELS)[i % len(MODELS)]) for i, case in enumerate(CONTRACT)]
PAIRS += [(case, name) for case in CASES if case.spec in ("npo:default", "etr:default") for name in MODELS]


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=str)
def test_the_callers_model_data_and_random_state_are_untouched(case: MethodCase, name: str) -> None:
    def run_it(model: nn.Module, data: Data) -> None:
        result = run(case, model, data, seed=5)
        theirs = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
        for copy in (result.model, result.original):
            ours = {t.untyped_storage().data_ptr() for t in (*copy.parameters(), *copy.buffers()) if t.numel()}
            assert not theirs & ours
        assert not any(module.training for module in result.model.modules())
        assert all(p.grad is None for p in result.model.parameters())  # the last gradient is of the forgotten items
        if not case.from_scratch:
            frozen = next(iter(model.state_dict()))
            assert torch.equal(result.model.state_dict()[frozen], model.state_dict()[frozen])
        # Control: what is to change the weights does change its own copy, unless a rewind chose the model as it was.
        rewound = result.notes.get("chosen") == 0
        assert same_weights(result.model, model) == (rewound or not (case.trains or case.moves))
        assert same_weights(result.original, model)

    check_untouched(case, name, run_it)


@per_contract_case
def test_untouched_when_the_method_raises(case: MethodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = METHODS[case.method]
    original = cls.run

    def broken(self: Method, problem: Any) -> None:
        original(self, problem)
        random.random(), np.random.rand(), torch.rand(1)
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(cls, "run", broken)

    def run_it(model: nn.Module, data: Data) -> None:
        with pytest.raises(RuntimeError, match="on purpose"):
            run(case, model, data)

    check_untouched(case, case.head or "gat", run_it)


@per_training_case
def test_untouched_when_a_callback_raises(case: MethodCase) -> None:
    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    def run_it(model: nn.Module, data: Data) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(case, model, data, callbacks=[On(step_end=stop)])

    check_untouched(case, "sage", run_it)


def test_untouched_by_a_request_that_asks_for_influence() -> None:
    def run_it(model: nn.Module, data: Data) -> None:
        run("utu", model, data, gu.ForgetEdges(count=3, by="influence"))

    check_untouched(CASES[2], "gat", run_it)


def alike(one: gu.Result, other: gu.Result) -> bool:
    """A rewind may return the untouched model whatever the seed; the losses on the way tell runs apart."""
    return same_weights(one.model, other.model) and one.history == other.history


@per_contract_case
def test_seeds(case: MethodCase) -> None:
    data, results = make_data(), []
    for seed, mode in ((1, True), (1, False), (2, False)):
        torch.manual_seed(11 + mode)  # neither the global state has a say, nor the mode that the model comes in
        random.seed(11 + mode)
        results.append(run(case, trained_model(case.head or "sage").train(mode), data, seed=seed))
    assert alike(results[0], results[1])
    assert alike(results[1], results[2]) != (case.random or case.trains)


@per_case
def test_what_is_random_without_dropout(case: MethodCase) -> None:
    one, other = (run(case, trained_model("gcn"), make_data(), seed=seed) for seed in (1, 2))
    assert alike(one, other) != case.random


@pytest.mark.parametrize(
    ("case", "name"), [(case, case.head or ("pyg", "autoencoder")[i % 2]) for i, case in enumerate(CONTRACT)], ids=str
)
def test_saved_and_loaded(case: MethodCase, name: str, tmp_path: Any) -> None:
    result = run(case, trained_model(name), make_data(), seed=4)
    template = fresh_model(name, seed=9)
    before = snapshot(template)
    loaded = gu.Result.load(result.save(tmp_path / "deep" / "down"), template)
    assert equal(before, snapshot(template))
    assert same_weights(loaded.model, result.model)
    assert loaded.record() == result.record()
    assert not any(module.training for module in loaded.model.modules())
    assert (loaded.method, loaded.seed, loaded.num_forget) == (case.method, 4, 12)


@per_case
def test_the_record_is_complete(case: MethodCase) -> None:
    data = make_data()
    result = run(case, trained_model("gcn"), data, seed=4)
    request = gu.ForgetEdges(count=12, seed=3).resolve(data)
    assert (result.request_hash, result.num_forget) == (request.request_hash, 12)
    assert result.epochs == case.passes * case.options.get("epochs", 0) == len(result.history)
    assert result.seconds > 0
    assert (result.seconds_per_epoch is None) == (not case.trains)
    assert result.peak_memory_mb is None or result.peak_memory_mb > 0
    assert set(case.options.items()) <= set(result.config.items())
    assert result.mode == built(case).label


def built(case: MethodCase) -> Method:
    return METHODS[case.method](**{**METHODS[case.method].variants[case.variant], **case.options})


def test_modes_tell_variants_apart() -> None:
    labels = [(case.method, built(case).label) for case in CASES]
    assert len(set(labels)) == len(labels)
    assert all(label for _, label in labels)


@per_training_case
def test_the_last_epoch_counts_and_its_record_has_every_term(case: MethodCase) -> None:
    last: list[dict[str, Tensor]] = []
    watch = On(epoch_end=lambda model, **_: last.append(weights(model)))
    result = run(case, trained_model("gcn"), make_data(), callbacks=[watch])
    if not case.chooses:  # no epoch is chosen on figures of the validation, test or forget set
        found = result.model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in last[-1].items() if name in found)
        assert any(not torch.equal(value, last[-2][name]) for name, value in last[-1].items())
    method = built(case)
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    for epoch, record in enumerate(result.history):
        # A method in phases has other terms at other steps.
        objective = as_objective(NLL(on="retain")) if case.method == "retrain" else method.objective()
        if hasattr(method, "objective_at"):
            objective = method.objective_at(epoch)
        if case.method == "continued_training":  # draws forgotten edges to unseen scores
            objective = objective + method.unseen_weight * KLToReference(on="forget")
        terms = {label: weight for (weight, _), label in zip(objective.terms, objective.labels, strict=True)}
        assert set(record) - {"val_loss"} == {"epoch", "step", "loss"} | set(terms)
        assert all(np.isfinite(value) for value in record.values())
        assert record["loss"] == pytest.approx(
            sum(weight * record[label] for label, weight in terms.items()), rel=1e-4, abs=1e-5
        )


@per_training_case
def test_no_epochs_no_change(case: MethodCase) -> None:
    model = trained_model("pyg")
    result = run(case, model, make_data(), epochs=0)
    assert same_weights(result.model, model) != case.from_scratch
    assert result.history == []


@pytest.mark.parametrize(
    "request_",
    [
        gu.ForgetNodes(ratio=0.5),
        gu.ForgetNodes(mask=make_data().y == 3),  # a whole class
        gu.ForgetNodes([63]),  # an isolated node
        gu.ForgetSubgraph([0]),
        gu.ForgetFeatures(ratio=0.3, columns=[1, 2]),
        gu.ForgetEdges(ratio=0.5),
        gu.ForgetNodes([1]) + gu.ForgetEdges(count=3) + gu.ForgetFeatures([4, 5]),
    ],
    ids=["half", "class", "isolated", "subgraph", "features", "edges", "sum"],
)
@pytest.mark.parametrize("case", HEAD_CASES, ids=str)
def test_linear_heads_forget_what_any_request_names(case: MethodCase, request_: gu.Request) -> None:
    model, data = trained_model(case.head), make_data()
    result = run(case, model, data, request_)
    changed = not same_weights(result.model, model)
    assert changed or case.method == "graph_editor"  # of which an isolated test node changes nothing
    assert result.notes.get("certificate", {}).get("status", "certified") in ("certified", "retrained")
    assert result.mode == case.variant
