"""Record each layer's rule in a pass over the whole graph, then recompute only the rows that edits change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import InfluenceProblem
from gunlearn.attribution.distinct_items import Items, without_entries
from gunlearn.attribution.read_items import standing_still
from gunlearn.attribution.removal.balls import ROWS_PER_BATCH, Balls, ball_batches, sum_by_item
from gunlearn.attribution.removal.layer_rules import replaced_forwards, rule_for
from gunlearn.attribution.removal.linear_rule import Rule
from gunlearn.attribution.removal.structure import structure_of
from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.subgraph import csr_rows

_PROBES = 3
#: Errors of a model's code that was called on some rows alone.
FAILURES = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, GunlearnError)


def record(problem: InfluenceProblem, brute: bool = True) -> tuple[Recording | None, str | None]:
    """Return a recording, checked on a few items, or the reason why there is none.

    With `brute` the new outputs of a few items, from the smallest to the largest, are compared with brute force; else
    only whether a row alone gives what it gives among all rows.
    """
    try:
        recording = Recording(problem)
    except FAILURES as error:
        return None, first_line(error)
    why = "the model does not work row by row"
    probes, truth = problem.items, problem.outputs
    if brute:
        size = sum_by_item(problem.items, recording.structure, recording.structure.reach(1))
        probes = problem.items.take(size.argsort(stable=True)[_spread_out(size.numel())])
        truth = torch.stack([problem.encode(probes.edited(problem.data, i)) for i in range(probes.num_items)])
    for whole in (False, True):
        recording.whole, recording.padded = whole, not whole
        try:
            if recording.row_by_row():
                why = "the rows computed differ from brute force"
                if not brute or recording.agrees(probes, truth):
                    recording.padded = False
                    return recording, None
        except FAILURES as error:
            why = first_line(error)
    return None, why


def _spread_out(size: int) -> Tensor:
    return torch.linspace(0, size - 1, min(_PROBES, size)).long().unique()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


class Recording:
    """One pass of a problem's model over the whole graph, from which passes over changed rows follow.

    With `whole`, every row of a ball passes through every layer, as skip connections need. With `padded`, each layer
    appends a copy of its last row: no two layers return equally many rows, so that a model that adds their outputs
    fails even if all rows change at once. A layer without a rule, or that breaks it, raises `UnsupportedModelError`.
    """

    def __init__(self, problem: InfluenceProblem) -> None:
        self.problem, self.whole, self.padded = problem, False, False
        self.structure = structure_of(problem.data.edge_index, problem.data.num_nodes)
        self.calls: list[Rule] = []
        self.kinds: dict[nn.Module, type[Rule]] = {}
        for layer in message_passing_layers(problem.model).values():
            kind, why = rule_for(layer)
            if kind is None:
                raise UnsupportedModelError(f"no rule for {why}")
            self.kinds[layer] = kind
        with replaced_forwards(self.kinds, self._record):
            self.outputs = problem.encode(problem.data)
        if not self.calls:
            raise UnsupportedModelError("no message passing layer was called")
        self.calls[-1].last = True
        before, scale = problem.outputs, problem.outputs.abs().max()
        if self.outputs.shape != before.shape or not bool(((self.outputs - before).abs_() <= 1e-4 * scale).all()):
            raise UnsupportedModelError("the layers do not follow their rules")

    def changes(self, items: Items, rows: int = ROWS_PER_BATCH) -> Iterator[tuple[Tensor, Balls, Tensor]]:
        """Yield each batch of items: their indices, their rows, and the rows' new outputs `[num_rows, dim]`."""
        hops, features = [], items.of == "features"
        changed = 0 if features else -1
        for rule in self.calls:  # hops that changes have travelled after each layer
            changed = max(changed + 1, 1 if rule.degree_in_sender and not features else 0)
            hops.append(changed)
        width = 1
        if self.whole and isinstance(self.problem.data.x, Tensor):  # every row's features are gathered
            width = 1 + self.problem.data.x.size(1) // 256
        for index, balls in ball_batches(items, self.structure, hops[-1], max(rows // width, 1)):
            yield index, balls, self._run(_Pass(balls, hops, balls.upto[0] if features else 0), balls.node.numel())

    def touched(self, balls: Balls) -> Tensor:
        """Return the new outputs of the rows that items touch, as if their neighbours' inputs stayed."""
        return self._run(_Pass(balls, [0] * len(self.calls), 0), balls.upto[0])

    def run_to(self, balls: Balls, hops: list[int], call: int) -> Tensor:
        """Return a layer's inputs on the balls' rows, around nodes that lose only degree."""
        state = _Pass(balls, hops, 0, stop=call)
        self._run(state, balls.node.numel())
        if state.stopped is None:
            raise UnsupportedModelError("fewer layers were called than before")
        return state.stopped

    def _run(self, state: _Pass, num_rows: int) -> Tensor:
        x = self._inputs(state.balls, state.balls.node.numel() if self.whole else state.given)
        more = len(self.calls) if self.padded else 0
        view = Data(**{**self.problem.data.to_dict(), "x": x, "num_nodes": num_rows + more})
        with replaced_forwards(self.kinds, partial(self._rows, state)):
            return self.problem.encode(view)[:num_rows]

    def _record(
        self, layer: nn.Module, x: Any, edge_index: Any, edge_weight: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Run a layer on the whole graph by its rule, and keep the rule."""
        data, name = self.problem.data, type(layer).__name__
        if any(value is not None for value in kwargs.values()):
            raise UnsupportedModelError(f"{name}: further arguments")
        plain = isinstance(edge_index, Tensor) and edge_index.layout == torch.strided
        if edge_index is not data.edge_index and not (plain and torch.equal(edge_index, data.edge_index)):
            raise UnsupportedModelError(f"{name}: another graph than the data's")
        if edge_weight is not None and edge_weight is not data.get("edge_weight"):
            raise UnsupportedModelError(f"{name}: other edge weights than the data's")
        rule = self.kinds[layer](layer, self.structure, edge_weight)
        rule.out = rule.record(x)
        self.calls.append(rule)
        return rule.out

    def _rows(self, state: _Pass, layer: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run a layer on rows of balls; return the new outputs of the rows changed so far, or of all rows."""
        rule, balls = self.calls[state.call], state.balls
        if state.call == state.stop:
            state.stopped = x
            return rule.out[balls.node]
        given, num_rows = state.given, balls.upto[state.hops[state.call]]
        expected = balls.node.numel() if self.whole else given + (state.call if self.padded else 0)
        if rule.layer is not layer or x.size(0) != expected:
            raise UnsupportedModelError("layers are not called one after the other on what changes")
        out = rule.rows(balls, x, given, num_rows)
        state.call, state.given = state.call + 1, num_rows
        if self.whole and num_rows < balls.node.numel():
            out = torch.cat([out, rule.out[balls.node[num_rows:]]])
        if self.padded:
            out = torch.cat([out, out[-1:].expand(state.call, -1)])
        return out

    def _inputs(self, balls: Balls, num_rows: int) -> Tensor:
        x, items = self.problem.data.x, balls.items
        if x.layout == torch.strided:
            out = x[balls.node[:num_rows]]
        else:
            out = csr_rows(x, balls.node[:num_rows]).to_dense() if num_rows else x.values().new_empty(0, x.size(1))
        if items.of == "features" and num_rows:
            out = without_entries(out, balls.find(items.entry_item, items.entry[0]), items.entry[1])
        memo(out, "sparse_features", lambda: None)  # rows of a few nodes are multiplied dense
        return out

    def row_by_row(self) -> bool:
        """Return whether a few rows give the same results alone and among all rows."""
        before, n = self.problem.outputs, self.structure.num_nodes
        tolerance = before.abs().max() * torch.finfo(before.dtype).eps ** 0.5
        for node in _spread_out(n).to(before.device).split(1):
            for _, balls in ball_batches(standing_still(node, n), self.structure, 0, 1):
                after, alone = self.touched(balls), before[node]
                if after.shape != alone.shape or not bool(((after - alone).abs() <= tolerance).all()):
                    return False
        return True

    def agrees(self, items: Items, truth: Tensor) -> bool:
        """Return whether the items' changes give the outputs `truth` `[num_items, num_nodes, dim]`."""
        before = self.problem.outputs
        noise = before.abs().max() * torch.finfo(before.dtype).eps * 64
        for index, balls, after in self.changes(items):
            if after.size(0) != balls.node.numel():
                return False
            for i, which in enumerate(index.tolist()):
                own = balls.item == i
                out = before.clone()
                out[balls.node[own]] = after[own]
                tolerance = 1e-3 * (truth[which] - before).abs().max() + noise
                if not bool(((out - truth[which]).abs() <= tolerance).all()):
                    return False
        return True


@dataclass
class _Pass:
    """State of a pass: `given` rows have changed so far, `call` layers were called.

    The layer at call `stop` keeps its input as `stopped` and computes nothing; later layers read old rows.
    """

    balls: Balls
    hops: list[int]
    given: int
    call: int = 0
    stop: int | None = None
    stopped: Tensor | None = None
