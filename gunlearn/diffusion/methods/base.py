"""What methods for denoisers share: forgotten items with other targets, and which weights learn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from gunlearn.core.checks import check_number
from gunlearn.diffusion.layer_groups import GROUPS, group_parameters
from gunlearn.diffusion.replaced import Replaced
from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, Objective, weighted
from gunlearn.methods.base import Problem
from gunlearn.methods.gradient import GradientMethod
from gunlearn.tasks.base import Parts


@dataclass(frozen=True)
class DenoiserMethod(GradientMethod):
    """Lower the denoising loss of forgotten items with other targets, and the retained items' own loss.

    Args:
        epochs: passes over the retained items, or over the forgotten ones where no retained ones are read.
        group: which weights learn: `"full"`, all; `"x"`, cross-attention; `"u"`, all but cross-attention; `"strict"`,
            the keys and values of cross-attention. A model with an adapter trains that alone.
        retain_weight: weight of the retained items' loss; with 0 none are read.
    """

    epochs: int = 5
    lr: float = 1e-5
    max_grad_norm: float | None = 1.0
    batch_size: int | None = 32
    group: str = "full"
    retain_weight: float = 1.0

    requests = ("items",)
    tasks = ("denoising",)
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise InvalidInputError(f"Expected 'group' among {', '.join(map(repr, GROUPS))} (got {self.group!r})")
        check_number("retain_weight", self.retain_weight, minimum=0.0)
        super().__post_init__()

    def objective(self) -> Objective:
        return weighted((1.0, NLL(on="forget")), (self.retain_weight, NLL(on="retain")))

    def trainable(self, model: nn.Module) -> list[nn.Parameter] | None:
        return group_parameters(model, self.group)

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        return self.replaced(problem, super().parts(problem, names))

    def replaced(self, problem: Problem, parts: Parts) -> Replaced:
        """Return the parts with what the method puts in the place of forgotten items."""
        raise NotImplementedError

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        return {"group": self.group, **getattr(parts, "told", {})}
