"""The rows that a run reads, and the plan that its method makes of them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.rows import check_ids
from gunlearn.llm.model.token_prediction import rows_of
from gunlearn.llm.recipes.plan import Given, Plan
from gunlearn.llm.training.settings import shown
from gunlearn.llm.training.views import base_of
from gunlearn.losses import as_objective


@dataclass(frozen=True)
class RunParts:
    """Rows of a run, by part.

    Attributes:
        plan: how the method trains.
        forget: rows to forget.
        measured: parts whose figures are taken before and after: `"forget"`, and `"retain"` where rows stay.
        drawn: parts to draw rows from at random.
        paired: parts whose row `i` belongs to forgotten row `i`.
        unread: given parts that no loss reads.
    """

    plan: Plan
    forget: list[Any]
    measured: dict[str, list[Any]]
    drawn: dict[str, Any]
    paired: Mapping[str, Any]
    unread: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows by part."""
        return {name: len(part) for name, part in {**self.measured, **self.paired, **self.drawn}.items()}


def run_parts(
    method: Any,
    model: nn.Module,
    partition: Any,
    tokenizer: Any,
    drawn: Mapping[str, Any],
    paired: Mapping[str, Any],
) -> RunParts:
    """Return the plan and the rows of a run; refuse a plan without the rows that it reads, warn of rows unread."""
    rows, kept = (rows_of(partition.data, mask) for mask in (partition.forget_mask, partition.retain_mask))
    measured = {"forget": rows} | ({"retain": kept} if kept else {})
    check_ids(model, measured)
    plan = plan_of(method, Given(model, tokenizer, rows, kept))
    _check_layer(plan, model)
    needed = set(map(base_of, plan.objective.parts))
    if "retain" in needed and not kept:
        raise InvalidInputError(
            f"Expected rows to retain, which {plan.objective!r} reads (got none); give some, or retain_weight=0"
        )
    drawn = {**drawn, **({"retain": kept} if "retain" in needed else {})}
    unread = sorted({*measured, *drawn} - needed - {"forget"})
    if "retain" in unread:
        warnings.warn(f"no loss of {shown(plan.objective)} reads the rows to retain", UserWarning, stacklevel=4)
    check_ids(model, {**paired, **drawn})
    if plan.forget is not None:
        measured["forget"] = rows = list(plan.forget)
    return RunParts(plan, rows, measured, drawn, paired, unread)


def plan_of(method: Any, given: Given) -> Plan:
    """Return a method's plan for the given model and rows."""
    plan = getattr(method, "plan", None)
    return Plan(as_objective(method.objective())) if plan is None else plan(given)


def _check_layer(plan: Plan, model: nn.Module) -> None:
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if depth is not None and not (isinstance(plan.layer, int) and -depth - 1 <= plan.layer <= depth):
        raise InvalidInputError(
            f"Expected 'layer' from {-depth - 1} to {depth}, of {depth} layers (got {plan.layer!r})"
        )
