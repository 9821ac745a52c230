"""Concept ablation: the forgotten condition comes to mean an anchor (arXiv 2303.13516)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_integer
from gunlearn.diffusion.denoising import Denoising
from gunlearn.diffusion.methods.base import DenoiserMethod
from gunlearn.diffusion.methods.esd import forgotten_conditions
from gunlearn.diffusion.noised_items import DenoisingItems, conditions_at, draw_items, read_rows
from gunlearn.diffusion.replaced import Replaced, predicted_by, same_conditions
from gunlearn.diffusion.sampler import sample
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Problem
from gunlearn.tasks.base import Parts

_MOST = 1024  # anchor images that are kept in memory


@dataclass(frozen=True)
class ConceptAblation(DenoiserMethod):
    r"""Predict for the forgotten condition what the model predicts for an anchor (arXiv 2303.13516).

    .. math:: \| e_\theta(x_t, c_f) - sg\, e_\theta(x_t, c_a) \|^2

    on noised images :math:`x` of the anchor :math:`c_a`: retained ones where the data have some, else samples of the
    model before unlearning (`notes["anchor_images"]` says which).

    Args:
        anchor: the condition that takes the concept's place: a class, or an embedding `[num_tokens, dim]`; `None` takes
            the task's null condition, and any retained images.
        target: `"model"`, the formula above, as the paper's default; or `"noise"`, the anchor image's own noise.
        num_samples: anchor images to sample where the data have none.
        sampling_steps: of the sampler.
    """

    anchor: int | Tensor | None = None
    target: str = "model"
    num_samples: int = 64
    sampling_steps: int = 20

    name = "concept_ablation"
    summary = "predict for the concept what the model predicts for an anchor"
    paper = "arXiv 2303.13516"
    needs = "retained data"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "noise": {"target": "noise"}}

    def __post_init__(self) -> None:
        check_choice("target", self.target, ("model", "noise"))
        check_integer("num_samples", self.num_samples, minimum=1)
        check_integer("sampling_steps", self.sampling_steps, minimum=1)
        super().__post_init__()

    def replaced(self, problem: Problem, parts: Parts) -> Replaced:
        images, anchor, source = self.images(problem)
        task: Any = problem.task

        def swap(items: DenoisingItems) -> DenoisingItems:
            """Return noised anchor images in the place of forgotten items, under the forgotten conditions."""
            chosen = images[torch.randint(images.size(0), (items.num_items,)).to(images.device)]
            drawn = draw_items(task.noise_schedule, chosen, anchor.expand_as(items.y).to(items.y), task.timesteps)
            if self.target == "model":
                drawn = predicted_by(task, problem.model, drawn)
            return replace(drawn, y=items.y)

        return Replaced(parts, swap, told={"anchor_images": f"{images.size(0)} {source}"})

    def images(self, problem: Problem) -> tuple[Tensor, Tensor, str]:
        """Return anchor images `[k, channels, height, width]`, the anchor, and where the images come from."""
        part, task = problem.partition, cast(Denoising, problem.task)
        y, shape = forgotten_conditions(problem, self.num_samples)
        anchor = task.null_like(y)[0] if self.anchor is None else torch.as_tensor(self.anchor).to(y)
        if anchor.shape != y.shape[1:]:
            raise InvalidInputError(
                f"Expected an anchor like the conditions, of shape {tuple(y.shape[1:])} (got {tuple(anchor.shape)})"
            )
        if bool(same_conditions(y, anchor.unsqueeze(0)).any()):
            raise InvalidInputError("Expected an anchor that is not to be forgotten itself (got a forgotten condition)")
        rows = part.retain_mask.nonzero().view(-1)
        if self.anchor is not None and rows.numel():
            rows = rows[same_conditions(conditions_at(part.data, rows), anchor.unsqueeze(0)).view(-1)]
        if rows.numel():
            rows = rows[torch.randperm(rows.numel())[:_MOST].to(rows.device)]
            return read_rows(part.data, rows)[0], anchor, "retained"
        how: dict[str, Any] = {"num_steps": self.sampling_steps, "seed": problem.seed}
        drawn = sample(problem.reference, task, anchor.expand_as(y), shape, **how)
        return drawn.float().to(y.device), anchor, "sampled"
