"""A small class-conditional diffusion model of handwritten digits, trained in half a minute; tests use it too."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn

from experiments.denoisers.runs import Setting
from gunlearn.diffusion import Denoising, sample
from gunlearn.seed import isolated_rng

CLASSES, NULL, SHAPE = 10, 10, (1, 8, 8)
STEPS = 800
#: Pictures of each class for UA and RA; draws of step and noise for each of the 64 images of the alignment.
PICTURES, DRAWS = 16, 16
GUIDANCE = 1.5


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits of scikit-learn, `[n, 1, 8, 8]` in [-1, 1], and their classes `[n]`."""
    table = load_digits()
    return torch.tensor(table.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(table.target)


def scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """200 steps of a squared-cosine schedule."""
    how = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction_type}
    return DDIMScheduler(num_train_timesteps=200, **how)


def denoising(prediction_type: str = "epsilon", null_rate: float = 0.0) -> Denoising:
    """The task; class 10 is the null condition."""
    return Denoising(scheduler(prediction_type), null=NULL, null_rate=null_rate)


def network(seed: int = 0, channels: tuple[int, int] = (16, 32), attention: bool = False) -> UNet2DModel:
    """A new model of 160,401 weights, or of more."""
    with isolated_rng(seed):
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=CLASSES + 1,
            norm_num_groups=8,
            add_attention=attention,
        )


def large(seed: int = 0) -> UNet2DModel:
    """A new model of 652,449 weights, with attention: the other one of the specification."""
    return network(seed, (32, 64), attention=True)


def setting(steps: int = STEPS, prediction_type: str = "epsilon", smoke: bool = False, **changed: Any) -> Setting:
    """Return what studies need to know; `smoke` draws few pictures."""
    pictures, draws, sampled = (2, 2, 4) if smoke else (PICTURES, DRAWS, 20)
    figures = {
        "per_concept": pictures,
        "guidance": GUIDANCE,
        "num_steps": sampled,
        "num_draws": draws,
    }
    given = {
        "name": "digits",
        "task": denoising(prediction_type),
        "data": digits(),
        "network": network,
        "training": {"steps": steps, "batch_size": 64, "lr": 2e-3},
        "judge": judge()[0],
        "features": ("the judge's", judge()[0].features),
        "figures": figures,
    }
    return Setting(**{**given, **changed})


def trained(
    forgotten: int | None = None,
    seed: int = 0,
    steps: int = STEPS,
    prediction_type: str = "epsilon",
    folder: Path | None = None,
) -> nn.Module:
    """A model trained on all digits, or on all but those of one class, drawn and trained under `seed`."""
    without: Sequence[int] = () if forgotten is None else (forgotten,)
    return setting(steps, prediction_type).trained(seed, without, folder)


class Judge(nn.Module):
    """A small CNN that says which digit an image `[n, 1, 8, 8]` shows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer reads, `[n, 64]`."""
        return self.body[:-1](x)


@cache
def judge() -> tuple[Judge, float]:
    """The classifier, trained on four fifths of the digits, and its accuracy on the others."""
    x, y = digits()
    with isolated_rng(0), torch.enable_grad():
        order = torch.randperm(len(y))
        train, test = order[:1437], order[1437:]
        model = Judge()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(12):
            for rows in train[torch.randperm(len(train))].split(64):
                noisy = x[rows] + 0.1 * torch.randn_like(x[rows])  # images of a sampler are not free of noise
                loss = nn.functional.cross_entropy(model(noisy), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        accuracy = float((model.eval()(x[test]).argmax(1) == y[test]).double().mean())
    return model, accuracy


def drawn(model: nn.Module, classes: Tensor, guidance: float = GUIDANCE, seed: int = 0) -> Tensor:
    """Images `[n, 1, 8, 8]` of classes `[n]` that a model draws, in 20 steps."""
    return sample(model, denoising(), classes, SHAPE, guidance=guidance, seed=seed)


@torch.no_grad()
def accuracies(model: nn.Module, forgotten: int, per_class: int = PICTURES, seed: int = 0) -> tuple[float, float]:
    """UA, the share of images asked for as `forgotten` that the judge reads as another digit, and RA of the others."""
    classes = torch.arange(CLASSES).repeat_interleave(per_class)
    right = judge()[0](drawn(model, classes, seed=seed)).argmax(1) == classes
    return float(1 - right[classes == forgotten].double().mean()), float(right[classes != forgotten].double().mean())
