"""Paper modes train with the papers' optimisers; the control is the default mode, which takes Adam."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

import gunlearn as gu
from gunlearn.methods.any_task.imu import IMU
from gunlearn.methods.any_task.scrub import Scrub
from gunlearn.methods.graph.cognac import PHASES, Cognac
from gunlearn.methods.graph.megu import MEGU
from gunlearn.training.optimizers import PhasedOptimizer
from tests.methods.cases import make_data, trained_model


class Watch(gu.Callback):
    """Notes the optimiser, and the rate of each step."""

    optimizer: Any
    rates: list[float]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer, self.rates = kwargs["optimizer"], []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])


def watched(method: gu.Method) -> Watch:
    watch = Watch()
    model = trained_model("gcn")
    gu.unlearn(model, make_data(), gu.ForgetNodes(count=4, seed=3), method, "node_classification", callbacks=[watch])
    return watch


@pytest.mark.parametrize(
    ("cls", "mode", "kind", "settings"),
    [
        (IMU, "paper", SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4}),
        (MEGU, "paper", SGD, {"lr": 5e-2, "momentum": 0.0, "weight_decay": 0.0}),
        (Scrub, "paper", Adam, {"lr": 5e-4, "weight_decay": 0.1}),
        (Scrub, "paper_large", SGD, {"lr": 5e-4, "momentum": 0.9, "weight_decay": 5e-4}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_the_papers_optimiser_and_its_settings(cls: type, mode: str, kind: type, settings: dict[str, float]) -> None:
    optimizer = watched(cls(mode=mode, epochs=1)).optimizer
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in settings} == settings
    assert type(watched(cls(epochs=1)).optimizer) is Adam


def test_a_named_optimiser_replaces_the_papers_and_its_options() -> None:
    method = IMU(mode="paper", optimizer="adagrad", epochs=1)
    assert method.optimizer_options is None
    assert type(watched(method).optimizer) is torch.optim.Adagrad
    assert IMU(mode="paper", optimizer_options={"momentum": 0.5}).optimizer_options == {"momentum": 0.5}


def test_scrubs_rate_falls_where_the_authors_epochs_end() -> None:
    rates = watched(Scrub(mode="paper")).rates
    falls = [step for step, (a, b) in enumerate(pairwise(rates), 1) if b < a]
    # Three epochs of 4 + 16 steps, then 16 each: the fifth ends after 92 steps. The rate falls when that step is taken.
    assert [3 * 20 + (epoch - 3) * 16 for epoch in (5, 8, 9)] == [step + 1 for step in falls]
    assert rates[-1] == pytest.approx(5e-7)
    assert len(set(watched(Scrub(epochs=20)).rates)) == 1


def test_each_phase_of_cognac_has_an_optimiser_of_its_own() -> None:
    optimizer = watched(Cognac(mode="paper", epochs=7)).optimizer
    assert isinstance(optimizer, PhasedOptimizer)
    steps = {phase: {int(state["step"]) for state in optimizer.optimizers[phase].state.values()} for phase in PHASES}
    assert steps == {"contrast": {3}, "ascent": {2}, "descent": {2}}
    assert {p: o.param_groups[0]["lr"] for p, o in optimizer.optimizers.items()} == {
        "contrast": 1e-3, "ascent": 2.5e-3, "descent": 1.5e-2,
    }  # fmt: skip
    assert type(watched(Cognac(epochs=7)).optimizer) is Adam
