"""NPO: negative preference optimisation with a retain term."""

from __future__ import annotations

from dataclasses import dataclass

from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, NPO, Objective, as_objective
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class NPOMethod(GradientMethod):
    """NPO on the forget set plus the retained data's negative log-likelihood (arXiv 2404.05868, "NPO+RT").

    Args:
        epochs: optimiser steps.
        beta: inverse temperature; towards 0 it becomes gradient ascent.
        retain_weight: weight of the retain term; 0 leaves it out.
    """

    epochs: int = 100
    beta: float = 5.0
    retain_weight: float = 1.0

    name = "npo"
    summary = "negative preference optimisation plus the retained loss"
    paper = "arXiv 2404.05868"
    needs = "retained data, reference model"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """NPO plus the weighted retained loss."""
        if self.retain_weight < 0:
            raise InvalidInputError(f"Expected 'retain_weight' >= 0 (got {self.retain_weight})")
        forget = as_objective(NPO(beta=self.beta, on="forget"))
        return forget + self.retain_weight * NLL(on="retain") if self.retain_weight else forget
