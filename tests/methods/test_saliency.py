"""SalUn's mask: which weights learn, by brute force, and that all others stay bit by bit under any optimiser."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.methods import D2DGN, GradDiff, SalUn, ScrubR
from gunlearn.training.held_weights import HeldWeights
from tests.methods.cases import fresh_model, make_data, trained_model
from tests.methods.forgetting import class_figures, digits, on_digits, threes

OPTIMIZERS = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "weight_decay": 0.1, "lr": 1e-2},
    "adam with L2": {"optimizer": "adam", "weight_decay": 0.1},
    "lbfgs": {"optimizer": "lbfgs", "lr": 1e-2, "optimizer_options": {"max_iter": 2}},
}


def largest_gradients(share: float) -> list[Tensor]:
    """The mask of the digits' model, by hand."""
    model, data = digits()
    rows = threes().forget_mask
    loss = cross_entropy(model(data.x[rows]), data.y[rows], reduction="sum")
    grads = torch.autograd.grad(loss, list(model.parameters()))
    size = torch.cat([g.abs().flatten() for g in grads])
    least = size.sort(descending=True).values[int(share * size.numel()) - 1]
    return [(g.abs() >= least) & (g != 0) for g in grads]


def moved(result: gu.Result) -> list[Tensor]:
    return [a != b for a, b in zip(result.original.parameters(), result.model.parameters(), strict=True)]


@pytest.mark.parametrize("options", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [None, 64])
def test_masked_weights_stay_bit_by_bit(options: dict[str, Any], batch_size: int | None) -> None:
    result = on_digits(GradDiff(**{"epochs": 3, "saliency": 0.3, "batch_size": batch_size, **options}))
    for change, mask in zip(moved(result), largest_gradients(0.3), strict=True):
        assert not change[~mask].any()
        assert change[mask].float().mean() > 0.9
    assert result.notes["salient"] == pytest.approx(0.3, abs=1e-3)
    assert result.mode == "default saliency 0.3"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_masked_gradients_alone_do_not_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what the authors' code did, whose masked weights decay."""
    monkeypatch.setattr(HeldWeights, "restore", lambda self: None)
    result = on_digits(GradDiff(epochs=3, saliency=0.3, **OPTIMIZERS[name]))
    assert any(change[~mask].any() for change, mask in zip(moved(result), largest_gradients(0.3), strict=True))


def test_weights_without_a_gradient_are_never_salient() -> None:
    """Pixels that are blank in all forgotten images."""
    whole, none = (on_digits(GradDiff(epochs=3, saliency=share)) for share in (1.0, None))
    for change, mask in zip(moved(whole), largest_gradients(1.0), strict=True):
        assert not change[~mask].any()
    assert whole.notes["salient"] < 1
    assert "salient" not in none.notes
    assert any(c[~m].any() for c, m in zip(moved(none), largest_gradients(1.0), strict=True))  # the retained need them


def test_salun_forgets_a_class_with_half_of_the_weights() -> None:
    result = on_digits(SalUn(epochs=60, lr=5e-3))
    found = class_figures(result.model)
    assert found["forget"] > 0.9
    assert found["retain"] < 0.05
    assert not any(c[~m].any() for c, m in zip(moved(result), largest_gradients(0.5), strict=True))


def test_a_rewound_and_a_stopped_run_hold_too(tmp_path: Any) -> None:
    """Candidates, checkpoints and phases pass the same loop."""
    result = on_digits(ScrubR(epochs=12, saliency=0.3, weight_decay=0.1))
    assert not any(c[~m].any() for c, m in zip(moved(result), largest_gradients(0.3), strict=True))


def test_edges_and_nodes() -> None:
    for task, request in (
        ("link_prediction", gu.ForgetEdges(count=12, seed=3)), ("node_classification", gu.ForgetNodes(count=6, seed=1))
    ):  # fmt: skip
        options = {"epochs": 5, "weight_decay": 0.1, "optimizer": "adamw", "saliency": 0.25}
        result = gu.unlearn(trained_model(), make_data(), request, "npo", task, **options)
        change = torch.cat([c.flatten() for c in moved(result)])
        assert change.float().mean() <= result.notes["salient"] <= 0.25
        assert change.any()


def test_what_the_mask_cannot_be_made_of_is_refused() -> None:
    data = make_data()
    with pytest.raises(EmptyForgetSetError, match="saliency"):  # a forgotten edge is no item of this task
        gu.unlearn(
            fresh_model("gcn"), data, gu.ForgetEdges(count=3), "finetune", "node_classification", saliency=0.5, epochs=1
        )
    with pytest.raises(InvalidInputError, match="whose weights are new"):
        D2DGN(saliency=0.5)
    with pytest.raises(InvalidInputError, match="shrink"):
        gu.unlearn(
            fresh_model("gcn"), data, gu.ForgetEdges(count=3), "continued_training", saliency=0.5, shrink=0.9, steps=2
        )


def test_held_weights_by_hand() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    held = HeldWeights([layer.weight], [torch.tensor([[True, False]])])
    layer(torch.ones(3, 2)).sum().backward()
    held.clear_gradients()
    assert layer.weight.grad.tolist() == [[3.0, 0.0]]
    layer.weight.data += 1
    held.restore()
    assert (layer.weight - before).tolist() == [[pytest.approx(1.0), 0.0]]
    assert held.moving_share == 0.5
