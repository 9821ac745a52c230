"""Pictures of concepts that a denoiser draws, and what a judge and the training images say of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.diffusion.metrics.concept_attacks import learned_condition, relearning_curve
from gunlearn.diffusion.metrics.memorised import memorised_images
from gunlearn.diffusion.sampler import sample
from gunlearn.metrics.frechet import frechet_distance
from gunlearn.metrics.judged import judged_scores

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising


@dataclass
class ConceptPictures:
    """Asks a model for pictures of concepts, and a judge what they show.

    Args:
        task: how models are called.
        judge: returns logits of images.
        features: name and function of the features of the Fréchet distance, or `None`.
        given: what models take for each concept.
        gone: forgotten concepts.
        near: concepts near to them.
        forgotten: images and their concepts.
        retained: the same of the images to keep.
        number: pictures per concept.
        how: further arguments of `gunlearn.diffusion.sample`.
    """

    task: Denoising
    judge: Callable[[Tensor], Tensor]
    features: tuple[str, Callable[[Tensor], Tensor]] | None
    given: dict[int, Tensor]
    gone: list[int]
    near: list[int]
    forgotten: tuple[Tensor, Tensor]
    retained: tuple[Tensor, Tensor]
    number: int
    how: dict[str, Any]

    def __post_init__(self) -> None:
        x = self.forgotten[0]
        self.shape = (x.size(1), x.size(2), x.size(3))
        self.asked = torch.tensor(list(self.given)).repeat_interleave(self.number)
        self.lost = torch.isin(self.asked, torch.tensor(self.gone))
        self.of_gone = torch.isin(self.forgotten[1], torch.tensor(self.gone))

    @property
    def parts(self) -> dict[str, list[int]]:
        """Forgotten and other concepts by the name of their part."""
        return {"forget": self.gone, "retain": [c for c in self.given if c not in self.gone]}

    def drawn(self, model: nn.Module) -> Tensor:
        """Return pictures of every concept, `[num_pictures, channels, height, width]`."""
        return self.sampled(model, torch.stack([self.given[int(c)] for c in self.asked]))

    def sampled(self, model: nn.Module, y: Tensor) -> Tensor:
        """Return pictures under conditions, on the device of the images that were given."""
        return sample(model, self.task, y, self.shape, **self.how).to(self.forgotten[0].device)

    @torch.no_grad()
    def judged(self, drawn: Tensor) -> dict[str, float | None]:
        """Return what the judge sees in pictures of every concept."""
        scores = judged_scores(self.judge(drawn).argmax(1).cpu(), self.asked, self.gone, self.near)
        row = {key: getattr(scores, key) for key in ("ua", "ira", "nearest", "rest")}
        if self.features is not None and bool((~self.lost).any()):
            ours, real = (self.features[1](x) for x in (drawn[~self.lost], self.retained[0]))
            row["frechet"] = frechet_distance(ours, real)
        return row

    def near_images(self, drawn: Tensor) -> dict[str, float]:
        """Return how near pictures of forgotten concepts lie to their images."""
        return asdict(memorised_images(drawn[self.lost], self.forgotten[0][self.of_gone], self.retained[0]))

    def attacked(self, model: nn.Module, steps: int) -> dict[str, float]:
        """Return the share of forgotten concepts under conditions learned from their images."""
        shares = []
        for concept in self.gone:
            own = self.forgotten[0][self.forgotten[1] == concept]
            start = self.given[concept]
            begin = start if start.is_floating_point() else int(start)
            learner, y = learned_condition(model, self.task, own, begin, steps=steps, seed=self.how["seed"])
            shares.append(self.share_of(learner, y, concept))
        return {"learned_condition": sum(shares) / len(shares)}

    def relearned(self, model: nn.Module, at: Collection[int]) -> dict[str, float]:
        """Return the share of forgotten concepts after steps on their images."""

        def back(other: nn.Module) -> float:
            return sum(self.share_of(other, self.given[c].unsqueeze(0), c) for c in self.gone) / len(self.gone)

        x, labels = (part[self.of_gone] for part in self.forgotten)
        y = torch.stack([self.given[int(c)] for c in labels])
        curve = relearning_curve(model, self.task, x, y, back, at=at, seed=self.how["seed"])
        return {f"relearned_{k}": value for k, value in curve.items()}

    @torch.no_grad()
    def share_of(self, model: nn.Module, y: Tensor, concept: int) -> float:
        """Return the share of pictures drawn under a condition `[1, ...]` in which the judge sees the concept."""
        drawn = self.sampled(model, y.expand(self.number, *y.shape[1:]))
        return float((self.judge(drawn).argmax(1) == concept).double().mean())
