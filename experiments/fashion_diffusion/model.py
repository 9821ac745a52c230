"""A small class-conditional diffusion model of Fashion-MNIST, and the classifier that judges its pictures.

The denoiser reads latents, as Stable Diffusion does: images are padded to 32 x 32, and each patch of 4 x 4 pixels is
kept by its four principal components, `[n, 4, 8, 8]`.
"""

from __future__ import annotations

from dataclasses import dataclass
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

CLASSES, NULL = 10, 10
SIDE, PATCH, KEPT = 28, 4, 4
#: Images to train denoisers on, drawn once; the judge learns from the other training images.
IMAGES = 10_000
STEPS = 1000
#: Chosen on models before any unlearning: of 1, 1.5 and 2 the one with the most pictures that show their class.
GUIDANCE = 2.0


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
    x = nn.functional.interpolate(table.x.float(), size=SIDE, mode="bilinear").clamp(0, 1)
    return ItemTable(x=x, y=table.y, test_mask=table.test_mask)


@dataclass(frozen=True, eq=False)
class Codec:
    """Latents of images and back, by principal components of patches.

    Attributes:
        mean: of patches, `[16]`.
        basis: components, `[16, 4]`.
        scale: latents have a variance of 1 over all components.
    """

    mean: Tensor
    basis: Tensor
    scale: float

    @classmethod
    def of(cls, x: Tensor) -> Codec:
        """Return the codec of images `[n, 1, 28, 28]`."""
        flat = in_patches(x).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((flat - mean).t()))
        basis, largest = vectors[:, -KEPT:].flip(1), values[-KEPT:]
        basis = basis * basis.sum(0).sign().where(basis.sum(0).abs() > 1e-6, 1.0)  # the sign of a vector is anyone's
        return cls(mean.float(), basis.float(), float(largest.mean().sqrt()))

    def encode(self, x: Tensor) -> Tensor:
        """Return latents `[n, 4, 8, 8]` of images `[n, 1, 28, 28]`."""
        return torch.einsum("nphw,pk->nkhw", in_patches(x) - self.mean.view(1, -1, 1, 1), self.basis) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return images `[n, 1, 28, 28]` in [-1, 1] of latents."""
        patches = torch.einsum("nkhw,pk->nphw", latents * self.scale, self.basis) + self.mean.view(1, -1, 1, 1)
        side = slice(PADDING, PADDING + SIDE)
        return nn.functional.pixel_shuffle(patches, PATCH)[..., side, side].clamp(-1, 1)


PADDING = (-SIDE % (2 * PATCH)) // 2


def in_patches(x: Tensor) -> Tensor:
    """Return the patches of images `[n, 1, 28, 28]`, padded to 32 x 32, as channels `[n, 16, 8, 8]`."""
    return nn.functional.pixel_unshuffle(nn.functional.pad(x, (PADDING,) * 4, value=-1.0), PATCH)


def network(seed: int = 0) -> UNet2DModel:
    """Return a new denoiser of 165,556 weights."""
    with isolated_rng(seed):
        return UNet2DModel(
            sample_size=8,
            in_channels=KEPT,
            out_channels=KEPT,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            num_class_embeds=CLASSES + 1,
            norm_num_groups=8,
            attention_head_dim=8,
        )


def judge(data: dict[str, ItemTable], epochs: int, folder: Path) -> tuple[nn.Module, float]:
    """Return a classifier of images, and its accuracy on test images."""
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
    return model, accuracy


def setting(root: Path | None, folder: Path, smoke: bool = False, **changed: Any) -> tuple[Setting, float]:
    """Return what the study needs to know, and the judge's accuracy; `smoke` learns and draws little."""
    data = images(root, smoke)
    found, accuracy = judge(data, 1 if smoke else 3, folder)
    codec, steps = Codec.of(data["train"].x), 4 if smoke else STEPS
    pictures, draws, sampled = (2, 2, 4) if smoke else (16, 8, 20)
    how: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    # Velocities: trained as long on the noise itself, the same network draws hardly any garment.
    scheduler = DDIMScheduler(num_train_timesteps=200, prediction_type="v_prediction", **how)
    given: dict[str, Any] = {
        "name": "fashion",
        "task": Denoising(scheduler, null=NULL),
        "data": (codec.encode(data["train"].x), data["train"].y),
        "network": network,
        "training": {
            "steps": steps, "batch_size": 64, "lr": 2e-3, "scheduler": partial(CosineAnnealingLR, T_max=steps)
        },
        "judge": lambda latents: found(codec.decode(latents)),
        "features": ("the judge's", lambda latents: found[:-1](codec.decode(latents))),
        "figures": {"per_concept": pictures, "guidance": GUIDANCE, "num_steps": sampled, "num_draws": draws},
    }  # fmt: skip
    return Setting(**{**given, **changed}), accuracy
