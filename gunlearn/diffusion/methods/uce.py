"""UCE and the closed form of MACE: keys and values of cross-attention that no longer tell a concept."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice, check_number
from gunlearn.diffusion.columns_of_texts import POSITIONS, TEMPLATES, TextColumns, text_columns
from gunlearn.diffusion.methods.closed_form import edited_map
from gunlearn.diffusion.noised_items import conditions_at
from gunlearn.diffusion.replaced import same_conditions
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.base import Method, Outcome, Problem

_READ = 4096  # conditions of retained items that are looked at


@dataclass(frozen=True)
class UCE(Method):
    r"""Edit the maps from text to keys and values of cross-attention by least squares, without training.

    Of each map :math:`W`, see `edited_map`: at the concept's embeddings :math:`c_i` it gives what it gave at those of
    the anchor :math:`a_i`, and stays as it was at those to preserve. The anchor of a request is the task's null
    condition. It reads no images: of forgotten items the conditions, and of retained ones the conditions that differ
    from each other, to preserve them. Where the text encoder gives linearly dependent embeddings, the terms compete.

    Args:
        columns: embeddings of concepts, anchors and what must stay, see `gunlearn.diffusion.text_columns`; `None` takes
            the conditions of the request. `gunlearn.diffusion.unlearn` makes them of texts.
        anchors: the text that takes the place of each concept, or of all; empty for the empty prompt.
        positions: see `text_columns`.
        templates: see `text_columns`.
        ridge: weight of staying near the given weights, 0.5 in the authors' code.
        erase_weight: weight of the concepts.
        preserve_weight: weight of what must stay.
    """

    columns: TextColumns | None = None
    anchors: str | Mapping[str, str] = ""
    positions: str = "all"
    templates: tuple[str, ...] = TEMPLATES
    ridge: float = 0.5
    erase_weight: float = 1.0
    preserve_weight: float = 1.0

    name = "uce"
    summary = "send a concept's keys and values to those of another text; no training, no images"
    paper = "arXiv 2308.14761"
    requests = ("items",)
    tasks = ("denoising",)
    cost = "a linear system per map of cross-attention"
    source: ClassVar[str] = "samples"  # no images are read
    variants: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {"positions": "last", "templates": ("{}",)},
    }

    @property
    def label(self) -> str:
        return "paper" if (self.positions, self.templates) == ("last", ("{}",)) else "default"

    def __post_init__(self) -> None:
        check_choice("positions", self.positions, POSITIONS)
        check_number("ridge", self.ridge, minimum=0.0)
        check_number("erase_weight", self.erase_weight, positive=True)
        check_number("preserve_weight", self.preserve_weight, minimum=0.0)

    def for_texts(self, pipeline: Any, concepts: Sequence[str], preserve: Sequence[str]) -> UCE:
        """Return the method with the columns of these texts; raise as `text_columns`, warn where nothing is to stay."""
        if self.columns is not None:
            return self
        if not preserve:
            warnings.warn(
                f"'{self.name}' has no texts to preserve, so other concepts may change; pass 'preserve' (on the "
                "command line --preserve) with what the pipeline must still draw",
                stacklevel=2,
            )
        found = text_columns(pipeline, concepts, self.anchors, preserve, self.positions, self.templates)
        return replace(self, columns=found)

    def run(self, problem: Problem) -> Outcome:
        columns = self.columns
        if columns is None and (self.anchors or self.positions != "all"):
            raise UnsupportedMethodError(
                f"Expected 'columns' for '{self.name}' with anchors or positions of texts (got none); use "
                "gunlearn.diffusion.unlearn, or gunlearn.diffusion.text_columns(pipeline, ...)"
            )
        columns = conditions(problem) if columns is None else columns
        maps = cross_attention_maps(problem.model)
        weights = {"ridge": self.ridge, "erase_weight": self.erase_weight, "preserve_weight": self.preserve_weight}
        before = after = 0.0
        with torch.no_grad():
            for name, layer in maps.items():
                if layer.in_features != columns.concepts.size(1):
                    raise InvalidInputError(
                        f"Expected embeddings of {layer.in_features} numbers for '{name}' (got "
                        f"{columns.concepts.size(1)}); take those of the pipeline's own text encoder"
                    )
                here = layer.weight
                c, a, p = (t.to(here.device) for t in (columns.concepts, columns.anchors, columns.preserve))
                old = here.detach().double()
                new = edited_map(here, c, a.double() @ old.t(), p, **weights)
                before += float((c.double() @ old.t() - a.double() @ old.t()).square().sum())
                after += float((c.double() @ new.double().t() - a.double() @ old.t()).square().sum())
                here.copy_(new)
        notes = {"maps": len(maps), "columns": repr(columns), "left": (after / before) ** 0.5 if before else 0.0}
        return Outcome(problem.model.eval(), notes=notes)


@dataclass(frozen=True)
class MACERefinement(UCE):
    """MACE's first step alone: the words beside a concept no longer tell of it (arXiv 2403.06135).

    Sends keys and values of the words that prompts share to those of the same prompt with the anchor in the concept's
    place, see `text_columns`. The second step of the paper, a LoRA per
    concept against its own tokens, is not part of it: the concept's own token still tells of it.
    """

    positions: str = "others"

    name = "mace_refinement"
    summary = "words beside a concept no longer tell of it: the closed form of MACE alone, without its LoRAs"
    paper = "arXiv 2403.06135"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    @property
    def label(self) -> str:
        return "default"


def cross_attention_maps(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the maps to keys and values of cross-attention (diffusers' `attn2`), by name.

    Raises:
        UnsupportedModelError: the model has none, or an adapter stands in their place.
    """
    named = {n: m for n, m in model.named_modules() if re.search(r"(^|\.)attn2\.to_[kv]$", n)}
    if not named:
        raise UnsupportedModelError(
            f"Expected a denoiser with cross-attention to a text, 'attn2.to_k' and 'attn2.to_v' (got "
            f"{type(model).__name__} without); 'esd' and 'npo' take denoisers of any kind"
        )
    other = [f"{n} ({type(m).__name__})" for n, m in named.items() if type(m) is not nn.Linear]
    if other:
        raise UnsupportedModelError(
            f"Expected plain linear maps in cross-attention (got {other[0]}); merge or unload adapters first, and load "
            "the model without quantisation"
        )
    return {n: m for n, m in named.items() if isinstance(m, nn.Linear)}


