"""One call from a pipeline and the names of concepts to a pipeline that forgot them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice, check_integer, check_number, check_seed
from gunlearn.diffusion.concept_data import ConceptImages, concept_partition, given_images, sampled, split_by
from gunlearn.diffusion.denoiser_adapters import add_adapter, lora_config, without_wrapper
from gunlearn.diffusion.diffusion_result import DiffusionResult
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.diffusion.pipelines import PipelineParts, check_prediction_type, open_pipeline, parts_of
from gunlearn.diffusion.replaced import same_conditions
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.published import build_method
from gunlearn.seed import isolated_rng
from gunlearn.training.callbacks import Callback
from gunlearn.training.result import Result, versions

_ORDERS = ("one_by_one", "together")


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
    rank: int = 8,
    null: int | None = None,
    ema: Any = None,
    num_images: int = 64,
    sampling_steps: int = 20,
    guidance: float = 3.0,
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
        rank: of the adapter.
        null: the class of "nothing", where a class-conditional pipeline does not say it.
        ema: an `EMAModel` of diffusers: its averages are unlearned, and are the weights of the result; without it the
            pipeline's own weights.
        num_images: images to sample of each concept.
        sampling_steps: of the sampler.
        guidance: of the sampler, where there is a condition of "nothing".
        figure_images: images of each concept on which the denoising loss is measured before and after; 0 for none.
        seed: of the run.
        callbacks: objects with `TrainerCallback` methods.
        progress: show a progress bar.
        **options: of the method.

    Raises:
        InvalidInputError: no such folder, concept or class, a concept that tokenises to nothing, images that are not
            finite or have no concept.
        UnsupportedModelError: a pipeline without the modules, or whose scheduler and denoiser predict other things.
        UnsupportedMethodError: the method does not support the task, or cannot train an adapter.
        DivergenceError: the run ended in NaN.
    """
    check_seed(seed)
    check_choice("order", order, _ORDERS)
    for name, value, least in (("num_images", num_images, 1), ("figure_images", figure_images, 0), ("rank", rank, 1)):
        check_integer(name, value, minimum=least)
    check_number("guidance", guidance, minimum=0.0)
    base = str(pipeline) if not hasattr(pipeline, "components") else str(pipeline.config.get("_name_or_path") or "")
    parts = parts_of(open_pipeline(pipeline), null)
    names = _names("concepts", concepts)
    conditions = parts.encode(concepts)
    if len(conditions.unique(dim=0)) < len(names):
        raise InvalidInputError(f"Expected different concepts (got {names})")
    kept_names = _kept(parts, conditions, preserve)
    model = copy.deepcopy(parts.denoiser)
    if ema is not None:
        ema.copy_to(model.parameters())
    parts = _with(parts, model)
    check_prediction_type(parts, conditions)
    original = parts.denoiser
    if isinstance(options.get("anchor"), str):
        options = {**options, "anchor": parts.encode([options["anchor"]])[0]}
    task = parts.task()
    chosen = build_method(method, options, task)
    adapter = _adapter(chosen, peft, rank)
    if adapter is not None:
        model = add_adapter(copy.deepcopy(model), adapter)
        if isinstance(method, str):
            chosen = build_method(method, options, task, model)  # with the rate for adapters

    how = {"num_steps": sampling_steps, "guidance": guidance}
    given = None if data is None else split_by(given_images(parts, data, seed), conditions)
    retain = _retained(parts, original, chosen, kept_names, given, num_images, seed, how)
    looked_at = _figure_images(parts, original, names, conditions, kept_names, figure_images, seed, how)
    before = _losses(task, original, looked_at)
    turns = [[k] for k in range(len(names))] if order == "one_by_one" else [list(range(len(names)))]
    results: list[Result] = []
    after: list[Mapping[str, float]] = []
    methods = [_for_texts(chosen, parts, names, turn, kept_names) for turn in turns]
    for number, turn in enumerate(turns):
        wanted = conditions[turn]
        forget = _forgotten(parts, original, chosen, wanted, given, num_images, seed + number, how)
        partition = concept_partition(forget, retain, [names[k] for k in turn])
        result = run_method(methods[number], model, partition, task, seed + number, callbacks, progress)
        model = result.model
        results.append(result)
        after.append(_losses(task, model, looked_at))
    settings = {
        "method": results[0].method,
        "concepts": names,
        "turns": [[names[k] for k in turn] for turn in turns],
        "preserve": [str(name) for name in kept_names] if retain is not None or hasattr(chosen, "for_texts") else [],
        "retained": None if retain is None else retain.source,
        "order": order,
        "peft": None if adapter is None else adapter.to_dict(),
        "saved_as": None if adapter is None else "lora" if hasattr(original, "add_adapter") else "peft",
        "component": parts.component,
        "weights": "the pipeline's own" if ema is None else "moving averages (EMA) in place of the pipeline's own",
        "pipeline": type(parts.pipeline).__name__,
        "base": base,
        "steps": sum(len(result.history) for result in results),
        "figure_images": figure_images,
        "sampling": how,
        "prediction_type": task.noise_schedule.prediction_type,
        "seed": seed,
        "versions": versions(),
    }
    done = _with(parts, without_wrapper(model)).pipeline
    return DiffusionResult(done, results, settings, before, after, model)


