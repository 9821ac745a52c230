"""The task of denoisers: its loss, its draws, what it refuses, and the methods for any task on it."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gunlearn as gu
from gunlearn.diffusion import Denoising, NoiseSchedule
from gunlearn.diffusion.noise_schedule import PREDICTION_TYPES
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import KLToReference
from gunlearn.methods import METHODS, Problem, build_method
from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.any_task.scrub_warnings import direction
from gunlearn.methods.gradient import GradientMethod
from tests.diffusion.tiny_pipelines import SMALL, Oracle
from tests.tasks.cases import Denoiser

BAR = torch.linspace(0.99, 0.01, 20)
FORGET = gu.ForgetItems(index=[0, 3, 6])


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 3


def task(kind: str = "epsilon", **more: Any) -> Denoising:
    return Denoising(NoiseSchedule(BAR, kind), null=3, **more)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_the_loss_of_an_image_is_its_mean_squared_error(kind: str) -> None:
    torch.manual_seed(0)
    model, other = Denoiser(), Denoiser()
    x0, y = images()
    draw = torch.Generator().manual_seed(1)
    items = draw_items(NoiseSchedule(BAR, kind), x0, y, generator=draw)
    draw.manual_seed(1)
    t, noise = torch.randint(0, 20, (12,), generator=draw), torch.randn(x0.shape, generator=draw)
    a, s = (value[t].view(-1, 1, 1, 1) for value in (BAR.sqrt(), (1 - BAR).sqrt()))
    target = {"epsilon": noise, "sample": x0, "v_prediction": a * noise - s * x0}[kind]
    said, theirs = (task(kind).decode(net, None, items) for net in (model, other))
    ours, before = (net(a * x0 + s * noise, t, y) for net in (model, other))
    torch.testing.assert_close(-said.log_prob, (ours - target).square().mean((1, 2, 3)))
    distance = KLToReference(on="forget")({"forget": said}, {"forget": theirs})
    torch.testing.assert_close(distance, (ours - before).square().mean())


def test_both_models_of_a_comparison_read_the_same_draws() -> None:
    """NPO of a model with itself is 2 ln 2 / beta, whatever was drawn; with other draws it would not be."""
    torch.manual_seed(0)
    model = Denoiser()
    result = gu.unlearn(model, images(), FORGET, "npo", task(), steps=1, beta=50.0, lr=1e-9)
    (entry,) = result.history
    value = next(v for k, v in entry.items() if "npo" in k)
    assert value == pytest.approx(2 * math.log(2) / 50, rel=1e-6)


def test_draws_are_new_at_each_step_and_the_same_for_one_seed() -> None:
    model, data = Denoiser(), images()
    runs = [gu.unlearn(model, data, FORGET, "finetune", task(), steps=3, lr=1e-3, seed=s) for s in (0, 0, 1)]
    losses = [[v for e in run.history for k, v in e.items() if "nll" in k] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert len(set(losses[0])) == 3


def oracle_task(kind: str, said: str) -> tuple[nn.Module, Denoising, tuple[Tensor, Tensor]]:
    y = torch.arange(12) % 4
    x0 = (y / 2 - 1).view(-1, 1, 1, 1).expand(12, 1, 4, 4).contiguous()
    return Oracle(NoiseSchedule(BAR, kind), kind), Denoising(NoiseSchedule(BAR, said)), (x0, y)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_scheduler_of_another_prediction_type_is_refused(kind: str) -> None:
    for said in PREDICTION_TYPES:
        model, task, data = oracle_task(kind, said)
        if said == kind:
            assert gu.unlearn(model, data, FORGET, "finetune", task, steps=1, lr=1e-9).history[0]["loss"] < 1e-8
        else:
            with pytest.raises(UnsupportedModelError, match=f"predicts '{kind}'"):
                gu.unlearn(model, data, FORGET, "finetune", task, steps=1)


X, Y = images()
BAD = {
    "NaN": ((X.where(X < 1, torch.nan), Y), "finite images"),
    "whole numbers": ((X.long(), Y), "floats"),
    "no images": ((X.flatten(1), Y), "channels, height, width"),
    "without a label": ((X, Y.where(Y > 0, -1)), "a condition for every image .*first is item 0"),
    "NaN embeddings": ((X, torch.full((12, 2, 3), torch.nan)), "a condition for every image"),
    "no conditions": ((X, None), "pass the images alone"),
    "two labels": ((X, torch.stack([Y, Y], 1)), "integer classes"),
    "too few": ((X, Y[:5]), "one condition for each of 12"),
    "other pairs": (TensorDataset(X.where(X < 1, torch.nan), Y), "finite images"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_and_conditions_are_refused(name: str) -> None:
    data, said = BAD[name]
    with pytest.raises(GunlearnError, match=said):
        gu.unlearn(Denoiser(), data, FORGET, "finetune", task(), steps=1)


def test_bad_tasks_and_models_are_refused() -> None:
    for wrong, said in (({}, "scheduler"), ({"null_rate": 0.1}, "null"), ({"timesteps": (5, 30)}, "timesteps")):
        with pytest.raises(InvalidInputError, match=said):
            Denoising(*([NoiseSchedule(BAR)] if wrong else []), **wrong)
    text = UNet2DConditionModel(
        **SMALL, in_channels=1, out_channels=1, cross_attention_dim=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"class_labels=y.*UNet2DConditionModel"):
        gu.unlearn(text, images(), FORGET, "finetune", task(), steps=1)
    with pytest.raises(UnsupportedModelError, match=r"model\(x_t, t, ...\)"):
        gu.unlearn(nn.Conv2d(1, 1, 1), X, FORGET, "finetune", Denoising(DDPMScheduler()), steps=1)
    with pytest.raises(UnsupportedMethodError, match="Expected a task among"):
        gu.unlearn(Denoiser(), images(), FORGET, "gif", task())


def test_conditions_come_as_classes_embeddings_none_or_in_the_callers_own_way() -> None:
    torch.manual_seed(0)
    text = UNet2DConditionModel(
        **SMALL, in_channels=1, out_channels=2, cross_attention_dim=3, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    embedded = torch.randn(12, 2, 3)
    x0 = torch.randn(12, 1, 8, 8)
    how = {"steps": 1, "lr": 1e-3, "batch_size": 4}
    gu.unlearn(text, (x0, embedded), FORGET, "graddiff", task(), **how)  # the other channel is a learned variance
    own = Denoising(NoiseSchedule(BAR), call=lambda model, x, t, y: model(x) + y.view(-1, 1, 1, 1))
    gu.unlearn(nn.Conv2d(1, 1, 3, padding=1), images(), FORGET, "graddiff", own, **how)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor]:
            return (self.conv(sample),)

    gu.unlearn(Plain(), X, FORGET, "graddiff", Denoising(NoiseSchedule(BAR)), **how)


def test_a_share_of_retained_conditions_is_dropped_and_no_forgotten_one() -> None:
    dropping = task(null_rate=0.5)
    data = dropping.check_data((X.repeat(40, 1, 1, 1), Y.repeat(40)))
    parts = dropping.parts(gu.ForgetItems(index=torch.arange(100)).resolve(data)).sample(["forget", "retain"])
    assert 0.4 < float((parts["retain"].y == 3).double().mean()) < 0.6
    assert not bool((parts["forget"].y == 3).any())


#: Methods over items that a denoiser has no classes, held-out items, training or head for.
NOT_HERE = {"scrub_r": "validation items", "replay": "training"}


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].__module__.startswith("gunlearn.methods.any_task")])
@pytest.mark.filterwarnings("ignore")  # a few steps do harm, or nothing
def test_methods_over_items_run_unchanged(name: str) -> None:
    cls = METHODS[name]
    options: dict[str, Any] = {"steps": 3, "lr": 1e-3} if issubclass(cls, GradientMethod) else {}
    if name == "ssd":
        options = {"alpha": 1.1}
    model, data, how = Denoiser(), images(24), task()
    if cls.requests and "items" not in cls.requests:
        with pytest.raises(UnsupportedMethodError):
            gu.unlearn(model, data, FORGET, name, how)
        return
    if name in NOT_HERE:
        with pytest.raises(GunlearnError, match=NOT_HERE[name]):
            gu.unlearn(model, data, FORGET, name, how)
        return
    request = gu.ForgetItems(mask=data[1] == 1)
    result = gu.unlearn(model, data, request, build_method(name, options, how), how)
    moved = [not torch.equal(a, b) for a, b in zip(result.model.parameters(), model.parameters(), strict=True)]
    assert any(moved) is not (name == "utu"), name  # it keeps the weights


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_an_ascent_without_end_is_called_a_collapse() -> None:
    model, how, data = oracle_task("epsilon", "epsilon")
    with pytest.warns(UserWarning, match="collapsed"):
        result = gu.unlearn(model, data, FORGET, "gradient_ascent", how, steps=60, lr=0.5, max_grad_norm=None)
    assert "collapsed" in result.notes


def test_what_did_not_move_is_not_said_to_have_moved() -> None:
    """Both models of a comparison read the same draws also after the run, and between its looks."""
    model, data = Denoiser(), images(24)
    held = Problem(model, model, gu.ForgetItems(mask=data[1] == 1).resolve(task().check_data(data)), task())
    parts = held.task.parts(held.partition, "retain", model, ("forget",))
    found = direction(held, model, parts, 1.0, None)
    assert found["forget_nll"][0] == found["forget_nll"][1]
    assert max(found["forget_divergence"], Moved.forgotten(held, parts, None).far()) < 1e-9
