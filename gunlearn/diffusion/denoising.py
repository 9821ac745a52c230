"""The task of denoisers: which noise is in this image?"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_number
from gunlearn.diffusion.noise_schedule import NoiseSchedule
from gunlearn.diffusion.noised_items import (
    DenoisingItems,
    DenoisingParts,
    draw_items,
    image_table,
    read_rows,
    warn_of_range,
)
from gunlearn.diffusion.prediction_kinds import refuse_another_kind, unexplained
from gunlearn.diffusion.replaced import pseudo_conditions
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.requests.ids import trainable_mask
from gunlearn.tasks.base import Parts, Task, View
from gunlearn.tasks.calling import own_words
from gunlearn.tasks.items.columns import Column

_TRIED = 16  # items that the trial pass reads


class Denoising(Task):
    r"""Each row of `data.x` is an image (or latents) with the condition `data.y`; the model predicts its noise.

    The loss of an item is the mean squared error over channels and pixels, in float32, at one random step of diffusion
    and with one random noise per item and step of training. So `log_prob` is minus that error, `NLL` is the usual
    training loss, and NPO is Diffusion-DPO's losing branch (`beta` is in units of one over the error: hundreds, not
    0.1). Both models of a comparison read the same draws. `logits` are means of normal distributions such that the
    divergence of two models is the mean squared difference of their predictions.

    The model is called as `model(x_t, t, class_labels=y)` for integer conditions `[num_items]`, as `model(x_t, t,
    encoder_hidden_states=y)` for embeddings `[num_items, num_tokens, dim]`, and as `model(x_t, t)` without; it returns
    a tensor, or an object with `sample`. Further channels of its output (a learned variance) are not read.

    Args:
        scheduler: of diffusers, whose `alphas_cumprod` and `prediction_type` hold; or a `NoiseSchedule`.
        null: the condition of "nothing", for methods and training that need one: a class, or an embedding
            `[num_tokens, dim]`.
        null_rate: share of retained items that are read with the null condition instead of their own, so that guidance
            without a classifier keeps working; forgotten items keep theirs.
        batch_size: number of retained items per step; `None` takes all.
        timesteps: first step of diffusion to draw, and the one behind the last; `None` for all.
        call: `call(model, x_t, t, y)` returns the prediction, for models called otherwise.

    Raises:
        InvalidInputError: no scheduler, or steps outside of it; a rate outside [0, 1), or without a null condition.
        InvalidTypeError: a scheduler without `alphas_cumprod`.

    Example:
        >>> import torch
        >>> from gunlearn.diffusion import Denoising, NoiseSchedule
        >>> Denoising(scheduler=NoiseSchedule(torch.linspace(1, 0.01, 50))).noise_schedule
        NoiseSchedule(50 steps, 'epsilon')
    """

    name = "denoising"
    summary = "which noise is in this image?"
    requests: ClassVar[tuple[str, ...]] = ("items",)

    def __init__(
        self,
        scheduler: Any = None,
        *,
        null: int | Tensor | None = None,
        null_rate: float = 0.0,
        batch_size: int | None = None,
        timesteps: tuple[int, int] | None = None,
        call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if scheduler is None:
            raise InvalidInputError(
                "Expected the scheduler that the model was trained with (got none); pass "
                "task=gunlearn.diffusion.Denoising(scheduler=pipeline.scheduler)"
            )
        self.noise_schedule = NoiseSchedule.of(scheduler)
        check_number("null_rate", null_rate, minimum=0.0)
        if null_rate >= 1 or (null_rate and null is None):
            raise InvalidInputError(
                f"Expected 'null_rate' below 1, and beside it 'null' (got {null_rate:g} and null={null!r})"
            )
        steps = self.noise_schedule.num_steps
        if timesteps is not None and not 0 <= timesteps[0] < timesteps[1] <= steps:
            raise InvalidInputError(f"Expected 'timesteps' (first, end) within 0 and {steps} (got {timesteps})")
        self.null = null if null is None or isinstance(null, int) else torch.as_tensor(null).detach()
        self.null_rate, self.batch_size, self.timesteps, self.own_call = null_rate, batch_size, timesteps, call

    def denoise(self, model: nn.Module, noisy: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return a model's prediction, shaped like `noisy` `[n, channels, height, width]`, for conditions `y`.

        Raises:
            UnsupportedModelError: the model cannot be called so, or returns another shape.
        """
        with own_words(model, None, lambda: (_call_in_words(y), "a model called so, or Denoising(call=...)")):
            if self.own_call is not None:
                found = self.own_call(model, noisy, t, y)
            elif y.is_floating_point():
                found = model(noisy, t, **({"encoder_hidden_states": y} if y.size(-1) else {}))
            else:
                found = model(noisy, t, class_labels=y)
        found = found if isinstance(found, Tensor) else getattr(found, "sample", found)
        found = found[0] if isinstance(found, tuple) else found
        channels = noisy.size(1)
        if isinstance(found, Tensor) and found.dim() == noisy.dim() and found.size(1) == 2 * channels:
            found = found[:, :channels]  # the other half is a learned variance
        if not isinstance(found, Tensor) or found.shape != noisy.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UnsupportedModelError(f"Expected a prediction of shape {tuple(noisy.shape)} (got {got})")
        return found

    def decode(self, model: nn.Module, outputs: None, items: DenoisingItems) -> Prediction:
        if not items.num_items:
            nothing = items.noisy.new_zeros(0)
            return Prediction(log_prob=nothing, logits=items.noisy.flatten(1), gaussian=True)
        here = next(model.parameters())
        noisy, t = items.noisy.to(here.device, here.dtype), items.t.to(here.device)
        y = items.y.to(here.device)
        found = self.denoise(model, noisy, t, y.to(here.dtype) if y.is_floating_point() else y).float()
        unit = math.sqrt(2 / found[0].numel())
        error = (found - items.target.to(here.device).float()).flatten(1)
        return Prediction(log_prob=-error.square().mean(1), logits=unit * found.flatten(1), gaussian=True)

    def null_like(self, y: Tensor) -> Tensor:
        """Return the null condition for each of the conditions `y`.

        Raises:
            InvalidInputError: the task has none, or one of another shape.
        """
        if self.null is None:
            raise InvalidInputError(
                "Expected the condition of 'nothing' (got none); give its class as null= of gunlearn.diffusion.unlearn "
                "(--null-class), or Denoising(..., null=) a class or the embedding of an empty text"
            )
        null = torch.as_tensor(self.null).to(y)
        if null.shape != y.shape[1:]:
            raise InvalidInputError(
                f"Expected a null condition of shape {tuple(y.shape[1:])} (got {tuple(null.shape)})"
            )
        return null.expand_as(y)

    def drop_conditions(self, items: DenoisingItems) -> DenoisingItems:
        """Return items of which the share `null_rate` has the null condition."""
        if not self.null_rate:
            return items
        drop = (torch.rand(items.num_items) < self.null_rate).to(items.y.device)
        return replace(
            items, y=torch.where(drop.view(-1, *(1,) * (items.y.dim() - 1)), self.null_like(items.y), items.y)
        )

    relabels: ClassVar[bool] = True

    def relabelled(self, parts: Parts, model: nn.Module) -> Parts:
        """Return parts whose forgotten items have the model's own prediction under a retained condition as target.

        One is drawn for each distinct forgotten condition.
        """
        return pseudo_conditions(self, parts, model)

    def make_parts(self, view: View) -> DenoisingParts:
        part = view.partition
        return DenoisingParts(self, part.data, part.forget_mask, part.retain_mask, {"retain": self.batch_size})

    def training_parts(self, data: Any) -> DenoisingParts:
        return DenoisingParts(self, data, None, self._train(data), {"retain": self.batch_size})

    def validation_items(self, data: Any) -> DenoisingItems | None:
        """Return held-out items, the same noise at each call."""
        return self.held_out_items(data, "val")

    def held_out_items(self, data: Any, part: str) -> DenoisingItems | None:
        """Return held-out items of a part, the same noise at each call."""
        mask = f"{part}_mask"
        return self._fixed(data, data[mask].nonzero().view(-1)) if mask in data else None

    def trial_items(self, data: Any) -> DenoisingItems | None:
        """Return the first training items, the same noise at each call."""
        index = self._train(data).nonzero().view(-1)[:_TRIED]
        return self._fixed(data, index) if index.numel() else None

    def check_data(self, data: Any) -> Any:
        """Return the images as a table; see `image_table`."""
        return image_table(data)

    def check_model(self, model: nn.Module) -> None:
        if self.own_call is not None:
            return
        forward = getattr(model, "_orig_mod", model).forward
        try:
            names = list(inspect.signature(forward).parameters)
        except (TypeError, ValueError):
            return
        if len(names) < 2 and not {"args", "kwargs"} & set(names):
            raise UnsupportedModelError(
                f"Expected a denoiser called as model(x_t, t, ...) (got {type(model).__name__}, called with "
                f"{', '.join(names) or 'nothing'}); pass Denoising(call=...)"
            )

    def check_trial(self, model: nn.Module, data: Any, outputs: Any) -> None:
        """Refuse a model that predicts something else than the scheduler says."""
        items = self.trial_items(data)
        if items is None:
            return
        index = self._train(data).nonzero().view(-1)[:_TRIED]
        x0, _ = read_rows(data, index)
        if isinstance(data.x, Column):  # a tensor was looked at as a whole
            warn_of_range(x0)
        found = self.denoise_items(model, items).cpu()
        at = x0.cpu(), items.noisy.cpu(), items.t.cpu(), found
        refuse_another_kind(unexplained(self.noise_schedule, *at), self.noise_schedule.prediction_type)

    def denoise_items(self, model: nn.Module, items: DenoisingItems) -> Tensor:
        """Return a model's predictions of items `[num_items, channels, height, width]`, in float32."""
        found = self.decode(model, None, items).logits
        assert found is not None
        return (found / math.sqrt(2 / max(found.size(1), 1))).view(items.noisy.shape)

    #: A trained denoiser's loss is a small share of a guess's: it draws noise long before it knows nothing.
    tolerated: ClassVar[float | None] = 4.0

    def guess(self, prediction: Prediction, items: DenoisingItems) -> float:
        """Return the loss of a model that predicts zeros."""
        return float(items.target.float().square().mean())

    def _train(self, data: Any) -> Tensor:
        return trainable_mask(data, data.x.shape[0], getattr(data.x, "device", "cpu"))

    def _fixed(self, data: Any, index: Tensor) -> DenoisingItems:
        items = draw_items(
            self.noise_schedule, *read_rows(data, index), self.timesteps, torch.Generator().manual_seed(0)
        )
        return replace(items, fixed=True)


def _call_in_words(y: Tensor) -> str:
    if not y.is_floating_point():
        return f"model(x_t, t, class_labels=y) with classes y {list(y.shape)}"
    if y.size(-1):
        return f"model(x_t, t, encoder_hidden_states=y) with embeddings y {list(y.shape)}"
    return "model(x_t, t), without conditions,"
