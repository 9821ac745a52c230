"""The influence of each forgotten item on the mean loss of all, by gradients of the last layer alone."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.curvature.fisher import fisher_diagonal
from gunlearn.curvature.training_loss import second_order
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses.influence_weights import linear_head_influence
from gunlearn.methods.any_task.rewind import labels_of
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_losses, forget_pieces
from gunlearn.tasks.base import PartItems, Parts


def forgotten_influence(
    problem: Problem, parts: Parts, head: list[nn.Parameter], size: int | None, damping: float, probes: int | None
) -> Tensor:
    """Return the influence of each forgotten item under a problem's model, `[num_forget]`; see `head_influence`.

    In closed form where the head is an `nn.Linear` whose output are the items' logits of classes: exact, and one pass
    without a gradient. Else by gradients of gradients, with `probes`. Pieces of `size` items are in memory at a time.
    A task that hands out some of the forgotten items at a step is refused: the others would get these items' weights.
    """
    model = problem.model
    with evaluating(model):
        linear = next((m for m in model.modules() if isinstance(m, nn.Linear) and _same(m, head)), None)
        found = None if linear is None else _closed_form(problem, parts, linear, size, damping)
        if found is None:
            with second_order(model):
                found = head_influence(forget_losses(problem.task, model, parts, size), head, damping, probes)
    count = parts.count("forget")
    if found.numel() != count:
        raise InvalidInputError(
            f"Expected a task that reads all {count} forgotten items for their influence (got one that reads "
            f"{found.numel()} at a time); leave its batch_size out, and give that of the method"
        )
    return found


def _same(module: nn.Module, parameters: list[nn.Parameter]) -> bool:
    return [id(p) for p in module.parameters()] == [id(p) for p in parameters]


@torch.no_grad()
def _closed_form(problem: Problem, parts: Parts, head: nn.Linear, size: int | None, damping: float) -> Tensor | None:
    """Return influences, or `None` where the head's outputs are not what the items' losses are of."""
    calls: list[tuple[Tensor, Tensor]] = []
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    handle = head.register_forward_hook(lambda module, given, out: calls.append((given[0], out)))
    try:
        for piece in forget_pieces(problem.task, parts, size):
            if not isinstance(piece, PartItems):
                return None
            calls.clear()
            prediction = problem.task.predict(problem.model, parts.data, piece)
            if not calls:
                return None
            given, out = (torch.cat(both) for both in zip(*calls, strict=True))
            logits = prediction.logits
            label = labels_of(piece) if prediction.label is None else prediction.label
            if logits is None or out.shape != logits.shape or out.dim() != 2 or prediction.bernoulli:
                return None
            own = logits.log_softmax(-1).gather(1, label.view(-1, 1)).view(-1)
            if not torch.equal(out, logits) or not torch.allclose(own, prediction.log_prob):
                return None
            hidden = given if head.bias is None else torch.cat([given, torch.ones_like(given[:, :1])], 1)
            found.append((hidden.double(), logits.double(), label))
    finally:
        handle.remove()
    hidden, logits, label = (torch.cat(part) for part in zip(*found, strict=True))
    return linear_head_influence(hidden, logits, label, damping=damping).to(head.weight.dtype)


def head_influence(
    pieces: Sequence[Callable[[], Tensor]], head: list[nn.Parameter], damping: float, probes: int | None = None
) -> Tensor:
    r"""Return the influence :math:`-g_i^T F^{-1} \bar g` of each item on the mean loss of all, `[num_items]`.

    One backward pass through a backward pass gives all products of a piece, whatever the number of its items.

    Args:
        pieces: functions that return the losses of some of the items `[k]`, on the graph of computations. They are
            called twice where there are several, so that one piece is in memory at a time.
        head: the parameters that gradients are taken of.
        damping: added to the mean squared gradients, positive.
        probes: see `importance.fisher_diagonal`.
    """
    kept = [_Pulled(losses(), head) for losses in pieces] if len(pieces) == 1 else None

    def pulled() -> Iterable[_Pulled]:
        return kept or (_Pulled(losses(), head) for losses in pieces)

    moments = [one.moments(probes) for one in pulled()]
    count = sum(size for size, _, _ in moments)
    sums = [reduce(torch.add, [s[k] for _, s, _ in moments]) for k in range(len(head))]
    squares = [reduce(torch.add, [f[k] * (size / count) for size, _, f in moments]) for k in range(len(head))]
    direction = [s / count / (f + damping) for s, f in zip(sums, squares, strict=True)]
    return torch.cat([one.products(direction) for one in pulled()])


class _Pulled:
    """The gradient of the sum of weighted losses, still a function of the weights, which are one each."""

    def __init__(self, losses: Tensor, head: list[nn.Parameter]) -> None:
        self.losses, self.head, self.dummy = losses, head, torch.ones_like(losses, requires_grad=True)
        pull: Sequence[Tensor | None] = [None]
        if losses.requires_grad:
            pull = torch.autograd.grad(losses, head, self.dummy, create_graph=True, allow_unused=True)
        if all(g is None for g in pull):
            raise UnsupportedModelError(
                "Expected a loss that depends on the module defined last, whose weights IMU reads (got one that does "
                "not); define the output layer last in the model's __init__"
            )
        self.pull = [torch.zeros_like(p) if g is None else g for g, p in zip(pull, head, strict=True)]

    def moments(self, probes: int | None) -> tuple[int, list[Tensor], list[Tensor]]:
        """Return the number of items, the sum of their gradients and the mean of the squared ones."""
        squares = fisher_diagonal(self.losses, self.head, probes)
        return self.losses.numel(), [g.detach() for g in self.pull], squares

    def products(self, direction: list[Tensor]) -> Tensor:
        """Return minus the product of each item's gradient with `direction`, `[k]`."""
        terms = [(g * d).sum() for g, d in zip(self.pull, direction, strict=True) if g.requires_grad]
        if not terms:
            return torch.zeros_like(self.dummy).detach()
        return -torch.autograd.grad(reduce(torch.add, terms), self.dummy)[0]
