"""All figures of several denoisers in one table, with pictures that they draw from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn

from gunlearn.core.checks import check_integer
from gunlearn.diffusion.metrics.concept_attacks import learned_condition, relearning_curve
from gunlearn.diffusion.metrics.fade_images import ImageAlignment, ImageSampler
from gunlearn.diffusion.metrics.memorised import memorised_images
from gunlearn.diffusion.sampler import sample
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.frechet import frechet_distance
from gunlearn.metrics.judged import judged_scores, mean_confusion, nearest_classes
from gunlearn.metrics.standing import Standing, check_retrained, standings

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising

#: What rows hold, and what it means.
LEGENDS = {
    "ua": "share of pictures asked for a forgotten concept in which the judge sees none",
    "ira": "accuracy on the other concepts",
    "nearest": "accuracy on the concepts nearest to the forgotten ones, by the judge's confusion",
    "rest": "accuracy on all others",
    "frechet": "squared Fréchet distance between drawn and real pictures of the other concepts, on the named features",
    "alignment_forget": "divergence to retrained models both ways at pictures of the forgotten concepts",
    "alignment_retain": "the same at pictures of the others",
    "copies": "share of pictures of forgotten concepts that are much nearer to a forgotten image than to retained ones",
    "learned_condition": "share of the forgotten concept in pictures drawn with a condition learned from its images",
    "relearned": "the same after so many steps on the forgotten images",
}

UNSEEN = (
    "On the forgotten concepts the retrained models differ more from each other than the model before unlearning from "
    "them: nothing taught them what to draw there. Read alignment_forget beside its floor, and retrain more of them."
)


@dataclass
class DenoiserFigures:
    """Figures and pictures of models.

    Args:
        rows: per model `{"model": name, "ua": ..., ...}`; a figure that cannot be had is missing.
        pictures: per model images `[num_concepts, per_concept, channels, height, width]`, from the same noise.
        concepts: the concepts in the pictures' order.
        forgotten: those that were forgotten.
        features: name of the features of the Fréchet distance.
        notes: what to know before the figures are read.
    """

    rows: list[dict[str, Any]]
    pictures: dict[str, Tensor] = field(default_factory=dict)
    concepts: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    features: str = ""
    notes: list[str] = field(default_factory=list)

    def of(self, name: str) -> dict[str, Any]:
        """Return the row of a model; refuse a name that no row has."""
        for row in self.rows:
            if row["model"] == name:
                return row
        raise InvalidInputError(f"Expected one of {[row['model'] for row in self.rows]} (got {name!r})")

    @property
    def names(self) -> list[str]:
        """Names of the figures that some row has, in order."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key != "model"))

    def __rich__(self) -> Table:
        table = Table(caption="\n".join(self.notes) or None)
        for heading in ("", *[row["model"] for row in self.rows]):
            table.add_column(heading, no_wrap=not heading, overflow="fold")
        for name in self.names:
            table.add_row(name, *["-" if row.get(name) is None else f"{row[name]:.3g}" for row in self.rows])
        return table


