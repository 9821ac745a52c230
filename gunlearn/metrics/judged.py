r"""What a judge, a classifier of the user's own, says of pictures that a generator drew on request.

Scores of UnlearnCanvas (`arXiv:2402.11846 <https://arxiv.org/abs/2402.11846>`_): UA is the share of pictures asked for
a forgotten concept in which the judge sees another; IRA the accuracy on the other concepts of the same domain; CRA that
on another domain (the objects, where styles are forgotten). A judge of fixed classes calls noise *something*: a broken
generator has a UA of about 1. Read UA beside IRA, and beside the Fréchet distance or the alignment.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class JudgedScores:
    """Shares between 0 and 1, each `None` where no picture was asked for.

    Args:
        ua: share of the pictures asked for a forgotten class that show no forgotten class, says the judge.
        ira: accuracy on retained classes: the share of their pictures that show what was asked for.
        cra: accuracy on the other domain.
        nearest: the part of `ira` on the retained classes nearest to the forgotten ones.
        rest: the part of `ira` on all others.
        by_class: share of each class's pictures that show it, by class.
    """

    ua: float | None
    ira: float | None
    cra: float | None
    nearest: float | None
    rest: float | None
    by_class: dict[int, float]


def judged_scores(
    seen: Tensor,
    asked: Tensor,
    forgotten: Collection[int],
    nearest: Collection[int] = (),
    other_domain: tuple[Tensor, Tensor] | None = None,
) -> JudgedScores:
    """Return the scores of pictures.

    Args:
        seen: the class that the judge sees in each picture, `[num_pictures]`.
        asked: the class that it was asked for, `[num_pictures]`.
        forgotten: forgotten classes.
        nearest: retained classes to report apart, see `nearest_classes`.
        other_domain: what was seen and asked of the other domain, a pair like the first two.

    Raises:
        InvalidInputError: shapes differ, or a class is both forgotten and near.
    """
    _check_pair(seen, asked)
    if set(forgotten) & set(nearest):
        raise InvalidInputError(f"Expected retained classes in 'nearest' (got {sorted(set(forgotten) & set(nearest))})")
    gone, near = (_among(asked, classes) for classes in (forgotten, nearest))
    right = (seen == asked).double()
    if other_domain is not None:
        _check_pair(*other_domain)
    return JudgedScores(
        ua=_mean((~_among(seen, forgotten)).double()[gone]),
        ira=_mean(right[~gone]),
        cra=None if other_domain is None else _mean((other_domain[0] == other_domain[1]).double()),
        nearest=_mean(right[near]),
        rest=_mean(right[~gone & ~near]),
        by_class={int(c): float(right[asked == c].mean()) for c in asked.unique()},
    )


def mean_confusion(probability: Tensor, label: Tensor) -> Tensor:
    """Return the mean probability that items of each class give to each class, `[num_classes, num_classes]`.

    Rows of classes without items are 0. Probabilities, not decisions: a good judge confuses nothing outright.

    Args:
        probability: `[num_items, num_classes]` of real items of every class, best of ones the judge was not trained on.
        label: classes `[num_items]`.
    """
    classes = probability.size(1)
    total = torch.zeros(classes, classes, dtype=torch.double).index_add_(
        0, label.cpu(), probability.detach().double().cpu()
    )
    return total / torch.bincount(label.cpu(), minlength=classes).clamp_min(1).unsqueeze(1)


def feature_closeness(features: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Return minus the Euclidean distance between the mean features of every two classes, `[num_classes, num_classes]`.

    It is minus infinity for classes without items. `features` is `[num_items, dim]`, `label` `[num_items]`.
    """
    label = label.cpu()
    count = torch.bincount(label, minlength=num_classes)
    total = torch.zeros(num_classes, features.size(1), dtype=torch.double)
    mean = total.index_add_(0, label, features.detach().double().cpu()) / count.clamp_min(1).unsqueeze(1)
    distance = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist")
    absent = count == 0
    return -distance.masked_fill(absent[:, None] | absent[None], torch.inf)


def nearest_classes(closeness: Tensor, forgotten: Sequence[int], count: int = 2) -> list[int]:
    """Return the retained classes nearest to the forgotten ones, the nearest first.

    A class is as near as it is to the forgotten class nearest to it; of both directions the mean counts.

    Args:
        closeness: `[num_classes, num_classes]`, higher is nearer: `mean_confusion` or `feature_closeness`.
        forgotten: forgotten classes.
        count: at most so many.

    Raises:
        InvalidInputError: no forgotten class, one outside the matrix, or no square matrix.
    """
    number = closeness.size(0)
    if closeness.dim() != 2 or closeness.size(1) != number:
        raise InvalidInputError(f"Expected 'closeness' [num_classes, num_classes] (got {tuple(closeness.shape)})")
    gone = sorted(set(forgotten))
    if not gone or gone[0] < 0 or gone[-1] >= number:
        raise InvalidInputError(f"Expected forgotten classes among 0 to {number - 1} (got {list(forgotten)})")
    near = ((closeness + closeness.t()) / 2)[:, gone].amax(1)
    near[gone] = -torch.inf
    order = near.sort(descending=True, stable=True).indices.tolist()
    return [c for c in order if near[c] > -torch.inf][:count]


def _among(values: Tensor, classes: Collection[int]) -> Tensor:
    return torch.isin(values, torch.tensor(sorted(classes), dtype=values.dtype, device=values.device))


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def _check_pair(seen: Tensor, asked: Tensor) -> None:
    if seen.shape != asked.shape or seen.dim() != 1:
        raise InvalidInputError(
            f"Expected what was seen and asked of each picture, [num_pictures] (got {tuple(seen.shape)} and "
            f"{tuple(asked.shape)})"
        )