def _names(argument: str, concepts: Any) -> list[str]:
    if isinstance(concepts, str | int) or not isinstance(concepts, Sequence) or not len(concepts):
        raise InvalidInputError(f"Expected '{argument}' as a list of at least one text or class (got {concepts!r})")
    others = [c for c in concepts if isinstance(c, bool) or not isinstance(c, str | int)]
    if others:
        raise InvalidInputError(f"Expected texts or classes in '{argument}' (got {others[0]!r})")
    return [str(concept) for concept in concepts]


def _with(parts: PipelineParts, model: nn.Module) -> PipelineParts:
    """Return the parts of a shallow copy of the pipeline with another denoiser."""
    pipeline = copy.copy(parts.pipeline)
    setattr(pipeline, parts.component, model)
    return PipelineParts(pipeline, parts.component, parts.kind, parts.null)


def _kept(parts: PipelineParts, conditions: Tensor, preserve: Sequence[str | int] | None) -> list[str | int]:
    """Return the concepts to keep."""
    if preserve is not None:
        _names("preserve", preserve)
        both = [name for name in preserve if bool(same_conditions(conditions, parts.encode([name])).any())]
        if both:
            raise InvalidInputError(f"Expected concepts to keep that are not forgotten (got {both[0]!r} in both)")
        return list(preserve)
    if parts.kind == "text":
        return []
    forgotten = set(conditions.tolist())
    return [number for number in range(parts.num_classes) if number not in forgotten]


def _for_texts(
    method: Method, parts: PipelineParts, names: list[str], turn: list[int], kept: list[str | int]
) -> Method:
    """Return the method for the texts of a turn, which keeps what earlier turns did, where it edits texts."""
    for_texts = getattr(method, "for_texts", None)
    if for_texts is None:
        return method
    return for_texts(parts.pipeline, [names[k] for k in turn], [*map(str, kept), *names[: turn[0]]])


def _adapter(method: Method, peft: Any, rank: int) -> Any:
    """Return the adapter's configuration; `None` trains the weights themselves."""
    trains, masked = isinstance(method, GradientMethod), getattr(method, "saliency", None) is not None
    if peft is None or (peft == "auto" and (masked or not trains)):
        return None
    if masked:
        raise UnsupportedMethodError(
            f"Expected peft=None for 'saliency' of '{method.name}', a mask of the model's own weights (got {peft!r}): "
            "half of an adapter has no gradient at first, and would never learn"
        )
    if not trains:
        raise UnsupportedMethodError(
            f"Expected peft=None for '{method.name}', which changes the weights without training (got {peft!r})"
        )
    if isinstance(peft, str):
        check_choice("peft", peft, ("auto", "lora"))
        return lora_config(rank, getattr(method, "group", "full"))
    return peft


def _reads(method: Method, part: str) -> bool:
    """Return whether a method reads the images of a part."""
    if part == "forget":
        return getattr(method, "source", "data") != "samples"
    objective = getattr(method, "objective", None)
    return "retained data" in method.needs if objective is None else part in as_objective(objective()).parts


def _retained(
    parts: PipelineParts,
    original: nn.Module,
    method: Method,
    names: list[str | int],
    given: tuple[ConceptImages, ConceptImages] | None,
    num_images: int,
    seed: int,
    how: Mapping[str, Any],
) -> ConceptImages | None:
    """Return the images to keep; `None` where the method reads none."""
    if given is not None and given[1].x.size(0):
        return given[1]
    if not _reads(method, "retain"):
        return None
    if not names:
        raise InvalidInputError(
            f"Expected 'preserve', concepts to keep, or 'data' for '{method.name}', which reads retained images (got "
            "neither); 'esd' does without"
        )
    return sampled(parts, original, parts.encode(names), num_images, seed=seed + 1_000_003, **how)


def _forgotten(
    parts: PipelineParts,
    original: nn.Module,
    method: Method,
    conditions: Tensor,
    given: tuple[ConceptImages, ConceptImages] | None,
    num_images: int,
    seed: int,
    how: Mapping[str, Any],
) -> ConceptImages:
    """Return the images to forget; one empty image of each concept where the method reads none."""
    if given is not None:
        forget, _ = split_by(given[0], conditions)
        if not forget.x.size(0):
            raise InvalidInputError("Expected images of every concept to forget in 'data' (got none of one)")
        return forget
    if not _reads(method, "forget"):
        y = conditions.cpu()
        return ConceptImages(torch.zeros(y.size(0), *parts.shape), y, "none")
    return sampled(parts, original, conditions, num_images, seed=seed, **how)


def _figure_images(
    parts: PipelineParts,
    original: nn.Module,
    names: list[str],
    conditions: Tensor,
    kept: list[str | int],
    count: int,
    seed: int,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """Return noised images of each concept on which losses are measured."""
    if not count:
        return {}
    y = torch.cat([conditions, parts.encode(kept)]) if kept else conditions
    images = sampled(parts, original, y, count, seed=seed + 2_000_003, **how)
    schedule, draw = parts.task().noise_schedule, torch.Generator().manual_seed(seed)
    pieces = zip(images.x.split(count), images.y.split(count), strict=True)
    items = [draw_items(schedule, x, y, generator=draw) for x, y in pieces]
    return dict(zip([*names, *map(str, kept)], items, strict=True))


@torch.no_grad()
def _losses(task: Any, model: nn.Module, looked_at: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean denoising loss by concept."""
    training = model.training
    model.eval()
    found = {name: float(-task.decode(model, None, items).log_prob.mean()) for name, items in looked_at.items()}
    model.train(training)
    return found
