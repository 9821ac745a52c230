"""Unlearning for diffusion models of diffusers, by the same door, loop and losses. Extra: `diffusion`.

>>> from gunlearn.diffusion import Denoising
>>> task = Denoising(scheduler=pipeline.scheduler)  # doctest: +SKIP
>>> result = gunlearn.unlearn(pipeline.unet, (x0, y), request, "npo", task, steps=100)  # doctest: +SKIP
"""

from importlib.util import find_spec

from gunlearn.core.lazy import lazy
from gunlearn.errors import MissingExtraError

_MISSING = [name for name in ("diffusers", "peft") if find_spec(name) is None]
if _MISSING:
    raise MissingExtraError(
        f'Expected {", ".join(_MISSING)} for gunlearn.diffusion (not installed); pip install "gunlearn[diffusion]"'
    )

_HOMES = {
    "gunlearn.diffusion.denoiser_adapters": ["add_adapter", "lora_config", "without_adapter"],
    "gunlearn.diffusion.class_pipeline": ["ClassConditionalPipeline"],
    "gunlearn.diffusion.denoising": ["Denoising"],
    "gunlearn.diffusion.diffusion_result": ["DiffusionResult", "check_outputs"],
    "gunlearn.diffusion.noise_schedule": ["NoiseSchedule"],
    "gunlearn.diffusion.noised_items": ["DenoisingItems", "DenoisingParts"],
    "gunlearn.diffusion.pipeline_unlearning": ["unlearn"],
    "gunlearn.diffusion.sampler": ["sample"],
    "gunlearn.diffusion.columns_of_texts": ["TextColumns", "text_columns"],
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
