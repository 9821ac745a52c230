"""An option of an optimised method changes what it does, or is refused: never a third thing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

import gunlearn as gu
from gunlearn.core.options import check_options
from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.methods import METHODS
from gunlearn.methods.gradient import GradientMethod
from tests.methods.cases import make_data, run, same_weights, trained_model
from tests.training.test_batches import TASK, Net, images

pytestmark = pytest.mark.filterwarnings("ignore:.*are both in:UserWarning")


class Change(NamedTuple):
    """A change of one option, beside others that hold before and after."""

    value: Any
    beside: Mapping[str, Any] = MappingProxyType({})
    seen_in: str = "weights"


CHANGES = {
    "epochs": Change(4),
    "lr": Change(3e-2),
    "weight_decay": Change(0.3),
    "max_grad_norm": Change(1e-3, {"optimizer": "sgd"}),  # Adam does not see the scale of a gradient
    "message_graph": Change("full"),
    "eval_every": Change(1, seen_in="history"),
    "until": Change("separated", {"epochs": 30, "lr": 0.03}),
    "retain_samples": Change(9),
    "batch_size": Change(4),
    "sampler": Change("neighbor", {"batch_size": 4}),
    "num_neighbors": Change((5, 5), {"batch_size": 4}),
    "subgraph": Change("always", {"batch_size": 1, "steps": 3}, "notes"),  # exact: the same weights but for rounding
    "steps": Change(4),
    "accumulate": Change(True, {"batch_size": 4}),
    "optimizer": Change("sgd"),
    "optimizer_options": Change({"momentum": 0.9}, {"optimizer": "sgd", "lr": 0.1}),
    "scheduler": Change(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)),
    "saliency": Change(0.3),
    "scheduler_options": Change({"gamma": 0.1}, {"scheduler": "ExponentialLR", "scheduler_options": {"gamma": 0.9}}),
}
# What each method refuses. Of links and nodes it can be told, of an objective and its phases at once.
REFUSED = {
    "graddiff": {"sampler", "num_neighbors"},
    "gradient_ascent": {"message_graph", "until", "retain_samples", "sampler", "num_neighbors", "subgraph"},
    "cognac": {"until", "sampler", "num_neighbors", "scheduler", "scheduler_options"},
}


def unlearn(method: str, **options: Any) -> gu.Result:
    options = {**({} if "steps" in options else {"epochs": 3}), "lr": 1e-2, **options}
    if method == "gradient_ascent":
        torch.manual_seed(0)
        return gu.unlearn(Net(), images(20), gu.ForgetItems(torch.arange(9)), method, TASK, **options)
    more = {"task": "node_classification", "request": gu.ForgetNodes(count=6)} if method == "cognac" else {}
    return run(method, trained_model("gcn"), make_data(), **more, **options)


def test_every_option_is_here() -> None:
    assert set(CHANGES) == set(GradientMethod.options())


@pytest.mark.parametrize("option", CHANGES)
@pytest.mark.parametrize("method", REFUSED)
def test_honoured_or_refused(method: str, option: str) -> None:
    change = CHANGES[option]
    if option in REFUSED[method]:
        with pytest.raises(GunlearnError, match="Expected "):
            unlearn(method, **{**change.beside, option: change.value})
        return
    before, after = unlearn(method, **change.beside), unlearn(method, **{**change.beside, option: change.value})
    if change.seen_in == "notes":
        assert after.notes["graph"] != before.notes["graph"]
    elif change.seen_in == "history":
        assert "val_loss" in after.history[0]
        assert "val_loss" not in before.history[0]
    else:
        assert not same_weights(before.model, after.model)


@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if issubclass(cls, GradientMethod)])
def test_values_of_a_wrong_type_are_refused_by_name(method: str) -> None:
    for option, value in {"epochs": "many", "lr": "1e-3", "steps": "2", "accumulate": 3, "until": 1}.items():
        with pytest.raises(InvalidInputError, match=f"'{option}' of '{method}'"):
            check_options(METHODS[method], {option: value}, method)


def test_none_takes_what_the_mode_says() -> None:
    assert METHODS.build("imu", {"lr": None}).lr == METHODS.build("imu", {}).lr
    with pytest.raises(InvalidInputError, match="'lr' of 'npo' to be a number"):
        METHODS.build("npo", {"lr": None})  # control: no mode, no value
