"""Removal influence by definition: a forward pass per item, or only the rows that change."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.removal.balls import ROWS_PER_BATCH
from gunlearn.attribution.removal.recording import FAILURES, Recording, first_line, record
from gunlearn.attribution.targets import Value
from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class Brute(Estimator):
    """Run the model on the graph without each item: exact for every model and target."""

    name = "brute"
    summary = "one forward pass per item: exact, any model"
    cost = "a forward pass per item"

    @torch.no_grad()
    def scores(self, problem: InfluenceProblem) -> Tensor:
        items, before, target = problem.items, problem.outputs, problem.target
        found = before.new_zeros(items.num_items)
        value = target.value(before) if isinstance(target, Value) else before
        for i in range(items.num_items):
            after = problem.encode(items.edited(problem.data, i))
            if isinstance(target, Value):
                found[i] = target.value(after) - value
                continue
            changed = (after != before).any(dim=-1)
            if items.own_row is not None:
                changed[items.own_row[i]] = False
            row = changed.nonzero().view(-1)
            found[i] = target.change(before, row, after[row], torch.zeros_like(row), 1)[0]
        return found


class SlowEstimatorWarning(UserWarning):
    """An estimator used a slower way, with the same result."""


@dataclass(frozen=True)
class Exact(Estimator):
    r"""The scores of `brute`, from only the rows that an item changes, layer by layer.

    Each layer carries an edit's changes one hop further. From the values recorded on the whole graph, a linear layer's
    new output follows from the differences alone,

    .. math::
        out'_i = f\Big(r'_i \big(q_i + \sum_j a_{ij} (s'_j m'_j - s_j m_j) - \sum_{\text{removed } j} a_{ij} s'_j m'_j
        \big) + root'_i\Big), \quad q_i = \sum_j a_{ij} s_j m_j,

    where only changed senders enter the sum; attention (GAT, GATv2) is recomputed for the rows that change. Everything
    between the layers (activations, normalisation in evaluation mode, linear maps, skip connections, heads) must work
    row by row: the model's own code runs on the changed rows.

    Takes stacks of `GCNConv`, `SAGEConv` (mean, sum), `GINConv`, `GATConv`, `GATv2Conv` in any mixture. It first checks
    a few rows alone and a few items by brute force; if they disagree, and for other layers, all items run by brute
    force, with a `SlowEstimatorWarning`.

    Args:
        rows: changed rows per batch, about: memory against speed.
    """

    rows: int = ROWS_PER_BATCH

    name = "exact"
    summary = "the same numbers as brute, from the changed rows alone (GCN, SAGE, GIN, GAT stacks)"
    cost = "the changed rows of each item"

    def __post_init__(self) -> None:
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise InvalidInputError(f"Expected 'rows' to be an integer of at least 1 (got {self.rows!r})")

    @torch.no_grad()
    def scores(self, problem: InfluenceProblem) -> Tensor:
        _ = problem.outputs  # raises the model's own error where it cannot be called at all
        recording, why = record(problem)
        if recording is not None:
            problem.notes["path"] = "changed rows"
            try:
                return self._changed_rows(problem, recording)
            except InvalidInputError:  # raised by the target
                raise
            except FAILURES as error:
                why = first_line(error)
        warnings.warn(
            f"exact influence falls back to one forward pass per item ({why}); the result is the same",
            SlowEstimatorWarning,
            stacklevel=2,
        )
        problem.notes["path"] = f"brute force ({why})"
        return Brute().scores(problem)

    def _changed_rows(self, problem: InfluenceProblem, recording: Recording) -> Tensor:
        found = problem.outputs.new_zeros(problem.items.num_items)
        for index, balls, after in recording.changes(problem.items, self.rows):
            row, item = balls.node[: after.size(0)], balls.item[: after.size(0)]
            own = problem.items.own_row
            if problem.target.kind == "distance" and own is not None:
                other = row != own[index][item]
                row, item, after = row[other], item[other], after[other]
            found[index] = problem.target.change(problem.outputs, row, after, item, index.numel())
        return found
