"""The linear datamodelling score: do summed scores rank the outcomes of training without random subsets?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.attribution.distinct_items import Items
from gunlearn.attribution.study.agreement import spearman, spearman_interval
from gunlearn.attribution.targets import Target
from gunlearn.attribution.training.retraining_influence import Train, train_without
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task


@dataclass(frozen=True)
class LinearDatamodels:
    """Outcomes of training without random subsets, the ground truth for scores.

    Attributes:
        subsets: left-out items, boolean `[num_subsets, num_items]`.
        outcomes: the target without each subset, mean over seeds `[num_subsets]`.
        noise: standard error of an outcome over seeds, root mean square; `None` with one seed.
    """

    subsets: Tensor
    outcomes: Tensor
    noise: float | None

    def score(self, scores: Tensor, num_resamples: int = 1000, seed: int = 0) -> LDS:
        """Return the `linear_datamodelling_score` of `scores`."""
        return linear_datamodelling_score(scores, self.subsets, self.outcomes, num_resamples, seed)


@dataclass(frozen=True)
class LDS:
    """Spearman's correlation with its 95 % bootstrap interval over subsets; `None` where one side is constant."""

    value: float | None
    interval: list[float] | None


def lds(
    train: Train,
    data: Data,
    items: Items,
    target: str | Target | Callable[[Tensor], Tensor] = "loss",
    task: str | Task = "link_prediction",
    alpha: float = 0.1,
    count: int = 50,
    seeds: Sequence[int] = (0,),
    seed: int = 0,
    message_graph: str = "retain",
    n_jobs: int = 1,
) -> LinearDatamodels:
    """Train without each of `count` random subsets of the items: the costly half of the LDS, the same for all scores.

    Each subset leaves out a share `alpha` of the items, drawn under `seed`. Outcomes are means over trainings under
    `seeds`, at least one. Other arguments and errors: see `retraining_influence`.

    Example:
        >>> import torch, gunlearn as gu
        >>> from gunlearn.attribution import lds, resolve_items
        >>> data = gu.link_split(gu.load("karate"), 0.1, 0.1)
        >>> def train(data, seed):
        ...     torch.manual_seed(seed)
        ...     return gu.train(gu.GCN(data.num_features, 8, 4), data, epochs=5, seed=seed).model
        >>> items, place = resolve_items(data, "edges")
        >>> truth = lds(train, data, items, count=4)
        >>> truth.subsets.shape[0]
        4
    """
    seeds, subsets = list(seeds), random_subsets(items.num_items, alpha, count, seed)
    if not seeds:
        raise InvalidInputError("Expected at least one seed (got none)")
    groups = [subset.nonzero().view(-1) for subset in subsets]
    values = train_without(train, data, items, groups, target, as_task(task), seeds, message_graph, n_jobs)
    noise = None if len(seeds) < 2 else float((values.var(dim=1).mean() / len(seeds)).sqrt())
    return LinearDatamodels(subsets, values.mean(dim=1), noise)


def random_subsets(num_items: int, alpha: float, count: int, seed: int = 0) -> Tensor:
    """Draw subsets of `round(alpha * num_items)` items each, boolean `[count, num_items]`; true is left out.

    No subset, or subsets of nothing or everything, raise `InvalidInputError`.
    """
    size = round(alpha * num_items)
    if count < 1 or not 0 < size < num_items:
        raise InvalidInputError(
            f"Expected subsets that leave out some of {num_items} items, and at least one "
            f"(got alpha={alpha}, count={count})"
        )
    generator = torch.Generator().manual_seed(seed)
    subsets = torch.zeros(count, num_items, dtype=torch.bool)
    for subset in subsets:
        subset[torch.randperm(num_items, generator=generator)[:size]] = True
    return subsets


def linear_datamodelling_score(
    scores: Tensor, subsets: Tensor, outcomes: Tensor, num_resamples: int = 1000, seed: int = 0
) -> LDS:
    """Linear datamodelling score (TRAK, arXiv 2303.14186, Def. 2.4), for scores of removal.

    Spearman's correlation, over subsets, of the left-out items' summed scores with the target without them.

    Args:
        scores: predicted change of the target when an item is left out `[num_items]`.
        subsets: left-out items, boolean `[num_subsets, num_items]`.
        outcomes: the target without each subset, or its change `[num_subsets]`.
        num_resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        InvalidInputError: shapes that do not fit, or values that are not finite.
    """
    scores, subsets, outcomes = (torch.as_tensor(t).detach().cpu() for t in (scores, subsets, outcomes))
    if subsets.dtype != torch.bool or subsets.shape != (*outcomes.shape, *scores.shape):
        raise InvalidInputError(
            f"Expected boolean subsets [num_subsets, num_items] that fit {tuple(outcomes.shape)} outcomes and "
            f"{tuple(scores.shape)} scores (got {tuple(subsets.shape)} of {subsets.dtype})"
        )
    predicted = torch.stack([scores.double()[subset].sum() for subset in subsets])
    truth = outcomes.double().numpy()
    return LDS(spearman(truth, predicted), spearman_interval(truth, predicted, num_resamples, seed=seed))
