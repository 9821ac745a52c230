"""What a pipeline of diffusers is made of: its denoiser, and how it reads a concept."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from gunlearn.diffusion.class_pipeline import ClassConditionalPipeline
from gunlearn.diffusion.denoising import Denoising
from gunlearn.diffusion.noise_schedule import NoiseSchedule
from gunlearn.diffusion.text_conditions import embedded_texts
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError

_DENOISERS = ("unet", "transformer")


def open_pipeline(pipeline: Any) -> Any:
    """Return a pipeline from its folder, or the object itself.

    Raises:
        InvalidInputError: no such folder, or one without a pipeline.
        InvalidTypeError: neither a pipeline nor a folder.
    """
    if isinstance(pipeline, DiffusionPipeline):
        return pipeline
    if not isinstance(pipeline, str | Path):
        raise InvalidTypeError(f"Expected a DiffusionPipeline or its folder (got {type(pipeline).__name__})")
    index = Path(pipeline) / "model_index.json"
    if not index.is_file():
        raise InvalidInputError(
            f"Expected the folder of a pipeline, with model_index.json (got {str(pipeline)!r}); a name on the Hub must "
            "be loaded first: DiffusionPipeline.from_pretrained(name)"
        )
    try:
        named = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"Expected a readable model_index.json (got {str(index)!r}: {error})") from error
    kind = ClassConditionalPipeline if named == ClassConditionalPipeline.__name__ else DiffusionPipeline
    try:
        return kind.from_pretrained(str(pipeline), local_files_only=True)
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"Expected a pipeline that diffusers loads (got {str(pipeline)!r}: {str(error)[:200]})"
        ) from error


@dataclass(frozen=True)
class PipelineParts:
    """A pipeline's denoiser and what reads its conditions; see `parts_of`.

    Attributes:
        pipeline: of diffusers.
        component: name of the denoiser, `"unet"` or `"transformer"`.
        kind: of its conditions: `"text"` or `"class"`.
        null: the condition of "nothing"; `None` has none.
    """

    pipeline: Any
    component: str
    kind: str
    null: int | Tensor | None

    @property
    def denoiser(self) -> nn.Module:
        """The pipeline's denoiser."""
        return getattr(self.pipeline, self.component)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the denoiser reads."""
        config: Any = self.denoiser.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def classes(self) -> list[int]:
        """Numbers of the classes without that of "nothing"."""
        config: Any = self.denoiser.config
        count = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0  # DiT counts without it
        return [number for number in range(count) if number != self.null]

    def holding(self, model: nn.Module) -> PipelineParts:
        """Return the parts of a shallow copy of the pipeline with another denoiser."""
        pipeline = copy.copy(self.pipeline)
        setattr(pipeline, self.component, model)
        if isinstance(pipeline, ClassConditionalPipeline):
            pipeline.register_to_config(null_class=self.null)  # where the call said it
        return replace(self, pipeline=pipeline)

    def copied(self) -> PipelineParts:
        """Return the parts of a shallow copy of the pipeline with a denoiser of its own."""
        return self.holding(copy.deepcopy(self.denoiser))

    def task(self, batch_size: int | None = None) -> Denoising:
        """Return the task of the pipeline's denoiser."""
        return Denoising(self.pipeline.scheduler, null=self.null, batch_size=batch_size)

    def encode(self, concepts: Sequence[str | int]) -> Tensor:
        """Return the conditions of concepts: classes `[k]`, or embeddings `[k, num_tokens, dim]`.

        Raises:
            InvalidInputError: a concept that names no class, is no text where the pipeline reads texts, or of which the
                tokenizer knows nothing.
        """
        if self.kind == "text":
            others = [concept for concept in concepts if not isinstance(concept, str)]
            if others:
                raise InvalidInputError(f"Expected texts as concepts of a pipeline of texts (got {others[0]!r})")
            return embedded_texts(self.pipeline, [str(concept) for concept in concepts], named=True)
        return torch.tensor([self._class(concept) for concept in concepts])

    def _class(self, concept: str | int) -> int:
        names, numbers = getattr(self.pipeline.config, "classes", None) or [], self.classes
        number = names.index(concept) if concept in names else concept
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or number not in numbers:
            known = f"one of {names} or " if names else ""
            raise InvalidInputError(
                f"Expected a class, {known}a number from {numbers[0]} to {numbers[-1]} (got {concept!r})"
            )
        return number

    @torch.no_grad()
    def latents(self, images: Tensor, seed: int = 0) -> Tensor:
        """Return what the denoiser reads of images `[n, channels, height, width]` in [-1, 1]: latents where it does.

        Raises:
            InvalidInputError: images of other channels than the autoencoder reads (latents, say), or than a denoiser
                without one.
        """
        vae = getattr(self.pipeline, "vae", None)
        channels = self.shape[0] if vae is None else vae.config.in_channels
        if images.size(1) != channels:
            reader = "denoiser" if vae is None else "autoencoder"
            latents = vae is not None and images.size(1) == self.shape[0]
            hint = "; these may be latents: give the images that they encode" if latents else ""
            raise InvalidInputError(
                f"Expected images of {channels} channels, as the pipeline's {reader} reads them (got "
                f"{tuple(images.shape)}){hint}"
            )
        if vae is None:
            return images
        here = next(vae.parameters())
        draw = torch.Generator(here.device).manual_seed(seed)
        found = [vae.encode(part.to(here)).latent_dist.sample(draw) for part in images.split(16)]
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return ((torch.cat(found) - shift) * vae.config.scaling_factor).to(images.dtype)


