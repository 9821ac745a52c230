"""A pipeline of diffusers for class-conditional denoisers, of which diffusers has none without an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from gunlearn.errors import InvalidInputError


class ClassConditionalPipeline(DiffusionPipeline):
    """Draw images of classes from a `UNet2DModel` with `num_class_embeds`.

    It is saved and loaded as any pipeline of diffusers; `UNet2DModel.from_pretrained(folder, subfolder="unet")` loads
    the denoiser alone.

    Args:
        unet: called as `unet(x_t, t, class_labels=y)`.
        scheduler: of diffusers.
        null_class: the class of "nothing", for guidance; `None` has none.
        classes: names of the classes, in order: one for each, the null class among them, which needs none if it is the
            last.

    Raises:
        InvalidInputError: another number of names, or one name twice.
    """

    model_cpu_offload_seq = "unet"
    unet: Any
    scheduler: Any
    config: Any
    register_to_config: Any
    register_modules: Any
    progress_bar: Any
    numpy_to_pil: Any

    def __init__(
        self, unet: Any, scheduler: Any, null_class: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if classes is not None:
            _check_names(list(classes), unet.config.get("num_class_embeds"), null_class)
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(null_class=null_class, classes=None if classes is None else list(classes))

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | Tensor,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> Any:
        """Return images of classes `[n]`: tensors `[n, channels, height, width]` in the model's range for `"pt"`.

        `"np"` and `"pil"` give images in [0, 1], channels last. `guidance_scale` above 1 needs `null_class`. Noise is
        drawn from `generator` on the CPU.
        """
        unet, scheduler, null = self.unet, self.scheduler, self.config.null_class
        if guidance_scale != 1 and null is None:
            raise InvalidInputError("Expected a 'null_class' for guidance (got none); use guidance_scale=1")
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        y = torch.as_tensor(class_labels, device=unet.device)
        shape = (y.numel(), unet.config.in_channels, height, width)
        x = torch.randn(shape, generator=generator).to(unet.device, unet.dtype)
        scheduler.set_timesteps(num_inference_steps)
        x = x * scheduler.init_noise_sigma
        for t in self.progress_bar(scheduler.timesteps):
            read = scheduler.scale_model_input(x, t)
            found = unet(read, t, class_labels=y).sample
            if guidance_scale != 1:
                nothing = unet(read, t, class_labels=torch.full_like(y, null)).sample
                found = nothing + guidance_scale * (found - nothing)
            x = scheduler.step(found, t, x).prev_sample
        images: Any = x
        if output_type != "pt":
            images = (x / 2 + 0.5).clamp(0, 1).cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _check_names(names: list[str], count: int | None, null: int | None) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"Expected different names in 'classes' (got {twice[0]!r} twice)")
    fits = {count, count - 1} if count and null == count - 1 else {count}
    if count and len(names) not in fits:
        raise InvalidInputError(f"Expected a name for each of {count} classes in 'classes' (got {len(names)})")
