"""A small class-conditional diffusion model of handwritten digits, trained in half a minute; tests use it too.

Trained models are kept in the folder that GUNLEARN_TEST_CACHE names, where it names one.
"""

import copy
import hashlib
import os
from functools import cache
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.diffusion import Denoising, sample
from gunlearn.seed import isolated_rng

CLASSES, NULL, SHAPE = 10, 10, (1, 8, 8)
STEPS = 800


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits of scikit-learn, `[n, 1, 8, 8]` in [-1, 1], and their classes `[n]`."""
    table = load_digits()
    return torch.tensor(table.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(table.target)


def without(forgotten: int) -> tuple[Tensor, Tensor]:
    """Images and classes of all other digits."""
    x, y = digits()
    return x[y != forgotten], y[y != forgotten]


def scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """200 steps of a squared-cosine schedule."""
    how = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction_type}
    return DDIMScheduler(num_train_timesteps=200, **how)


def denoising(prediction_type: str = "epsilon", null_rate: float = 0.0) -> Denoising:
    """The task; class 10 is the null condition."""
    return Denoising(scheduler(prediction_type), null=NULL, null_rate=null_rate)


def network(seed: int = 0, channels: tuple[int, int] = (16, 32)) -> UNet2DModel:
    """A new model of 160,401 weights."""
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
            add_attention=False,
        )


def trained(
    forgotten: int | None = None, seed: int = 0, steps: int = STEPS, prediction_type: str = "epsilon"
) -> UNet2DModel:
    """A copy of the model trained on all digits, or on all but those of one class, drawn and trained under `seed`."""
    return copy.deepcopy(_trained(forgotten, seed, steps, prediction_type))


@cache
def _trained(forgotten: int | None, seed: int, steps: int, prediction_type: str) -> UNet2DModel:
    model = network(seed)
    content = repr((forgotten, seed, steps, prediction_type, torch.__version__, gu.__version__))
    folder = os.environ.get("GUNLEARN_TEST_CACHE")
    path = Path(folder or ".") / f"digits-diffusion-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    if folder and path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    data = digits() if forgotten is None else without(forgotten)
    how = {"steps": steps, "batch_size": 64, "lr": 2e-3, "seed": seed, "keep_state": False}
    model = gu.train(model, data, denoising(prediction_type, null_rate=0.1), **how).model
    if folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, part)
        part.replace(path)
    return model


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


def drawn(model: nn.Module, classes: Tensor, guidance: float = 2.0, seed: int = 0) -> Tensor:
    """Images `[n, 1, 8, 8]` of classes `[n]` that a model draws, in 20 steps."""
    return sample(model, denoising(), classes, SHAPE, guidance=guidance, seed=seed)


@torch.no_grad()
def accuracies(model: nn.Module, forgotten: int, per_class: int = 16, seed: int = 0) -> tuple[float, float]:
    """UA, the share of images asked for as `forgotten` that the judge reads as another digit, and RA of the others."""
    classes = torch.arange(CLASSES).repeat_interleave(per_class)
    right = judge()[0](drawn(model, classes, seed=seed)).argmax(1) == classes
    return float(1 - right[classes == forgotten].double().mean()), float(right[classes != forgotten].double().mean())