def parts_of(pipeline: Any, null: int | None = None) -> PipelineParts:
    """Return the parts of a pipeline that unlearning reads.

    Args:
        pipeline: with `unet` or `transformer`, `scheduler`, and either a tokenizer and a text encoder or a denoiser of
            classes.
        null: the class of "nothing", where the pipeline does not say it.

    Raises:
        UnsupportedModelError: a module is missing, or conditions are of another kind.
        InvalidInputError: a class of "nothing" that the denoiser does not have, or another than the pipeline's own.
        InvalidTypeError: a scheduler that is not supported, see `NoiseSchedule.of`.
    """
    kind = type(pipeline).__name__
    component = next((name for name in _DENOISERS if isinstance(getattr(pipeline, name, None), nn.Module)), None)
    if component is None:
        raise UnsupportedModelError(f"Expected a pipeline with a 'unet' or a 'transformer' (got {kind} without)")
    if getattr(pipeline, "scheduler", None) is None:
        raise UnsupportedModelError(f"Expected a pipeline with a 'scheduler' (got {kind} without)")
    NoiseSchedule.of(pipeline.scheduler)
    config: Any = getattr(getattr(pipeline, component), "config", None)
    if config is None or "in_channels" not in config or "sample_size" not in config:
        raise UnsupportedModelError(
            f"Expected a denoiser of diffusers, whose config has 'in_channels' and 'sample_size' (got "
            f"{type(getattr(pipeline, component)).__name__}); unlearn it by gunlearn.unlearn(model, data, request, "
            "task=Denoising(...))"
        )
    texts = [getattr(pipeline, name, None) is not None for name in ("tokenizer", "text_encoder")]
    if any(texts) and not all(texts):
        missing = ("tokenizer", "text_encoder")[texts.index(False)]
        raise UnsupportedModelError(f"Expected a pipeline with a '{missing}' for text concepts (got {kind} without)")
    if all(texts):
        if getattr(pipeline, "text_encoder_2", None) is not None:
            raise UnsupportedModelError(f"Expected a pipeline of one text encoder (got {kind} with several)")
        if null is not None:
            raise InvalidInputError(f"Expected no 'null' for a pipeline of texts, whose 'nothing' is '' (got {null!r})")
        return PipelineParts(pipeline, component, "text", embedded_texts(pipeline, [""], named=False)[0])
    if not (config.get("num_class_embeds") or config.get("num_embeds_ada_norm")):
        raise UnsupportedModelError(
            f"Expected a pipeline that reads texts or classes, so that concepts can be named (got {kind} without "
            "'text_encoder' and 'num_class_embeds'); forget single images by gunlearn.unlearn(model, data, "
            "ForgetItems(...), task=Denoising(...))"
        )
    own = getattr(pipeline.config, "null_class", None)
    count = config.get("num_class_embeds")
    if not count:  # DiT counts its classes without that of "nothing", the one behind the last
        count = config["num_embeds_ada_norm"] + 1
        own = count - 1 if own is None else own
    chosen = own if null is None else null
    if chosen is not None and (isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < count):
        raise InvalidInputError(
            f"Expected the class of 'nothing' among the denoiser's classes, 0 to {count - 1} (got {chosen!r})"
        )
    if own is not None and chosen != own:
        raise InvalidInputError(
            f"Expected no other class of 'nothing' than the pipeline's own, {own} (got null={null!r}); leave 'null' out"
        )
    return PipelineParts(pipeline, component, "class", chosen)
