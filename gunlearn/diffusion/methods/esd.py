"""ESD: erasing concepts from a denoiser by its own predictions (arXiv 2303.07345)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.diffusion.methods.base import DenoiserMethod
from gunlearn.diffusion.noised_items import DenoisingItems, conditions_at, read_rows
from gunlearn.diffusion.replaced import Replaced
from gunlearn.diffusion.sampler import Sampling, first_noise, guided, path
from gunlearn.methods.base import Problem
from gunlearn.tasks.base import Parts


@dataclass(frozen=True)
class ESD(DenoiserMethod):
    r"""Learn to predict, for the forgotten condition, what guidance away from it would predict (arXiv 2303.07345).

    .. math:: \| e_\theta(x_t, c_f) - [e_o(x_t, c_0) - \eta (e_o(x_t, c_f) - e_o(x_t, c_0))] \|^2

    with :math:`e_o` the frozen model and :math:`c_0` the task's null condition. It needs no data: :math:`x_t` are
    states of the frozen model's own sampling with guidance, drawn once, with their targets; of the forgotten items only
    the conditions are read. `retain_weight` above 0 adds the retained items' loss, which the paper does not have.

    Args:
        eta: as in the paper. The authors' present repository writes the target as :math:`e_f - \eta' (e_f - e_0)`, so
            that its :math:`\eta' = 2` is 1 here: :math:`\eta = \eta' - 1`.
        guidance: of the sampling, 3 in the paper.
        sampling_steps: steps of the sampling, all of which give an :math:`x_t`.
        trajectories: number of images sampled.
        source: `"samples"`, or `"data"`: noised forgotten images in place of samples.
        epochs: passes over `trajectories * sampling_steps` noisy images.
    """

    retain_weight: float = 0.0
    eta: float = 1.0
    guidance: float = 3.0
    sampling_steps: int = 20
    trajectories: int = 64
    source: str = "samples"

    name = "esd"
    summary = "predict for the concept what guidance away from it predicts; needs no data"
    paper = "arXiv 2303.07345"
    needs = "reference model"
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "x": {"group": "x"},
        "u": {"group": "u"},
        "strict": {"group": "strict"},
    }

    def __post_init__(self) -> None:
        check_number("eta", self.eta, minimum=0.0)
        check_number("guidance", self.guidance, minimum=0.0)
        check_integer("sampling_steps", self.sampling_steps, minimum=1)
        check_integer("trajectories", self.trajectories, minimum=1)
        check_choice("source", self.source, ("samples", "data"))
        super().__post_init__()

    def replaced(self, problem: Problem, parts: Parts) -> Replaced:
        if self.source == "data":
            return Replaced(parts, lambda items: self.aimed(problem, items))
        return Replaced(parts, pool=self.pool(problem))

    @torch.no_grad()
    def aimed(self, problem: Problem, items: DenoisingItems) -> DenoisingItems:
        """Return items with the targets of the formula above."""
        task: Any = problem.task
        here = next(problem.reference.parameters())
        noisy, t, y = items.noisy.to(here), items.t.to(here.device), on(here, items.y)
        return replace(items, target=guided(task, problem.reference, noisy, t, y, -self.eta).to(items.noisy))

    @torch.no_grad()
    def pool(self, problem: Problem) -> DenoisingItems:
        """Return noisy images of the frozen model's sampling, with their targets."""
        task: Any = problem.task
        y, shape = forgotten_conditions(problem, self.trajectories)
        pieces, draw = [], torch.Generator().manual_seed(problem.seed)
        how = Sampling(self.sampling_steps, self.guidance)
        for rows in torch.arange(y.size(0)).split(self.batch_size or y.size(0)):
            first = first_noise(problem.reference, y[rows], shape, draw)
            for noisy, t, _ in path(problem.reference, task, y[rows], first, how):
                items = DenoisingItems(noisy, t, y[rows].to(noisy.device), torch.zeros_like(noisy))
                pieces.append(self.aimed(problem, items))
        return joined(pieces)


def on(here: Tensor, y: Tensor) -> Tensor:
    """Return conditions on the device of a model's weight, embeddings in its type."""
    return y.to(here) if y.is_floating_point() else y.to(here.device)


def forgotten_conditions(problem: Problem, count: int) -> tuple[Tensor, torch.Size]:
    """Return conditions `[count, ...]` of forgotten items, each item as often as any other, or spread; and a shape.

    The shape is that of an image, of which one is read.
    """
    data, rows = problem.partition.data, problem.partition.forget_mask.nonzero().view(-1)
    y = conditions_at(data, rows[torch.arange(count) * rows.numel() // count])
    return y, read_rows(data, rows[:1])[0].shape[1:]


def joined(pieces: list[DenoisingItems]) -> DenoisingItems:
    """Return the items of several pieces as one."""
    names = ("noisy", "t", "y", "target")
    found: Any = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in names}
    return replace(pieces[0], **found)
