"""Removal influence by definition, one forward pass per item: the reference for all other estimators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.targets import Value
from gunlearn.errors import UnsupportedModelError


@dataclass(frozen=True)
class Brute(Estimator):
    """Run the model on the graph without each item in turn: exact for every model and target."""

    name = "brute"
    summary = "one forward pass per item: exact, any model"
    cost = "a forward pass per item"

    @torch.no_grad()
    def scores(self, problem: InfluenceProblem) -> Tensor:
        items, before, target = problem.items, problem.outputs, problem.target
        found = before.new_zeros(items.num_items)
        again = problem.encode(problem.data)
        if not torch.allclose(again, before, rtol=1e-3, atol=1e-5 * float(before.abs().max())):
            raise UnsupportedModelError(
                "Expected a model whose outputs are the same twice in evaluation mode (got others: dropout without "
                "'training=self.training'?)"
            )
        value = target.value(before) if isinstance(target, Value) else before
        zero = torch.zeros(before.size(0), dtype=torch.long, device=before.device)
        for i in range(items.num_items):
            after = problem.encode(items.edited(problem.data, i))
            if isinstance(target, Value):
                found[i] = target.value(after) - value
                continue
            changed = (after != before).any(dim=-1)
            if items.own_row is not None:
                changed[items.own_row[i]] = False
            row = changed.nonzero().view(-1)
            found[i] = target.change(before, row, after[row], zero[: row.numel()], 1)[0]
        return found