def conditions(problem: Problem) -> TextColumns:
    """Return the distinct conditions of forgotten items, the null condition, and those of retained items.

    Raises:
        InvalidInputError: conditions that are classes, no null condition, or none that differs from it.
    """
    task, part = problem.task, problem.partition
    forgotten = conditions_at(part.data, part.forget_mask.nonzero().view(-1))
    retained = conditions_at(part.data, part.retain_mask.nonzero().view(-1)[:_READ])
    if not forgotten.is_floating_point() or forgotten.dim() != 3 or not forgotten.size(-1):
        got = f"{forgotten.dtype} {tuple(forgotten.shape)}"
        raise InvalidInputError(f"Expected conditions that are embeddings [num_items, num_tokens, dim] (got {got})")
    forgotten = forgotten.unique(dim=0)
    null: Tensor = task.null_like(forgotten)  # type: ignore[attr-defined]
    both = forgotten.flatten(0, 1), null.flatten(0, 1)
    differ = (both[0] != both[1]).any(1)
    if not bool(differ.any()):
        raise InvalidInputError("Expected forgotten conditions other than the null condition (got that alone)")
    retained = retained.unique(dim=0)
    retained = retained[~same_conditions(retained, forgotten).any(1)]
    kept = torch.cat([retained.flatten(0, 1), both[0][~differ]]).unique(dim=0)
    return TextColumns(both[0][differ], both[1][differ], kept)
