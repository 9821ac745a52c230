"""Images with their conditions, noised anew at each step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gunlearn.diffusion.noise_schedule import NoiseSchedule
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests.ids import checked_masks
from gunlearn.tasks.base import PartItems
from gunlearn.tasks.items.array_parts import ArrayParts
from gunlearn.tasks.items.columns import Column
from gunlearn.tasks.items.tables import ItemTable, as_table

_FEW = 4  # images that tell of their range
_FAR = 30.0  # latents lie within a few standard deviations of 1, images within 1


@dataclass(frozen=True)
class DenoisingItems(PartItems):
    """Noisy images at one step of diffusion each: the same draws of step and noise serve every model that reads them.

    Args:
        noisy: `x_t` `[num_items, channels, height, width]`.
        t: steps `[num_items]`.
        y: conditions: classes `[num_items]`, embeddings `[num_items, num_tokens, dim]`, or none `[num_items, 0]`.
        target: what a denoiser should predict, shaped like `noisy`.
    """

    noisy: Tensor
    t: Tensor
    y: Tensor
    target: Tensor
    fixed: bool = False


def draw_items(
    schedule: NoiseSchedule,
    x0: Tensor,
    y: Tensor,
    timesteps: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> DenoisingItems:
    """Draw a step and a noise for each image.

    Args:
        schedule: says how much noise a step has.
        x0: `[n, channels, height, width]`.
        y: conditions, see `DenoisingItems`.
        timesteps: first step and the one behind the last; `None` for all.
        generator: of the draws, on the CPU; torch's global one by default.
    """
    low, high = timesteps or (0, schedule.num_steps)
    t = torch.randint(low, high, (x0.size(0),), generator=generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    return DenoisingItems(schedule.add_noise(x0, noise, t), t, y, schedule.target(x0, noise, t))


class DenoisingParts(ArrayParts):
    """Parts of a problem over images `data.x` with conditions `data.y`.

    Args:
        task: the `Denoising` task, which draws steps and noise.
        data: the images; the other arguments are those of `ArrayParts`.
    """

    def __init__(self, task: Any, data: Any, *more: Any) -> None:
        super().__init__(data, *more)
        self.task = task

    def sample(self, names: Any) -> dict[str, Any]:
        out = super().sample(names)
        if "retain" in out:
            out["retain"] = self.task.drop_conditions(out["retain"])
        return out

    def items(self, index: Tensor, fixed: bool) -> DenoisingItems:
        """Return the rows `index`, noised anew."""
        x0, y = read_rows(self.data, index)
        return draw_items(self.task.noise_schedule, x0, y, self.task.timesteps)

    def unread(self, name: str, size: int | None) -> list[Any]:
        return []


def read_rows(data: Any, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and conditions of items `[k]`, each loaded once.

    Raises:
        InvalidInputError: a data set's items are no pairs, or hold NaN or infinity.
    """
    if not isinstance(data.x, Column):
        return data.x[index], data.y[index]
    chosen = index.nonzero().view(-1) if index.dtype == torch.bool else index
    items = [data.x.dataset[i] for i in chosen.tolist()]
    if any(not isinstance(item, list | tuple) or len(item) != 2 for item in items):
        raise InvalidInputError("Expected items that are pairs of an image and its condition (got others)")
    x0, y = map(torch.as_tensor, data.x.collate(items))
    check_images(x0)
    check_conditions(y, x0.size(0))
    return x0, y


def conditions_at(data: Any, index: Tensor) -> Tensor:
    """Return the conditions of items `[k]`; the images of a data set are loaded a few at a time."""
    if not isinstance(data.x, Column):
        return data.y[index]
    return torch.cat([read_rows(data, rows)[1] for rows in index.split(256)])


def image_table(data: Any) -> Any:
    """Return images and conditions as a table.

    Args:
        data: images `[num_items, channels, height, width]` alone; a pair of them and conditions; a map-style data set
            of such pairs or a loader of one; or an object with `x` and `y`.

    Raises:
        InvalidTypeError: anything else.
        InvalidInputError: images or conditions that cannot be learned, see `check_images` and `check_conditions`.
    """
    if isinstance(data, Tensor):
        data = ItemTable(lambda table: table.x, x=data, y=data.new_zeros((*data.shape[:1], 0)))
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor) and not isinstance(data[1], Tensor):
        raise InvalidTypeError(
            "Expected conditions as a tensor, classes [num_items] or embeddings [num_items, num_tokens, dim] (got "
            f"{type(data[1]).__name__}); pass the images alone for a model without conditions"
        )
    table = as_table(data)
    if getattr(table.x, "shape", ()):
        checked_masks(table, table.x.shape[0])
    if isinstance(table.x, Tensor):
        check_images(table.x)
        warn_of_range(table.x)
        if isinstance(table.y, Tensor):
            check_conditions(table.y, table.x.size(0))
    return table


def check_images(x0: Tensor) -> None:
    """Refuse images of the wrong shape or type, and those that hold NaN or infinity."""
    if x0.dim() != 4:
        raise InvalidInputError(
            f"Expected images or latents [num_items, channels, height, width] (got {tuple(x0.shape)})"
        )
    if not x0.is_floating_point():
        raise InvalidInputError(f"Expected images in the model's range as floats, mostly -1 to 1 (got {x0.dtype})")
    if x0.numel() and float(x0.abs().nan_to_num(0.0, 0.0, 0.0).max()) > _FAR:
        raise InvalidInputError(
            f"Expected images in the model's range, mostly -1 to 1, or latents (got values up to "
            f"{float(x0.abs().nan_to_num(0.0, 0.0, 0.0).max()):.3g}); bytes become images by x / 127.5 - 1"
        )
    bad = ~torch.isfinite(x0).flatten(1).all(1)
    if bool(bad.any()):
        raise InvalidInputError(
            f"Expected finite images (got NaN or infinity in {int(bad.sum())}, the first is item "
            f"{int(bad.nonzero()[0])})"
        )


def warn_of_range(x0: Tensor) -> None:
    """Warn of four images or more without a negative value: as `ToTensor` gives them, not as denoisers read them."""
    if x0.size(0) >= _FEW and x0.numel() and float(x0.min()) >= 0 and float(x0.max()) > 0:
        warnings.warn(
            f"the images hold no negative value (up to {float(x0.max()):.3g}), as ToTensor "
            "gives them; denoisers are mostly trained on -1 to 1: pass 2 * x - 1 unless yours learned such images",
            UserWarning,
            stacklevel=3,
        )


def check_conditions(y: Tensor, count: int) -> None:
    """Refuse conditions of the wrong shape, and items without one."""
    if y.dim() == 0 or y.size(0) != count:
        raise InvalidInputError(f"Expected one condition for each of {count} images (got {tuple(y.shape)})")
    embeddings = y.is_floating_point()
    if y.dtype == torch.bool or y.dim() not in ((2, 3) if embeddings else (1,)):
        raise InvalidInputError(
            f"Expected conditions as integer classes [num_items] or embeddings [num_items, num_tokens, dim] (got "
            f"{y.dtype} of shape {tuple(y.shape)})"
        )
    missing = ~torch.isfinite(y).flatten(1).all(1) if embeddings else y < 0
    if bool(missing.any()):
        raise InvalidInputError(
            f"Expected a condition for every image (got {int(missing.sum())} without: NaN or a negative class, the "
            f"first is item {int(missing.nonzero()[0])}); leave them out, or give them the null condition"
        )
