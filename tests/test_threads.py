"""Threads that call at once get what they would get alone, and leave the random state of others alone."""

import multiprocessing
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gunlearn as gu
import gunlearn.seed
from gunlearn.seed import alone, isolated_rng
from tests.methods.cases import fresh_model, make_data, run, trained_model

DATA = make_data()


def weights(result: gu.Result) -> list[Tensor]:
    return list(result.model.state_dict().values())


#: Each on a model that all threads share.
CALLS: dict[str, Callable[[], list[Tensor]]] = {
    "train": lambda: weights(gu.train(fresh_model("pyg"), DATA, epochs=4, seed=5)),
    "npo": lambda: weights(run("npo", trained_model("pyg"), DATA, seed=5, epochs=4)),
    "gnndelete": lambda: weights(run("gnndelete", trained_model("pyg"), DATA, seed=5, epochs=4)),
    "retrain": lambda: weights(run("retrain", trained_model("pyg"), DATA, seed=5, epochs=4)),
    "influence": lambda: [gu.influence(trained_model("pyg"), DATA, estimator="first_order", seed=5)],
    "evaluate": lambda: [
        torch.tensor([v or 0.0 for k, v in sorted(evaluated().items()) if isinstance(v, float) and k in FIGURES])
    ],
    "split": lambda: [gu.link_split(gu.load("karate"), seed=5).edge_index],
}
FIGURES = ("forget_auc", "retain_auc", "test_auc", "js_forget", "js_retain")


def evaluated() -> Any:
    result = run("npo", trained_model("gcn"), DATA, seed=5, epochs=2)
    return gu.evaluate(result, train=lambda d, s: gu.train(fresh_model("gcn", s), d, epochs=2, seed=s).model)


@pytest.mark.parametrize("name", CALLS)
def test_threads_get_what_they_get_alone(name: str) -> None:
    call, other = CALLS[name], CALLS["npo"]
    alone_, others = call(), other()
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(f) for f in (call, other) * 3]
        found = [future.result() for future in futures]
    for got, expected in zip(found, (alone_, others) * 3, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_calls_inside_calls_do_not_wait_for_themselves() -> None:
    """A callback that unlearns, inside an evaluation that trains, inside a block of the caller."""

    class Nested(gu.Callback):
        runs = 0

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            type(self).runs += 1
            gu.influence(trained_model("gcn"), DATA, estimator="degree")
            run("finetune", trained_model("gcn"), DATA, epochs=1)

    def work() -> None:
        with isolated_rng(1), alone():
            result = run("npo", trained_model("gcn"), DATA, epochs=2, callbacks=[Nested()])
            gu.evaluate(
                result, train=lambda d, s: gu.train(fresh_model("gcn", s), d, epochs=1, callbacks=[Nested()]).model
            )

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert Nested.runs == 4


def test_an_error_frees_the_way() -> None:
    with pytest.raises(gu.errors.GunlearnError):
        gu.unlearn(trained_model("gcn"), DATA, gu.ForgetEdges([(0, 0)]), "npo")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: isolated_rng(0).__enter__() is None).result(10)


def test_who_waits_for_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunlearn.seed, "_PATIENCE", 0.05)
    go, seen = threading.Event(), []

    def work() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with alone():
                seen.extend(caught)

    with alone():
        thread = threading.Thread(target=work)
        thread.start()
        go.wait(0.3)
    thread.join(10)
    assert [w.category for w in seen] == [UserWarning]
    assert "take turns" in str(seen[0].message)


def _draw(queue: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        queue.put(pool.submit(lambda: _one()).result(20))


def _one() -> float:
    with isolated_rng(7):
        return float(torch.rand(()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with alone():
        process = context.Process(target=_draw, args=(queue,))
        process.start()
        assert queue.get(timeout=30) == _one()
    process.join(10)
    assert process.exitcode == 0
