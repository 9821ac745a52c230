"""Conversions between epsilon, v and x0, against their definitions and diffusers."""

from itertools import product

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from gunlearn.diffusion import NoiseSchedule
from gunlearn.diffusion.noise_schedule import PREDICTION_TYPES
from gunlearn.errors import InvalidInputError, InvalidTypeError


def problem(seed: int = 0) -> tuple[DDPMScheduler, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(12, 3, 4, 4, generator=draw) for _ in range(2))
    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    return scheduler, x0, noise, torch.arange(12) * 8


@pytest.mark.parametrize(("one", "other"), list(product(PREDICTION_TYPES, repeat=2)))
def test_every_kind_of_prediction_becomes_every_other(one: str, other: str) -> None:
    scheduler, x0, noise, t = problem()
    kinds = {kind: NoiseSchedule(scheduler.alphas_cumprod, kind) for kind in PREDICTION_TYPES}
    noisy = scheduler.add_noise(x0, noise, t)
    truth = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, t)}
    for kind, schedule in kinds.items():
        torch.testing.assert_close(schedule.target(x0, noise, t), truth[kind], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kinds[one].add_noise(x0, noise, t), noisy, rtol=1e-5, atol=1e-5)
    found = kinds[one].convert(truth[one].double(), noisy.double(), t, other)
    exact = NoiseSchedule(scheduler.alphas_cumprod.double(), other).target(x0.double(), noise.double(), t)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=2e-5)  # noisy images of diffusers are float32


def test_schedulers_of_one_kind_agree_and_others_are_refused() -> None:
    expected = DDPMScheduler(prediction_type="v_prediction")
    for cls in (DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler):
        schedule = NoiseSchedule.of(cls.from_config(expected.config))
        assert schedule.prediction_type == "v_prediction"
        torch.testing.assert_close(schedule.alphas_cumprod, expected.alphas_cumprod.double())
    assert NoiseSchedule.of(DDIMScheduler(clip_sample_range=2.0)).clip == 2.0
    with pytest.raises(InvalidTypeError, match="alphas_cumprod"):
        NoiseSchedule.of(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InvalidInputError, match="fall within"):
        NoiseSchedule(torch.tensor([0.1, 0.9]))


def test_no_image_is_read_off_noise_that_holds_none() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.0]))
    one = torch.ones(1, 1, 1, 1)
    with pytest.raises(InvalidInputError, match="t=1"):
        schedule.convert(one, one, torch.tensor([1]), "sample")
    velocity = NoiseSchedule(torch.tensor([0.9, 0.0]), "v_prediction")
    assert velocity.convert(-one, one, torch.tensor([1]), "sample") == one
