"""Measure training influence by retraining without the items, under several seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.distinct_items import Items
from gunlearn.attribution.read_items import check_range
from gunlearn.attribution.targets import Target, as_target, as_value
from gunlearn.core.checks import check_choice
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError
from gunlearn.nn.attach.message_layers import suspended_caches
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.node_classification import NodeClassification
from gunlearn.tasks.named import as_task
from gunlearn.training.own_training import trained_by

#: Trains a new model on data under a seed.
Train = Callable[[Data, int], nn.Module]


@dataclass(frozen=True)
class RetrainingInfluence:
    r"""The change of a target by retraining without groups of items.

    With the same seed in both trainings, :math:`d_{gs} = f(\text{without } g, s) - f(\text{all}, s)`.

    Attributes:
        mean: mean change of the target over seeds `[num_groups]`.
        standard_error: standard error of that mean `[num_groups]`.
        noise_floor: standard deviation of `f(all, s)` over seeds, times `sqrt(2 / num_seeds)`: the typical mean
            difference of unrelated trainings on the same data.
        below_floor: whether the mean change is no larger than the floor, boolean `[num_groups]`.
        full: the target of models trained on everything `[num_seeds]`.
        without: the target of models trained without each group `[num_groups, num_seeds]`.
        groups: the items of each group, as indices.
    """

    mean: Tensor
    standard_error: Tensor
    noise_floor: float
    below_floor: Tensor
    full: Tensor
    without: Tensor
    groups: list[Tensor]


def retraining_influence(
    train: Train,
    data: Data,
    items: Items,
    groups: Sequence[Tensor | Sequence[int]],
    target: str | Target | Callable[[Tensor], Tensor] = "loss",
    task: str | Task = "link_prediction",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    message_graph: str = "retain",
    n_jobs: int = 1,
) -> RetrainingInfluence:
    """Retrain without each group of items, and on everything, under the same seeds.

    Args:
        train: `train(data, seed) -> model`; must start from the same weights under the same seed and read only `data`.
        data: the whole training graph.
        items: distinct items, from `resolve_items`.
        groups: the items of each group, as indices into `items`.
        target: a value: `"loss"`, a `Target` or a function of the outputs `[num_nodes, dim]`.
        task: what the model predicts.
        seeds: at least two, distinct.
        message_graph: graph on which the target is evaluated: `"retain"` leaves the group out; `"full"` keeps it, which
            shows the effect through the weights alone.
        n_jobs: number of parallel trainings, in joblib's processes.

    Raises:
        InvalidInputError: fewer than two seeds, an empty group, or indices outside the items.
        UnsupportedMethodError: a target that is a distance.
    """
    seeds, index = list(seeds), [torch.as_tensor(group).view(-1) for group in groups]
    if len(set(seeds)) < max(2, len(seeds)):
        raise InvalidInputError(f"Expected at least two seeds, all different (got {seeds})")
    if not index:
        raise InvalidInputError("Expected at least one group of items (got none)")
    for group in index:
        if group.numel() == 0:
            raise InvalidInputError("Expected groups of at least one item (got an empty one)")
        if group.is_floating_point() or group.dtype == torch.bool:
            raise InvalidInputError(f"Expected groups as integer indices (got {group.dtype})")
        check_range(group, items.num_items, "indices of items")
    values = train_without(train, data, items, [None, *index], target, as_task(task), seeds, message_graph, n_jobs)
    full, without = values[0], values[1:]
    change = without - full
    mean, spread = change.mean(dim=1), change.std(dim=1)
    floor = float(full.std()) * math.sqrt(2 / len(seeds))
    return RetrainingInfluence(mean, spread / math.sqrt(len(seeds)), floor, mean.abs() <= floor, full, without, index)


def train_without(
    train: Train,
    data: Data,
    items: Items,
    sets: Sequence[Tensor | None],
    target: str | Target | Callable[[Tensor], Tensor],
    task: Task,
    seeds: Sequence[int],
    message_graph: str,
    n_jobs: int,
) -> Tensor:
    """Return the target of models trained without each set (`None`: on everything), `[num_sets, num_seeds]`."""
    check_choice("message_graph", message_graph, ("retain", "full"))

    def one(left_out: Tensor | None, seed: int) -> float:
        read = data if left_out is None else training_data_without(data, items, left_out, task)
        with isolated_rng(seed):
            model = trained_by(train, read, seed, before=data)
        return target_value(model, read if message_graph == "retain" else data, target, task)

    jobs = [(left_out, seed) for left_out in sets for seed in seeds]
    values = Parallel(n_jobs=n_jobs)(delayed(one)(*job) for job in jobs)
    return torch.tensor(values, dtype=torch.double).view(len(sets), len(seeds))


def training_data_without(data: Data, items: Items, index: Tensor, task: Task) -> Data:
    """Return a training graph without some items; node classification forgets a removed node's label too."""
    out = items.without(data, index)
    if items.of == "nodes" and isinstance(task, NodeClassification) and task.per_node:
        mask = torch.zeros(data.num_nodes, dtype=torch.bool, device=data.edge_index.device)
        mask[task.train_items(data).index] = True
        mask[items.ids[index]] = False
        out.train_mask = mask
    return out


@torch.no_grad()
def target_value(
    model: nn.Module, data: Data, target: str | Target | Callable[[Tensor], Tensor], task: str | Task
) -> float:
    """Return the target's value, which must be finite, for a model in evaluation mode."""
    task = as_task(task)
    bound = as_value(as_target(target, model, data, task), "retraining")
    with evaluating(model), suspended_caches(model):
        value = float(bound.value(task.encode(model, data)))
    if not math.isfinite(value):
        raise InvalidInputError(f"Expected a finite target of the retrained model (got {value})")
    return value
