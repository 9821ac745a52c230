"""Models that stand too near to others for an honest comparison: copies of references, untouched weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.digest import tensor_digests
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.metrics.view import ModelView

#: Suspicious is a mean distance to retrained models of less than so many times that of their own average prediction,
#: and a divergence of each item to one of them below this share of the mean floor.
NEAR, COPIED = 1.2, 1e-3
#: Scores that differ by less, in nats or as a share, are alike up to rounding.
ROUNDING = 1e-5
#: Weights of two models that were trained apart differ by about their own size; those of a copy with noise by less than
#: this share of it.
INDEPENDENT = 0.2
#: On fewer items a mean is not judged, nor a copy.
MIN_ITEMS, MIN_COPIED = 10, 3


def check_references(references: Sequence[nn.Module], original: nn.Module | None) -> None:
    """Refuse the original model among retrained ones; warn of another architecture.

    Raises:
        InvalidInputError: a reference holds the weights of `original`, bit for bit.
    """
    if original is None:
        return
    before = tensor_digests(original)
    shapes = _shapes(original)
    for k, model in enumerate(references, start=1):
        if before and before <= tensor_digests(model):
            raise InvalidInputError(
                f"Expected references retrained without the forgotten data (got the original model as reference {k}: "
                "it has the same weights, bit for bit)"
            )
        if _shapes(model) != shapes:
            warnings.warn(
                f"reference {k} is of another architecture than the original model ({type(model).__name__}, with other "
                f"shapes of weights than {type(original).__name__}): distances to it measure that difference as well",
                stacklevel=3,
            )


def noisy_copies(references: Sequence[nn.Module], others: Mapping[str, nn.Module | None]) -> list[str]:
    """Return a sentence for each reference whose weights lie much nearer to another model's than training brings them.

    Models of a single weight matrix are left out: their training may have one end alone.

    Args:
        references: retrained models.
        others: the models to compare with, by what they are called.
    """
    found = []
    for k, model in enumerate(references, start=1):
        shares = {n: _distance(model, other) for n, other in others.items() if other is not None and other is not model}
        share, name = min(((d, n) for n, d in shares.items() if d), default=(math.inf, ""))
        if share < INDEPENDENT:
            found.append(
                f"Reference {k} looks like a copy of {name} with noise: their weights differ by {100 * share:.2g} % of "
                "their size, those of models trained from other initial weights by about 100 %."
            )
    return found


@torch.no_grad()
def _distance(model: nn.Module, other: nn.Module) -> float | None:
    """Return the distance of two models' parameters as a share of their size; `None` for another architecture."""
    one, two = dict(model.named_parameters()), dict(other.named_parameters())
    if any(one[name].shape != two[name].shape if name in two else True for name in one) or one.keys() != two.keys():
        return None
    if sum(value.dim() > 1 for value in one.values()) < 2:
        return None
    pairs = [(value.double(), two[name].to(value.device).double()) for name, value in one.items()]
    apart = sum(float((a - b).square().sum()) for a, b in pairs)
    size = sum(float(b.square().sum()) for _, b in pairs)
    return (apart / size) ** 0.5 if size else None


def check_predictions(references: Sequence[ModelView], original: ModelView | None) -> None:
    """Refuse references that predict like each other, or like the original model, up to rounding.

    Raises:
        InvalidInputError: two of them do on all retained, forgotten and test items.
    """
    for p, q in combinations(references, 2):
        if _alike(p, q):
            raise InvalidInputError(
                "Expected references that were retrained under different seeds (got two that score every item "
                "alike, up to rounding); their distance would be no noise floor"
            )
    for k, view in enumerate(references, start=1):
        if original is not None and _alike(view, original):
            raise InvalidInputError(
                f"Expected references retrained without the forgotten data (got reference {k}, which scores every item "
                "as the original model does, up to rounding)"
            )


def _alike(one: ModelView, two: ModelView) -> bool:
    both = [(p, q) for p, q in ((one.shown(part), two.shown(part)) for part in ("forget", "retain", "test"))]
    return all(
        p is q if p is None or q is None else p.shape == q.shape and torch.allclose(p, q, rtol=ROUNDING, atol=ROUNDING)
        for p, q in both
    )


def copied(view: ModelView) -> list[int]:
    """Return the places of the references, from 1, whose weights a model that is none of them holds bit for bit."""
    others = view.problem.references
    if any(view.model is other.model for other in others):
        return []
    return [k for k, other in enumerate(others, start=1) if other.digests and other.digests <= view.digests]


def untouched(view: ModelView) -> str | None:
    """Return a sentence where the model holds all weights of the original one, bit for bit; else `None`."""
    result = view.result
    if result is None or result.original is None:
        return None
    if result.unchanged:
        return result.notes["why"]
    before = tensor_digests(result.original)
    if not before or not before <= view.digests:
        return None
    if before == view.digests:
        return "The weights are unchanged: they are the original model's, bit for bit."
    known, now = result.original.state_dict(), view.model.state_dict()
    more = [name for name, value in now.items() if name not in known and isinstance(value, Tensor)]
    which = f" ({more[0]}{', ...' if len(more) > 1 else ''})" if known.keys() <= now.keys() else ""
    number = view.digests.total() - before.total()
    return (
        f"The weights are unchanged: all of the original model's are there, bit for bit, beside {number} more{which}."
    )


def suspicion(view: ModelView) -> str | None:
    """Return a sentence where a model is nearer to the references than a retrained one can be expected; `None` else.

    A model retrained without looking at them is as far from them as they are from each other: at one floor, but with
    few references the floor itself is noisy, and honest retrainings were seen at a third of it. Nearest of all is the
    references' average prediction (half a floor for many, a quarter for two). Suspicious is a model that is hardly
    farther than this average (`NEAR`, beyond two standard errors over items below the floor), one that predicts all
    items like one of the references (`COPIED`), and one that holds a reference's weights. Without two references only
    the last is known.
    """
    references = view.problem.references
    if view.result is None or any(view.model is other.model for other in references):
        return None
    same = copied(view)
    if same:
        others = "the others alone" if len(same) < len(references) else "nothing"
        return f"The model has the weights of reference {same[0]}, bit for bit, and is compared with {others}."
    found = [words for part in ("forget", "test", "retain") if (words := _nearer(view, part)) is not None]
    return f"The model is nearer to the references than a retrained one: {', '.join(found)}." if found else None


def _nearer(view: ModelView, part: str) -> str | None:
    own, others = view.probability(part), [other.probability(part) for other in view.references]
    there = [p for p in others if p is not None]
    if own is None or len(there) < 2:
        return None
    item_divergences = view.problem.divergence
    floor = torch.stack([item_divergences(p, q) for p, q in combinations(there, 2)]).mean(0)
    distance = torch.stack([item_divergences(own, p) for p in there])
    average = torch.stack(there).mean(0)
    nearest = torch.stack([item_divergences(average, p) for p in there]).mean()
    number, gap = own.size(0), floor - distance.mean(0)
    for k, each in enumerate(distance, start=1):
        if number >= MIN_COPIED and float(each.max()) < COPIED * float(floor.mean()):
            return f"it predicts all {part} items like reference {k}"
    if number >= MIN_ITEMS and distance.mean() < NEAR * nearest and gap.mean() > 2 * gap.std() / number**0.5:
        return f"{float(distance.mean() / floor.mean()):.2f} floors on {part} items"
    return None


def _shapes(model: nn.Module) -> list[Any]:
    return sorted(tuple(value.shape) for value in model.state_dict().values() if isinstance(value, Tensor))
