"""Exact removal influence without running the model anew: only rows that change are computed, many items at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.distinct_items import Items, standing_still, without_entries
from gunlearn.attribution.removal.balls import ROWS, Balls, batches, structure_of, sum_by_item
from gunlearn.attribution.removal.brute import Brute
from gunlearn.attribution.removal.layer_rules import Rule, rule_for
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.attach.overrides import Override
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.subgraph import csr_rows

_PROBES = 3
_EXPECTED = (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError, KeyError, AttributeError)


class SlowEstimatorWarning(UserWarning):
    """An estimator took a slower way, to the same result."""


@dataclass(frozen=True)
class Exact(Estimator):
    r"""The scores of `brute`, by computing only the rows that an item changes, layer by layer.

    An edit changes a layer's outputs within one more hop of it than its inputs. From what each layer made of the whole
    graph, a linear layer's new output follows from the differences alone,

    .. math::
        out'_i = f\Big(r'_i \big(q_i + \sum_j a_{ij} (s'_j m'_j - s_j m_j) - \sum_{\text{removed } j} a_{ij} s'_j m'_j
        \big) + root'_i\Big), \quad q_i = \sum_j a_{ij} s_j m_j,

    where only changed senders enter the sum; attention (GAT, GATv2) is computed anew for the rows it changes. Whatever
    stands between the layers (activations, normalisation in evaluation mode, linear maps, skip connections, heads)
    must work row by row: the model's own code runs on the changed rows.

    Stacks of `GCNConv`, `SAGEConv` (mean, sum), `GINConv`, `GATConv`, `GATv2Conv` in any mixture. Beforehand a few rows
    are run alone and a few items by brute force; where they disagree, or for any other layer, all items are run by
    brute force, with a `SlowEstimatorWarning`.

    Args:
        rows: changed rows per batch, about: memory against speed.
    """

    rows: int = ROWS

    def __post_init__(self) -> None:
        """Check the option."""
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise InvalidInputError(f"Expected 'rows' to be an integer of at least 1 (got {self.rows!r})")

    name = "exact"
    summary = "the same numbers as brute, from the changed rows alone (GCN, SAGE, GIN, GAT stacks)"
    question = "removal"
    of = ("edges", "nodes", "features")
    targets = ("distance", "value")
    cost = "the changed rows of each item"

    @torch.no_grad()
    def scores(self, problem: InfluenceProblem) -> Tensor:
        """See `Estimator.scores`."""
        _ = problem.outputs  # a model that cannot be called at all says so itself
        recording, why = record(problem)
        if recording is not None:
            try:
                scores = self._changed_rows(problem, recording)
                problem.notes["path"] = "changed rows"
                return scores
            except InvalidInputError:  # of the target
                raise
            except (*_EXPECTED, GunlearnError) as error:
                why = _shortly(error)
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


def record(problem: InfluenceProblem, brute: bool = True) -> tuple[Recording | None, str | None]:
    """What each layer made of the whole graph, checked on a few items; or why that fails.

    Args:
        problem: model, data and items.
        brute: hold the new outputs of a few items, from the smallest to the one that touches most, against brute force;
            else only see that rows alone give what they give among all rows.
    """
    try:
        recording = Recording(problem)
    except (*_EXPECTED, GunlearnError) as error:
        return None, _shortly(error)
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
        except (*_EXPECTED, GunlearnError) as error:
            why = _shortly(error)
    return None, why


def _spread_out(size: int) -> Tensor:
    return torch.linspace(0, size - 1, min(_PROBES, size)).long().unique()


def _shortly(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


class Recording:
    """One pass over the whole graph, from which passes over changed rows follow.

    Args:
        problem: model and data.

    Attributes:
        whole: hand the model every row of a ball in every layer, instead of those that have changed so far: what skip
            connections need.
        padded: each layer adds a copy of its last row. Then no two layers hand on as many rows, and a model that adds
            them up is found out even where all rows change at once.

    Raises:
        UnsupportedModelError: a layer without a rule, or that does not follow it, or sees another graph.
    """

    def __init__(self, problem: InfluenceProblem) -> None:
        self.problem, self.whole, self.padded = problem, False, False
        self.structure = structure_of(problem.data.edge_index, problem.data.num_nodes)
        self.calls: list[Rule] = []
        self.kinds: dict[str, type[Rule]] = {}
        for name, layer in message_passing_layers(problem.model).items():
            kind, why = rule_for(layer)
            if kind is None:
                raise UnsupportedModelError(f"no rule for {why}")
            self.kinds[name] = kind
        with self._attached(_Record):
            self.outputs = problem.encode(problem.data)
        if not self.calls:
            raise UnsupportedModelError("no message passing layer was called")
        self.calls[-1].last = True
        before, scale = problem.outputs, problem.outputs.abs().max()
        if self.outputs.shape != before.shape or not bool(((self.outputs - before).abs_() <= 1e-4 * scale).all()):
            raise UnsupportedModelError("the layers do not follow their rules")

    @contextmanager
    def _attached(self, kind: type[_Attached], *args: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for name, layer in message_passing_layers(self.problem.model).items():
                override = kind(layer, name, self, *args)
                override.install()
                stack.callback(override.uninstall)
            yield

    def hops(self, items: Items) -> list[int]:
        """How far changes have travelled after each layer."""
        changed = 0 if items.of == "features" else -1
        out = []
        for rule in self.calls:
            changed = max(changed + 1, 1 if rule.degree_in_sender and items.of != "features" else 0)
            out.append(changed)
        return out

    def changes(self, items: Items, rows: int = ROWS) -> Iterator[tuple[Tensor, Balls, Tensor]]:
        """Batch by batch: which items, their rows, and the new outputs `[num_rows, dim]` of those rows."""
        hops = self.hops(items)
        width = 1
        if self.whole and isinstance(self.problem.data.x, Tensor):  # every row's features are gathered
            width = 1 + self.problem.data.x.size(1) // 256
        for index, balls in batches(items, self.structure, hops[-1], max(rows // width, 1)):
            given = balls.upto[0] if items.of == "features" else 0
            yield index, balls, self._run(items, balls, hops, given, balls.node.numel())

    def touched(
        self, items: Items, rows: int, prepare: Callable[[Balls], None]
    ) -> Iterator[tuple[Tensor, Balls, Tensor]]:
        """The same, of the rows that each item touches alone, as if their neighbours' inputs stood still."""
        hops = [0] * len(self.calls)
        for index, balls in batches(items, self.structure, 0, rows):
            prepare(balls)
            given = balls.upto[0] if items.of == "features" else 0
            yield index, balls, self._run(items, balls, hops, given, balls.upto[0])

    def run_to(self, balls: Balls, hops: list[int], call: int) -> Tensor:
        """Inputs of a layer on the rows of balls around nodes, which lose nothing but degree."""
        state = _Pass(balls, hops, 0, stop=call)
        x = self._inputs(balls.items, balls, 0)
        view = Data(**{**self.problem.data.to_dict(), "x": x, "num_nodes": balls.node.numel()})
        try:
            with self._attached(_Rows, state):
                self.problem.encode(view)
        except _Stop as stop:
            return stop.x
        raise UnsupportedModelError("fewer layers were called than before")

    def _run(self, items: Items, balls: Balls, hops: list[int], given: int, num_rows: int) -> Tensor:
        x = self._inputs(items, balls, balls.node.numel() if self.whole else given)
        more = len(self.calls) if self.padded else 0
        view = Data(**{**self.problem.data.to_dict(), "x": x, "num_nodes": num_rows + more})
        with self._attached(_Rows, _Pass(balls, hops, given)):
            return self.problem.encode(view)[:num_rows]

    def _inputs(self, items: Items, balls: Balls, num_rows: int) -> Tensor:
        x = self.problem.data.x
        if x.layout == torch.strided:
            out = x[balls.node[:num_rows]]
        else:
            out = csr_rows(x, balls.node[:num_rows]).to_dense() if num_rows else x.values().new_empty(0, x.size(1))
        if items.of == "features" and num_rows:
            row = balls.find(balls.items.entry_item, balls.items.entry[0])
            out = without_entries(out, row, balls.items.entry[1])
        memo(out, "sparse_features", lambda: None)  # rows of a few nodes are multiplied dense
        return out

    def row_by_row(self) -> bool:
        """Whether a few rows, each all alone, give what they give among all rows."""
        before, n = self.problem.outputs, self.structure.num_nodes
        tolerance = before.abs().max() * torch.finfo(before.dtype).eps ** 0.5
        for node in _spread_out(n).to(before.device).split(1):
            for _, _, after in self.touched(standing_still(node, n), 1, lambda balls: None):
                alone = before[node]
                if after.shape != alone.shape or not bool(((after - alone).abs() <= tolerance).all()):
                    return False
        return True

    def agrees(self, items: Items, truth: Tensor) -> bool:
        """Whether the changes of some items give the outputs `truth` `[num_items, num_nodes, dim]`."""
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
    balls: Balls
    hops: list[int]
    given: int
    call: int = 0
    stop: int | None = None


