"""A small class-conditional diffusion model of Fashion-MNIST, and the classifier that judges its pictures.

The denoiser reads each patch of 2 x 2 pixels as four channels: images `[n, 4, 14, 14]`. Nothing is lost, the noise is
as independent as before, and a step takes a quarter of the time.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import gunlearn as gu
from experiments.denoisers.kept import kept
from experiments.denoisers.runs import Setting
from experiments.fashion_scrub.model import small_resnet
from gunlearn.diffusion import Denoising
from gunlearn.seed import isolated_rng
from gunlearn.tasks.items.tables import ItemTable

CLASSES, NULL, PATCH = 10, 10, 2
#: Images to train denoisers on, drawn once; the judge learns from the other training images.
IMAGES = 10_000
STEPS = 1600
TRAINING = {"steps": STEPS, "batch_size": 64, "lr": 2e-3, "scheduler": partial(CosineAnnealingLR, T_max=STEPS)}
GUIDANCE = 1.5


def images(root: Path | None, smoke: bool = False) -> dict[str, ItemTable]:
    """Return images in [-1, 1] and classes: for denoisers, for the judge, and to test the judge."""
    full = gu.load("FashionMNIST", root) if not smoke else enlarged_digits()
    order = (~full.test_mask).nonzero().view(-1)
    order = order[torch.randperm(order.numel(), generator=torch.Generator().manual_seed(0))]
    first = IMAGES if not smoke else order.numel() // 2
    rows = {"train": order[:first], "judge": order[first:], "test": full.test_mask.nonzero().view(-1)}
    return {name: ItemTable(x=2 * full.x[index] - 1, y=full.y[index]) for name, index in rows.items()}


def enlarged_digits() -> ItemTable:
    """Return scikit-learn's digits as images of 28 x 28, a fifth of them for the test: what the short form runs on."""
    table = gu.item_split(gu.load("digits", images=True), val_ratio=0, test_ratio=0.2, seed=0)
    x = nn.functional.interpolate(table.x.float(), size=28, mode="bilinear").clamp(0, 1)
    return ItemTable(x=x, y=table.y, test_mask=table.test_mask)


def network(seed: int = 0) -> UNet2DModel:
    """Return a new denoiser of 161,268 weights."""
    with isolated_rng(seed):
        return UNet2DModel(
            sample_size=28 // PATCH,
            in_channels=PATCH**2,
            out_channels=PATCH**2,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=CLASSES + 1,
            norm_num_groups=8,
            add_attention=False,
        )


def judge(data: dict[str, ItemTable], epochs: int, folder: Path) -> tuple[nn.Sequential, float]:
    """Return a classifier of images in patches, and its accuracy on test images."""
    own, test = data["judge"], data["test"]
    with isolated_rng(0):
        new = small_resnet(1, CLASSES)
        noisy = own.x + 0.1 * torch.randn_like(own.x)  # images of a sampler are not free of noise

    def make(model: nn.Module) -> nn.Module:
        how: dict[str, Any] = {"epochs": epochs, "batch_size": 100, "lr": 3e-3, "weight_decay": 5e-4}
        return gu.train(model, (noisy, own.y), "image_classification", keep_state=False, **how).model

    model = kept("fashion-judge", (epochs, tuple(noisy.shape)), new, make, folder)
    with torch.no_grad():
        accuracy = float((model(test.x).argmax(1) == test.y).double().mean())
    return nn.Sequential(nn.PixelShuffle(PATCH), *model), accuracy


def in_patches(x: Tensor) -> Tensor:
    """Return images `[n, 1, 28, 28]` as the denoiser reads them, `[n, 4, 14, 14]`."""
    return nn.functional.pixel_unshuffle(x, PATCH)


def setting(root: Path | None, folder: Path, smoke: bool = False, **changed: Any) -> tuple[Setting, float]:
    """Return what the study needs to know, and the judge's accuracy; `smoke` learns and draws little."""
    data = images(root, smoke)
    found, accuracy = judge(data, 1 if smoke else 3, folder)
    pictures, draws, steps = (2, 2, 4) if smoke else (16, 8, 20)
    how = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 200}
    given: dict[str, Any] = {
        "name": "fashion",
        "task": Denoising(DDIMScheduler(**how), null=NULL),
        "data": (in_patches(data["train"].x), data["train"].y),
        "network": network,
        "training": {**TRAINING, "steps": 4} if smoke else TRAINING,
        "judge": found,
        "features": ("the judge's", found[:-1]),
        "figures": {
            "per_concept": pictures,
            "guidance": GUIDANCE,
            "num_steps": steps,
            "num_draws": draws,
        },
    }
    return Setting(**{**given, **changed}), accuracy
