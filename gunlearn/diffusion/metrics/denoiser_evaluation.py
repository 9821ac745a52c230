"""Several denoisers compared: what they draw, how near they are to retrained ones, what attacks bring back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer
from gunlearn.diffusion.metrics.concept_pictures import ConceptPictures
from gunlearn.diffusion.metrics.denoiser_figures import UNSEEN, DenoiserFigures
from gunlearn.diffusion.metrics.fade_images import ImageAlignment, ImageSampler
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.judged import mean_confusion, nearest_classes
from gunlearn.metrics.standing import Standing, check_retrained, named_models, standings

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising


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
        InvalidInputError: no models, one name for two, no forgotten concept, a concept without condition, one that the
            judge does not know, a reference with the weights of `original`, or an unknown part.
    """
    if not models:
        raise InvalidInputError("Expected models by name (got none)")
    check_integer("per_concept", per_concept, minimum=1)
    unknown = sorted({*align_on} - {"forget", "retain"})
    if unknown:
        raise InvalidInputError(f"Expected 'forget' or 'retain' in 'align_on' (got {unknown})")
    check_retrained(references, {} if original is None else {"the original model": original})
    how: dict[str, Any] = {"num_steps": num_steps, "guidance": guidance, "clip": clip, "seed": seed}
    asking = _asking(task, judge, features, conditions, (forgotten, retained), nearest, per_concept, how)
    named = named_models(models, references, original)
    out = DenoiserFigures([], {}, list(asking.given), asking.gone, "" if features is None else features[0])
    for name, model in named.items():
        _add(out, asking, name, model, attack_steps, relearn_at)
    sound = [named[name] for name in out.pictures]
    references = [model for model in references if any(model is one for one in sound)]
    if original is not None and all(original is not one for one in sound):
        original = None
    compared = {n: named[n] for n in out.pictures if any(named[n] is not r for r in references)}
    for part, chosen in asking.parts.items():
        if part not in align_on or not chosen or not references:
            continue
        sampler = align or ImageSampler(max(1, 64 // len(chosen)), seed=seed, num_steps=num_steps, clip=clip)
        y = torch.stack([asking.given[c] for c in chosen])
        supplier = ImageAlignment(task, y, asking.shape, sampler, num_draws=num_draws)
        for name, at in standings(compared, references, supplier, original, seed=seed).items():
            out.of(name).update(_alignment(f"alignment_{part}", at))
            if at.floor is not None and at.original is not None and at.original <= at.floor and part == "forget":
                out.notes = [UNSEEN]
    return out


def _asking(
    task: Denoising,
    judge: Callable[[Tensor], Tensor],
    features: tuple[str, Callable[[Tensor], Tensor]] | None,
    conditions: Mapping[int, Tensor] | None,
    images: Sequence[tuple[Tensor, Tensor]],
    nearest: int,
    number: int,
    how: dict[str, Any],
) -> ConceptPictures:
    """Return who asks for pictures; refuse data without a forgotten concept, and concepts that the judge lacks."""
    forgotten, retained = ((x, labels.cpu()) for x, labels in images)
    x, labels = (torch.cat(both) for both in zip(forgotten, retained, strict=True))
    concepts = sorted({*labels.tolist()})
    gone = sorted(set(forgotten[1].tolist()) - set(retained[1].tolist()))
    if not gone:
        raise InvalidInputError("Expected a concept of which no image is retained (got none); these are figures of it")
    with torch.no_grad():
        sure = judge(x).softmax(-1)
    if concepts[-1] >= sure.size(1):
        raise InvalidInputError(f"Expected concepts among the judge's {sure.size(1)} classes (got {concepts[-1]})")
    near = [c for c in nearest_classes(mean_confusion(sure, labels), gone, sure.size(1)) if c in concepts][:nearest]
    given = _conditions(concepts, conditions)
    return ConceptPictures(task, judge, features, given, gone, near, forgotten, retained, number, how)


def _add(
    out: DenoiserFigures,
    asking: ConceptPictures,
    name: str,
    model: nn.Module,
    attack_steps: int,
    relearn_at: Collection[int],
) -> None:
    """Add the figures that a model has on its own, and its pictures; one that draws NaN has neither."""
    drawn = asking.drawn(model)
    if not bool(torch.isfinite(drawn).all()):
        out.rows.append({"model": name, "broken": True})
        return
    row = {"model": name, **asking.judged(drawn), **asking.near_images(drawn)}
    row |= asking.attacked(model, attack_steps) if attack_steps else {}
    row |= asking.relearned(model, relearn_at) if relearn_at else {}
    out.rows.append({key: value for key, value in row.items() if value is not None})
    out.pictures[name] = drawn.view(len(asking.given), asking.number, *drawn.shape[1:]).cpu()


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