class _Stop(Exception):
    """Ends a pass at a layer, with the layer's input."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class _Attached(Override):
    def __init__(self, layer: nn.Module, name: str, recording: Recording) -> None:
        super().__init__(layer, name)
        self.recording = recording


class _Record(_Attached):
    """`forward` of a layer on the whole graph, by its rule, which remembers."""

    def __call__(self, x: Any, edge_index: Any, edge_weight: Any = None, **kwargs: Any) -> Any:
        """Follow the rule."""
        data, kind = self.recording.problem.data, self.recording.kinds[self.name]
        if kwargs.pop("edge_attr", None) is not None or any(value is not None for value in kwargs.values()):
            raise UnsupportedModelError(f"{type(self.layer).__name__}: further arguments")
        if edge_index is not data.edge_index and not (
            isinstance(edge_index, Tensor)
            and edge_index.layout == torch.strided
            and torch.equal(edge_index, data.edge_index)
        ):
            raise UnsupportedModelError(f"{type(self.layer).__name__}: another graph than the data's")
        if edge_weight is not None and edge_weight is not data.get("edge_weight"):
            raise UnsupportedModelError(f"{type(self.layer).__name__}: other edge weights than the data's")
        rule = kind(self.layer, self.recording.structure, edge_weight)
        rule.out = rule.record(x)
        self.recording.calls.append(rule)
        return rule.out


class _Rows(_Attached):
    """`forward` of a layer on the rows of a batch of balls."""

    def __init__(self, layer: nn.Module, name: str, recording: Recording, state: _Pass) -> None:
        super().__init__(layer, name, recording)
        self.state = state

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """New outputs of the rows that have changed so far, or of all rows."""
        state, recording = self.state, self.recording
        if state.call == state.stop:
            raise _Stop(x)
        rule, balls = recording.calls[state.call], state.balls
        given, num_rows = state.given, balls.upto[state.hops[state.call]]
        expected = balls.node.numel() if recording.whole else given + (state.call if recording.padded else 0)
        if rule.layer is not self.layer or x.size(0) != expected:
            raise UnsupportedModelError("layers are not called one after the other on what changes")
        out = rule.rows(balls, x, given, num_rows)
        state.call, state.given = state.call + 1, num_rows
        if recording.whole and num_rows < balls.node.numel():
            out = torch.cat([out, rule.out[balls.node[num_rows:]]])
        if recording.padded:
            out = torch.cat([out, out[-1:].expand(state.call, -1)])
        return out
