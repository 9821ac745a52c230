"""SSD: selective synaptic dampening (arXiv 2308.07707)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer
from gunlearn.curvature.fisher import check_probes, fisher_diagonal
from gunlearn.curvature.training_loss import learning_parameters
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses.functional import sum_tokens
from gunlearn.methods.base import BY_MODE, Method, Outcome, Problem, check_interval, fill_in
from gunlearn.methods.forget_part import forget_items
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.items.statistics import statistics_note

_PIECE = 1024  # items of a data set without a loader that are loaded at a time
_MODES = {"default": {"alpha": 3.0}, "paper": {"alpha": 10.0}}


@dataclass(frozen=True)
class SSD(Method):
    r"""Shrink the weights that matter more to the forget set than to all training data; no training step.

    With importances :math:`I` the mean squared gradients of the items' losses (the empirical Fisher's diagonal), `f` of
    the forget set and `D` of all training data,

    .. math:: \theta \leftarrow \min\Big(\lambda \frac{I_D}{I_f}, 1\Big)\, \theta \quad \text{where} \; I_f > \alpha I_D

    Importances are taken in evaluation mode on the original graph. For link prediction all data are all training edges,
    without random non-edges. `notes["dampened"]` is the share of weights that were shrunk.

    Args:
        mode: `"default"` or `"paper"`; fills in `alpha`, 3 or the paper's 10.
        alpha: how many times as important a weight must be; smaller shrinks more weights. If a share `s` of all items
            is forgotten, no weight is more than `1 / s` times as important: 10 is refused for one of ten classes.
        dampening: :math:`\lambda`, 1 in the paper; smaller shrinks further.
        probes: random sign vectors that estimate importances, see `fisher_diagonal`; `None` is exact.
        batch_size: independent items in memory at a time, among whose batches the probes are shared out; `None` is a
            loader's batch, else 1024 of a data set, and all of tensors. A graph is read whole.
    """

    mode: str = "default"
    alpha: float = BY_MODE
    dampening: float = 1.0
    probes: int | None = 64
    batch_size: int | None = None

    name = "ssd"
    summary = "shrink weights that matter much more to the forget set than to all training data"
    paper = "arXiv 2308.07707"
    needs = "retained data"
    state = "last"
    cost = "two times `probes` backward passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, "> 0", "alpha", "dampening")
        check_probes(self.probes)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, minimum=1)

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if self.batch_size is not None and task.shared_pass:
            raise UnsupportedMethodError(
                f"Expected no 'batch_size' of 'ssd' for task '{task.name}', whose items one pass over the graph serves "
                f"(got {self.batch_size})"
            )

    def run(self, problem: Problem) -> Outcome:
        model, task = problem.model.eval(), problem.task
        parts = task.parts(problem.partition, "full", model)
        forget_items(parts, self.name)
        parameters = learning_parameters(model)
        rest = "retain_edges" if "retain_edges" in parts.names else "retain"  # leave out random non-edges
        pieces = {name: self._pieces(task, parts, name) for name in ("forget", rest)}
        counts, losses = [problem.partition.num_forget, problem.partition.num_retain], {}
        if not all(pieces.values()):
            items = parts.sample(["forget", rest])
            outputs = task.encode(model, parts.data)
            losses = {name: -sum_tokens(task.decode(model, outputs, item).log_prob) for name, item in items.items()}
            losses[rest] = losses[rest][others(items[rest], items["forget"])]
            if all(getattr(item, "fixed", True) for item in items.values()):  # batches do not tell the number of items
                counts = [losses["forget"].numel(), losses[rest].numel()]
        share = counts[0] / sum(counts)
        if self.alpha * share >= 1:  # I_D >= share * I_f
            raise InvalidInputError(
                f"Expected 'alpha' below {1 / share:.3g} where {share:.1%} of all items are forgotten: no weight is so "
                f"many times as important to them (got {self.alpha}, which would change nothing)"
            )
        importance = {name: fisher_diagonal(values, parameters, self.probes) for name, values in losses.items()}
        for name, of in pieces.items() if not losses else ():
            importance[name] = self._of_pieces(problem, parts, of, parameters)
        dampened = 0
        with torch.no_grad():
            for parameter, forget, retain in zip(parameters, importance["forget"], importance[rest], strict=True):
                everything = share * forget + (1 - share) * retain
                chosen = forget > self.alpha * everything
                factor = (self.dampening * everything / forget).clamp(max=1)
                parameter.mul_(torch.where(chosen, factor, 1))
                dampened += int(chosen.sum())
        notes: dict[str, Any] = {"dampened": dampened / sum(p.numel() for p in parameters)}
        return Outcome(model, notes=notes | statistics_note(model))

    def _pieces(self, task: Task, parts: Parts, name: str) -> list[Any]:
        """Return the items of a part in batches; none where they are read at once."""
        size = self.batch_size or parts.usual_batch
        unread = parts.unread(name, size or _PIECE)
        if unread or size is None or task.shared_pass:
            return unread
        items = parts.sample([name])[name]
        return [items.take(rows) for rows in torch.arange(items.num_items).split(size)]

    def _of_pieces(
        self, problem: Problem, parts: Parts, pieces: list[Any], parameters: Sequence[nn.Parameter]
    ) -> list[Tensor]:
        """Return the importance of parameters for items that are loaded piece by piece: the mean over all of them.

        The `probes` are shared out, at least one a piece: signs of different pieces are independent.
        """
        probes = None if self.probes is None else -(-self.probes // len(pieces))
        total, count = [torch.zeros_like(p) for p in parameters], sum(piece.num_items for piece in pieces)
        for piece in pieces:
            losses = -sum_tokens(problem.task.predict(problem.model, parts.data, piece).log_prob)
            found = fisher_diagonal(losses, parameters, probes)
            for sum_, part in zip(total, found, strict=True):
                sum_ += part * (piece.num_items / count)
        return total


def others(items: Any, forget: Any) -> Tensor | slice:
    """Return which items are not forgotten too: a mask `[num_items]`, or a full slice for independent items.

    Items that only lose features are in both sets, and count once.
    """
    if hasattr(items, "edge_label_index"):
        pairs, gone = items.edge_label_index, forget.edge_label_index
        size = 1 + max(int(edges.max()) if edges.numel() else 0 for edges in (pairs, gone))
        return ~torch.isin(pairs[0] * size + pairs[1], gone[0] * size + gone[1])
    return ~torch.isin(items.index, forget.index) if hasattr(items, "index") else slice(None)