def evaluate_denoisers(
    models: Mapping[str, nn.Module],
    task: Denoising,
    forgotten: tuple[Tensor, Tensor],
    retained: tuple[Tensor, Tensor],
    judge: Callable[[Tensor], Tensor],
    *,
    conditions: Mapping[int, Tensor] | None = None,
    references: Sequence[nn.Module] = (),
    original: nn.Module | None = None,
    features: tuple[str, Callable[[Tensor], Tensor]] | None = None,
    per_concept: int = 16,
    num_steps: int = 20,
    guidance: float = 1.0,
    clip: float | None = None,
    align: ImageSampler | None = None,
    align_on: Collection[str] = ("forget", "retain"),
    num_draws: int = 8,
    nearest: int = 2,
    attack_steps: int = 0,
    relearn_at: Collection[int] = (),
    seed: int = 0,
) -> DenoiserFigures:
    """Measure denoisers on a forgotten concept and on the others, and compare them with retrained ones.

    Per model: `ua`, `ira`, `nearest`, `rest` (see `gunlearn.metrics.judged_scores`), `frechet`; `alignment_forget` and
    `alignment_retain` with `_floor`, `_gain`, `_gain_low`, `_gain_high`, `_error`; `to_forgotten`, `to_retained`,
    `nearer_forgotten`, `copies`, `recovered` (`memorised_images`); `learned_condition` and `relearned_K`, the shares of
    pictures of a forgotten concept in which the judge sees it after an attack: 0 before, if it was forgotten.

    Args:
        models: models by name. `original` and `references` are added as `"original"` and `"retrained 0"`, ...
        task: how they are called; its `null` is needed for guidance.
        forgotten: images `[n, channels, height, width]` and their concepts `[n]`, numbers of the judge's classes.
        retained: the same of the images to keep. A concept without retained images is forgotten.
        judge: returns logits `[n, num_classes]` of images, which lie on the device of those given here.
        conditions: what the models take for each concept, an embedding `[num_tokens, dim]`; by default its number.
        references: models trained without the forgotten images, under different seeds.
        original: the model before unlearning.
        features: name of a classifier, and a function from images to features `[n, dim]`. Inception's weights do not
            come with this package.
        per_concept: pictures per concept.
        num_steps: of the sampler.
        guidance: of the pictures; the alignment draws with guidance 1.
        clip: see `gunlearn.diffusion.sample`; `None` does what the scheduler does.
        align: how to draw images for the alignment.
        align_on: `"forget"`, `"retain"`, both or none.
        num_draws: of step and noise per image of the alignment.
        nearest: how many concepts count as nearest.
        attack_steps: of `learned_condition`; 0 leaves it out.
        relearn_at: numbers of steps of `relearning_curve`.
        seed: of all draws; the global random state does not change.

    Raises:
        InvalidInputError: no models, no forgotten concept, a concept without condition, one that the judge does not
            know, or a reference with the weights of `original`.
    """
    if not models:
        raise InvalidInputError("Expected models by name (got none)")
    check_integer("per_concept", per_concept, minimum=1)
    check_retrained(references, {} if original is None else {"the original model": original})
    forgotten, retained = ((x, labels.cpu()) for x, labels in (forgotten, retained))
    images, labels = (torch.cat(both) for both in zip(forgotten, retained, strict=True))
    concepts = sorted({*labels.tolist()})
    gone = sorted(set(forgotten[1].tolist()) - set(retained[1].tolist()))
    if not gone:
        raise InvalidInputError("Expected a concept of which no image is retained (got none); these are figures of it")
    with torch.no_grad():
        sure = judge(images).softmax(-1)
    if concepts[-1] >= sure.size(1):
        raise InvalidInputError(f"Expected concepts among the judge's {sure.size(1)} classes (got {concepts[-1]})")
    near = [c for c in nearest_classes(mean_confusion(sure, labels), gone, sure.size(1)) if c in concepts][:nearest]
    how: dict[str, Any] = {"num_steps": num_steps, "guidance": guidance, "clip": clip, "seed": seed}
    given = _conditions(concepts, conditions)
    asking = _Asking(task, judge, features, given, gone, near, forgotten, retained, per_concept, how)
    named = dict(models) | ({} if original is None else {"original": original})
    named |= {f"retrained {k}": model for k, model in enumerate(references)}
    out = DenoiserFigures([], {}, concepts, gone, "" if features is None else features[0])
    for name, model in named.items():
        drawn = asking.drawn(model)
        row = {"model": name, **asking.judged(drawn), **asking.near_images(drawn)}
        row |= asking.attacked(model, attack_steps) if attack_steps else {}
        row |= asking.relearned(model, relearn_at) if relearn_at else {}
        out.rows.append({key: value for key, value in row.items() if value is not None})
        out.pictures[name] = drawn.view(len(concepts), per_concept, *drawn.shape[1:]).cpu()
    compared = {n: m for n, m in named.items() if len(references) > 1 or all(m is not r for r in references)}
    for part, chosen in (("forget", gone), ("retain", [c for c in concepts if c not in gone])):
        if part not in align_on or not chosen or not references:
            continue
        sampler = align or ImageSampler(max(1, 64 // len(chosen)), seed=seed, num_steps=num_steps, clip=clip)
        y = torch.stack([given[c] for c in chosen])
        supplier = ImageAlignment(task, y, asking.shape, sampler, num_draws=num_draws)
        for name, at in standings(compared, references, supplier, original, seed=seed).items():
            out.of(name).update(_alignment(f"alignment_{part}", at))
            if at.floor is not None and at.original is not None and at.original <= at.floor and part == "forget":
                out.notes = [UNSEEN]
    return out


@dataclass
class _Asking:
    """Asks a model for pictures of concepts, and the judge what they show."""

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

    def drawn(self, model: nn.Module) -> Tensor:
        """Return pictures of every concept, `[num_pictures, channels, height, width]`."""
        return self.sampled(model, torch.stack([self.given[int(c)] for c in self.asked]))

    def sampled(self, model: nn.Module, y: Tensor) -> Tensor:
        """Return pictures under conditions, on the device of the images that were given."""
        return sample(model, self.task, y, self.shape, **self.how).to(self.forgotten[0].device)

    @torch.no_grad()
    def judged(self, drawn: Tensor) -> dict[str, float | None]:
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
        shares = []
        for concept in self.gone:
            own = self.forgotten[0][self.forgotten[1] == concept]
            start = self.given[concept]
            begin = start if start.is_floating_point() else int(start)
            learner, y = learned_condition(model, self.task, own, begin, steps=steps, seed=self.how["seed"])
            shares.append(self.share_of(learner, y, concept))
        return {"learned_condition": sum(shares) / len(shares)}

    def relearned(self, model: nn.Module, at: Collection[int]) -> dict[str, float]:
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


def _alignment(stem: str, at: Standing) -> dict[str, float]:
    low, high = at.gain_interval or (None, None)
    error = at.alignments[0].error
    figures = {
        "": at.value,
        "_floor": at.floor,
        "_gain": at.gain,
        "_gain_low": low,
        "_gain_high": high,
        "_error": error,
    }
    return {f"{stem}{name}": value for name, value in figures.items() if value is not None}


def _conditions(concepts: Sequence[int], conditions: Mapping[int, Tensor] | None) -> dict[int, Tensor]:
    if conditions is None:
        return {c: torch.tensor(c) for c in concepts}
    missing = [c for c in concepts if c not in conditions]
    if missing:
        raise InvalidInputError(f"Expected a condition for every concept (got none for {missing})")
    return {c: torch.as_tensor(conditions[c]).detach() for c in concepts}
