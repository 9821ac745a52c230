"""The images that an unlearning of concepts reads: the caller's, or samples of the model before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.modes import evaluating
from gunlearn.diffusion.concept_data import ConceptImages, given_images, sampled, split_by
from gunlearn.diffusion.denoising import Denoising
from gunlearn.diffusion.noised_items import DenoisingItems, draw_items
from gunlearn.diffusion.wanted_concepts import WantedConcepts
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.losses import as_objective
from gunlearn.methods.base import Method
from gunlearn.training.collapse import Knowledge, collapse

#: Added to the seed of forgotten images for those of the retained part and of the figures.
_RETAINED, _FIGURES = 1_000_003, 2_000_003


@dataclass(eq=False)
class ImageSupply:
    """Images of concepts, as far as a method reads any.

    Args:
        wanted: the concepts.
        data: the caller's images and a concept for each, or `None`.
        num_images: to sample of each concept.
        figure_images: of each concept on which losses are measured; 0 for none.
        seed: of all draws.
        how: `num_steps` and `guidance` of the sampler.
    """

    wanted: WantedConcepts
    data: Any
    num_images: int
    figure_images: int
    seed: int
    how: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.parts = self.wanted.parts
        self.given = None if self.data is None else given_images(self.parts, self.data, self.seed)

    @cached_property
    def halves(self) -> tuple[ConceptImages, ConceptImages] | None:
        """The caller's images of forgotten concepts, and the others."""
        return None if self.given is None else split_by(self.given, self.wanted.conditions)

    def retained(self, method: Method) -> ConceptImages | None:
        """Return the images to keep; `None` where the method reads none.

        Raises:
            InvalidInputError: it reads some, and none are given and no concepts to keep named.
        """
        if self.halves is not None and self.halves[1].x.size(0):
            return self.halves[1]
        if not reads_images(method, "retain"):
            return None
        if not self.wanted.kept:
            raise InvalidInputError(
                f"Expected 'preserve', concepts to keep, or 'data' for '{method.name}', which reads retained images "
                "(got neither); 'esd' does without"
            )
        return self.drawn(self.parts.encode(self.wanted.kept), self.num_images, self.seed + _RETAINED)

    def forgotten(self, method: Method, turn: Sequence[int], number: int) -> ConceptImages:
        """Return the images to forget in a turn; one empty image of each concept where the method reads none."""
        conditions = self.wanted.conditions[list(turn)]
        if self.halves is not None:
            forget, _ = split_by(self.halves[0], conditions)
            if not forget.x.size(0):
                raise InvalidInputError("Expected images of every concept to forget in 'data' (got none of one)")
            return forget
        if not reads_images(method, "forget"):
            y = conditions.cpu()
            return ConceptImages(torch.zeros(y.size(0), *self.parts.shape), y, "none")
        return self.drawn(conditions, self.num_images, self.seed + number)

    def drawn(self, conditions: Tensor, count: int, seed: int) -> ConceptImages:
        """Return so many images of each condition that the model before unlearning draws."""
        return sampled(self.parts, self.parts.denoiser, conditions, count, seed=seed, **self.how)

    @cached_property
    def looked_at(self) -> dict[str, DenoisingItems]:
        """Noised images of each concept on which losses are measured: the caller's where there are some, else samples.

        The same steps and noise at each look.
        """
        if not self.figure_images:
            return {}
        draw, schedule = torch.Generator().manual_seed(self.seed), self.parts.task().noise_schedule
        images = [self.own_images(condition) for condition in self.all_conditions.split(1)]
        missing = [k for k, one in enumerate(images) if one is None]
        if missing:
            found = self.drawn(self.all_conditions[missing], self.figure_images, self.seed + _FIGURES)
            pieces = zip(found.x.split(self.figure_images), found.y.split(self.figure_images), strict=True)
            for k, (x, y) in zip(missing, pieces, strict=True):
                images[k] = ConceptImages(x, y, found.source)
        items = [draw_items(schedule, one.x, one.y, generator=draw) for one in images if one is not None]
        return dict(zip(self.wanted.all_names, items, strict=True))

    @cached_property
    def all_conditions(self) -> Tensor:
        """Conditions of the forgotten and of the kept concepts, `[num_concepts, ...]`."""
        wanted = self.wanted
        return torch.cat([wanted.conditions, self.parts.encode(wanted.kept)]) if wanted.kept else wanted.conditions

    def own_images(self, condition: Tensor) -> ConceptImages | None:
        """Return the first of the caller's images of a condition `[1, ...]`; `None` where there are none."""
        if self.given is None:
            return None
        own, _ = split_by(self.given, condition)
        count = self.figure_images
        return ConceptImages(own.x[:count], own.y[:count], own.source) if own.x.size(0) else None

    @torch.no_grad()
    def losses(self, model: Any) -> dict[str, float]:
        """Return a model's mean denoising loss by concept."""
        task = self.parts.task()
        with evaluating(model):
            return {
                name: float(-task.decode(model, None, items).log_prob.mean()) for name, items in self.looked_at.items()
            }

    def check_kept(self, before: Mapping[str, float], after: Mapping[str, float], method: str) -> str:
        """Return a sentence, and warn, where a turn ruined the denoiser, as far as losses were measured.

        It did where the mean loss of kept concepts is more than `Denoising.tolerated` times that before, or above that
        of zeros; where none is kept, by the latter alone, of all forgotten ones.

        Raises:
            DivergenceError: a loss is NaN or infinite.
        """
        endless = [name for name, loss in after.items() if not math.isfinite(loss)]
        if endless:
            raise DivergenceError(
                f"Expected finite losses after '{method}' (got {after[endless[0]]} of '{endless[0]}')"
            )
        kept = [name for name in after if name not in self.wanted.names]
        names = kept or list(after)
        if not names:
            return ""
        guess = mean(float(self.looked_at[name].target.float().square().mean()) for name in names)
        known = [Knowledge(mean(losses[name] for name in names), guess) for losses in (before, after)]
        times = Denoising.tolerated if kept else math.inf
        on = "concepts to keep" if kept else "every concept measured"
        return collapse(known[0], known[1], method, False, times, on)

    @property
    def figures_in_words(self) -> str:
        """Say on which images the losses are measured."""
        if self.given is None:
            return f"{self.figure_images} samples of the model before unlearning of each concept"
        said = f"up to {self.figure_images} of the images that were given of each concept"
        named = zip(self.wanted.all_names, self.all_conditions.split(1), strict=True)
        others = ", ".join(name for name, condition in named if self.own_images(condition) is None)
        return f"{said}; of {others}, of which none were given, samples of the model before" if others else said


def reads_images(method: Method, part: str) -> bool:
    """Return whether a method reads the images of a part, `"forget"` or `"retain"`."""
    if part == "forget":
        return getattr(method, "source", "data") != "samples"
    objective = getattr(method, "objective", None)
    return "retained data" in method.needs if objective is None else part in as_objective(objective()).parts
