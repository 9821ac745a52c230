"""One call from a pipeline and the names of concepts to a pipeline that forgot them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from gunlearn.core.checks import check_choice, check_integer, check_number, check_seed
from gunlearn.diffusion.concept_data import ConceptImages, concept_partition
from gunlearn.diffusion.denoiser_adapters import adapter_for, add_adapter, refuse_adapters, without_wrapper
from gunlearn.diffusion.diffusion_result import DiffusionResult
from gunlearn.diffusion.image_supply import ImageSupply
from gunlearn.diffusion.pipelines import open_pipeline, parts_of
from gunlearn.diffusion.prediction_type import check_prediction_type
from gunlearn.diffusion.wanted_concepts import ORDERS, WantedConcepts
from gunlearn.losses import Loss, Objective
from gunlearn.methods import METHODS
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.methods.published import build_method
from gunlearn.seed import isolated_rng
from gunlearn.training.callbacks import Callback
from gunlearn.training.result import Result, versions

#: Of the sampler, where the call does not say it.
SAMPLING_STEPS, GUIDANCE = 20, 3.0


@isolated_rng()
def unlearn(
    pipeline: Any,
    concepts: Sequence[str | int],
    method: str | Method | Loss | Objective = "esd",
    *,
    peft: Any = "auto",
    preserve: Sequence[str | int] | None = None,
    data: Any = None,
    order: str = "one_by_one",
    rank: int | None = None,
    null: int | None = None,
    ema: Any = None,
    num_images: int = 64,
    sampling_steps: int | None = None,
    guidance: float | None = None,
    figure_images: int = 16,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    **options: Any,
) -> DiffusionResult:
    """Return a copy of a diffusers pipeline that has forgotten concepts; the caller's pipeline stays as it was.

    Example:
        >>> result = gunlearn.diffusion.unlearn("my-pipeline", ["Van Gogh"], "esd:x", steps=200)  # doctest: +SKIP
        >>> result.save("forgot")  # doctest: +SKIP
        >>> pipeline.load_lora_weights("forgot")  # of diffusers  # doctest: +SKIP

    Args:
        pipeline: a `DiffusionPipeline` with a `unet` or `transformer`, or its folder; its conditions are texts (a
            tokenizer and a text encoder) or classes. Its scheduler must be the one that it was trained with.
        concepts: what to forget: texts, or class numbers or names.
        method: a name (`gunlearn methods` lists them; those for items and the task `denoising`), a `Method` or an
            objective.
        peft: `"lora"` trains an adapter alone, which can be taken off again; a configuration of peft likewise; `None`
            changes the weights themselves. `"auto"` is `"lora"` for methods that train, but for a mask (`saliency`).
        preserve: concepts to keep, for methods that read retained images; by default all other classes.
        data: images `[n, channels, height, width]` in [-1, 1] and a concept for each, as a pair: those of `concepts`
            are forgotten, the others retained. Without it images are sampled from the pipeline, as far as the method
            reads any.
        order: `"one_by_one"` forgets one concept after the other, each in a run of its own, and the result tells how
            far earlier ones came back; `"together"` forgets all in one run.
        rank: of the adapter `"lora"`; 8 by default.
        null: the class of "nothing", where a class-conditional pipeline does not say it.
        ema: an `EMAModel` of diffusers: its averages are unlearned, and are the weights of the result; without it the
            pipeline's own weights.
        num_images: images to sample of each concept.
        sampling_steps: of the sampler, and of a named method that samples by itself; 20 by default.
        guidance: likewise, where there is a condition of "nothing"; 3 by default.
        figure_images: images of each concept on which the denoising loss is measured before and after, from `data`
            where it has some, else sampled; 0 for none.
        seed: of the run.
        callbacks: objects with `TrainerCallback` methods.
        progress: show a progress bar.
        **options: of the method.

    Raises:
        InvalidInputError: no such folder, concept or class, a concept that tokenises to nothing, images that are not
            finite or have no concept.
        UnsupportedModelError: a pipeline without the modules, with an adapter in one, or whose scheduler and denoiser
            predict other things.
        UnsupportedMethodError: the method does not support the task, or cannot train an adapter.
        DivergenceError: the run ended in NaN.
    """
    check_seed(seed)
    check_choice("order", order, ORDERS)
    for name, value, least in (("num_images", num_images, 1), ("figure_images", figure_images, 0), ("rank", rank, 1)):
        if value is not None or name != "rank":
            check_integer(name, value, minimum=least)
    said = {"sampling_steps": sampling_steps, "guidance": guidance}
    sampling = {name: value for name, value in said.items() if value is not None}
    check_number("guidance", sampling.get("guidance", GUIDANCE), minimum=0.0)
    options |= _of_the_method(method, sampling)
    base = str(pipeline) if not hasattr(pipeline, "components") else str(pipeline.config.get("_name_or_path") or "")
    opened = open_pipeline(pipeline)
    refuse_adapters(opened)
    parts = parts_of(opened, null).copied()
    if ema is not None:
        ema.copy_to(parts.denoiser.parameters())
    wanted = WantedConcepts.of(parts, concepts, preserve, order)
    how = {"num_steps": sampling.get("sampling_steps", SAMPLING_STEPS), "guidance": sampling.get("guidance", GUIDANCE)}
    images = ImageSupply(wanted, data, num_images, figure_images, seed, how)
    check_prediction_type(parts, wanted.conditions, images.given)
    if isinstance(options.get("anchor"), str):
        options = {**options, "anchor": parts.encode([options["anchor"]])[0]}
    chosen = build_method(method, options, parts.task())
    adapter, model = adapter_for(chosen, peft, rank), parts.denoiser
    if adapter is not None:
        with isolated_rng(seed):  # an adapter's first weights are random
            model = add_adapter(copy.deepcopy(model), adapter)
        if isinstance(method, str):
            chosen = build_method(method, options, parts.task(), model)  # with the rate for adapters
    elif not any(parameter.requires_grad for parameter in model.parameters()):
        model.requires_grad_(True)  # of the copy: an adapter that was taken off leaves all weights frozen
    retain = images.retained(chosen)
    before = images.losses(parts.denoiser)
    results, after = list[Result](), list[Mapping[str, float]]()
    for result in _turns(images, chosen, retain, model, callbacks, progress):
        results.append(result)
        after.append(images.losses(result.model))
        collapsed = "" if "collapsed" in result.notes else images.check_kept(before, after[-1], result.method)
        result.notes |= {"collapsed": collapsed} if collapsed else {}
    model = results[-1].model
    settings = {
        **_settings(wanted, images, results, adapter),
        "preserve": list(map(str, wanted.kept)) if retain is not None or hasattr(chosen, "for_texts") else [],
        "retained": None if retain is None else retain.source,
        "order": order,
        "weights": "the pipeline's own" if ema is None else "moving averages (EMA) in place of the pipeline's own",
        "base": base,
        "seed": seed,
    }
    return DiffusionResult(parts.holding(without_wrapper(model)).pipeline, results, settings, before, after, model)


def _of_the_method(method: Any, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the sampler that a named method has, too; an object has its own."""
    if not isinstance(method, str):
        return {}
    own = {field.name for field in fields(METHODS.variant(method)[0])}
    return {name: value for name, value in sampling.items() if name in own}


