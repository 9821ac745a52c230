"""Images with which concepts are forgotten: the caller's, or samples of the model before unlearning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.diffusion.noised_items import check_conditions, check_images, warn_of_range
from gunlearn.diffusion.pipelines import PipelineParts
from gunlearn.diffusion.replaced import same_conditions
from gunlearn.diffusion.sampler import sample
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests.items import ItemPartition
from gunlearn.requests.partition import ids_hash
from gunlearn.tasks.items.tables import ItemTable


@dataclass(frozen=True)
class ConceptImages:
    """Images (or latents) of concepts.

    Args:
        x: `[n, channels, height, width]`.
        y: their conditions `[n, ...]`.
        source: where they come from, in words.
    """

    x: Tensor
    y: Tensor
    source: str


def sampled(
    parts: PipelineParts, model: nn.Module, y: Tensor, count: int, num_steps: int, guidance: float, seed: int
) -> ConceptImages:
    """Return `count` images of each condition `[k, ...]`, drawn from `model`."""
    task, each = parts.task(), y.repeat_interleave(count, dim=0)
    draw = torch.Generator().manual_seed(seed)
    how: Any = {"num_steps": num_steps, "guidance": guidance if parts.null is not None else 1.0, "seed": draw}
    found = [sample(model, task, rows, parts.shape, **how) for rows in each.split(64)]
    return ConceptImages(torch.cat(found).cpu(), each.cpu(), f"{count} samples of each concept")


def given_images(parts: PipelineParts, data: Any, seed: int) -> ConceptImages:
    """Return the caller's images and conditions in the denoiser's form.

    Args:
        parts: of the pipeline.
        data: a pair of images `[n, channels, height, width]` in [-1, 1] and a concept for each.
        seed: of the autoencoder's draws.

    Raises:
        InvalidInputError: images that are not finite, or without a concept.
        InvalidTypeError: something else than a pair.
    """
    if not isinstance(data, tuple) or len(data) != 2 or not isinstance(data[0], Tensor):
        raise InvalidTypeError(
            f"Expected 'data' as a pair of images [n, channels, height, width] and a concept for each (got "
            f"{type(data).__name__})"
        )
    x, concepts = data
    check_images(x)
    warn_of_range(x)
    if isinstance(concepts, Tensor):
        check_conditions(concepts, x.size(0))
        concepts = concepts.tolist() if not concepts.is_floating_point() else concepts
    elif len(concepts) != x.size(0):
        raise InvalidInputError(f"Expected one concept for each of {x.size(0)} images (got {len(concepts)})")
    if not isinstance(concepts, Tensor):
        missing = [i for i, concept in enumerate(concepts) if concept is None or concept == ""]
        if missing:
            raise InvalidInputError(
                f"Expected a concept for every image (got {len(missing)} without, the first is item {missing[0]}); "
                "leave them out"
            )
        names = list(dict.fromkeys(concepts))
        found = parts.encode(names)
        concepts = found[torch.tensor([names.index(concept) for concept in concepts])]
    return ConceptImages(parts.latents(x, seed).cpu(), concepts.cpu(), f"{x.size(0)} images of yours")


def split_by(images: ConceptImages, forgotten: Tensor) -> tuple[ConceptImages, ConceptImages]:
    """Return the images whose condition is one of `forgotten` `[k, ...]`, and the others."""
    gone = same_conditions(images.y, forgotten.cpu()).any(1)
    forget, retain = (ConceptImages(images.x[mask], images.y[mask], images.source) for mask in (gone, ~gone))
    return forget, retain


def concept_partition(forget: ConceptImages, retain: ConceptImages | None, concepts: Sequence[str]) -> ItemPartition:
    """Return images to forget and to retain (`None` for none) as a problem.

    The hash is of the concepts and of the images.

    Raises:
        InvalidInputError: images of two shapes.
    """
    rows = [forget] if retain is None else [forget, retain]
    shapes = {tuple(one.x.shape[1:]): one.source for one in rows}
    if len(shapes) > 1:
        raise InvalidInputError(
            f"Expected images (or their latents) of one shape to forget and to keep (got {shapes}); resize them, or "
            "give images of both in 'data'"
        )
    table = ItemTable(x=torch.cat([r.x for r in rows]), y=torch.cat([r.y for r in rows]))
    gone = torch.arange(table.x.size(0)) < forget.x.size(0)
    content = "\n".join(concepts).encode() + forget.x.float().contiguous().numpy().tobytes()
    digest = ids_hash("concepts", gone.numel(), gone.nonzero().view(-1), content)
    kept = ItemTable(x=table.x[~gone], y=table.y[~gone])
    return ItemPartition(table, "items", gone, ~gone, kept, digest)