def _turns(
    images: ImageSupply,
    method: Method,
    retain: ConceptImages | None,
    model: nn.Module,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Iterator[Result]:
    """Yield the result of each turn, which begins with the model of the turn before."""
    wanted = images.wanted
    methods = [wanted.for_texts(method, turn) for turn in wanted.turns]  # refusals come before any turn
    for number, (turn, own) in enumerate(zip(wanted.turns, methods, strict=True)):
        partition = concept_partition(images.forgotten(method, turn, number), retain, wanted.of_turn(turn))
        result = run_method(own, model, partition, wanted.parts.task(), images.seed + number, callbacks, progress)
        model = result.model
        yield result


def _settings(wanted: WantedConcepts, images: ImageSupply, results: Sequence[Result], adapter: Any) -> dict[str, Any]:
    """Return what the record says of a run that is not the caller's own words."""
    parts = wanted.parts
    return {
        "method": results[0].method,
        "concepts": wanted.names,
        "turns": [wanted.of_turn(turn) for turn in wanted.turns],
        "peft": None if adapter is None else adapter.to_dict(),
        "saved_as": None if adapter is None else "lora" if hasattr(parts.denoiser, "add_adapter") else "peft",
        "component": parts.component,
        "pipeline": type(parts.pipeline).__name__,
        "steps": sum(len(result.history) for result in results),
        "figure_images": images.figure_images,
        "figures_of": images.figures_in_words,
        "sampling": dict(images.how),
        "prediction_type": parts.task().noise_schedule.prediction_type,
        "versions": versions(),
    }
