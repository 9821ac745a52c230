"""The functions a user calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import Estimator, estimate
from gunlearn.attribution.request_scores import resolve_for
from gunlearn.attribution.targets import Target
from gunlearn.core.checks import check_model
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import Loss, Objective
from gunlearn.methods.base import Method
from gunlearn.methods.door import run_method
from gunlearn.methods.published import build_method
from gunlearn.report.evaluation_of_result import Evaluation
from gunlearn.report.result_evaluation import evaluate
from gunlearn.requests.base import Request
from gunlearn.requests.prepared import trusting
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.default_task import warn_of_default_task
from gunlearn.tasks.named import LINKS_BY_DEFAULT, as_task
from gunlearn.training.callbacks import Callback
from gunlearn.training.loop import TrainArguments
from gunlearn.training.optimizers import OptimizerSpec, SchedulerSpec, makes_its_own
from gunlearn.training.result import Result
from gunlearn.training.run import run_training

__all__ = ["Evaluation", "evaluate", "influence", "train", "unlearn"]


@isolated_rng()
def train(
    model: nn.Module,
    data: Data,
    task: str | Task = LINKS_BY_DEFAULT,
    *,
    epochs: int | None = None,
    lr: float = TrainArguments.lr,
    weight_decay: float = 0.0,
    eval_every: int = 50,
    batch_size: int | None = None,
    sampler: str = "k_hop",
    num_neighbors: tuple[int, ...] | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
    steps: int | None = None,
    optimizer: OptimizerSpec = "adam",
    scheduler: SchedulerSpec | None = None,
    keep_state: bool = True,
    call: Callable[[nn.Module, Data], Tensor] | None = None,
    decode: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
) -> Result:
    """Return a `Result` with a trained copy of `model`, the best on the validation loss where the data have a split.

    Args:
        model: freshly initialised; called as `model(x, edge_index)`.
        data: what to train on; for link prediction a graph with held-out edges from `gunlearn.tasks.link_split`.
        task: what the model predicts.
        epochs: passes over the items, 2000 by default; without `batch_size` a pass is one optimiser step.
        lr: learning rate.
        weight_decay: the optimiser's own; an L2 penalty for Adam and SGD.
        eval_every: epochs between validations.
        batch_size: training items per step, the next of a random permutation; `None` reads them all.
        sampler: what the model reads for a batch, `"k_hop"` (exact), `"neighbor"` (needs pyg-lib) or `"random_node"`
            (approximate), see `gunlearn.methods.GradientMethod`.
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        seed: of negatives and dropout.
        callbacks: objects with `TrainerCallback` methods.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints there, and resume from them.
        steps: optimiser steps, in place of `epochs`.
        optimizer: a name or class of `torch.optim`, or a function from parameters to an optimiser, which sets the rate.
        scheduler: a name of `torch.optim.lr_scheduler`, or a function from the optimiser to a scheduler.
        keep_state: keep the optimiser's state and three checkpoints in the result's `training`, about eleven times the
            model's size with Adam, for methods that continue or replay the training.
        call: how the model is called, see `unlearn`.
        decode: how it scores pairs, see `unlearn`.

    Raises:
        InvalidInputError: `epochs` beside `steps`, or a rate beside an optimiser that sets its own.
    """
    check_model(model)
    if epochs is not None and steps is not None:
        raise InvalidInputError(f"Expected 'epochs' or 'steps' (got both, {epochs} and {steps})")
    if makes_its_own(optimizer) and (lr != TrainArguments.lr or weight_decay):
        raise InvalidInputError(
            f"Expected no 'lr' and 'weight_decay' beside an optimizer function, which sets its own (got {lr} and "
            f"{weight_decay})"
        )
    named, task = task, as_task(task, call, decode)
    data = task.check_data(data)
    warn_of_default_task(named, task, model, data)
    args = TrainArguments(
        2000 if epochs is None else epochs,
        lr,
        weight_decay,
        eval_every=eval_every,
        keep="best",
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        batch_size=batch_size,
        sampler=sampler,
        num_neighbors=num_neighbors,
        steps=steps,
    )
    return run_training(model, data, task, args, seed, callbacks, optimizer, scheduler, keep_state)


@isolated_rng()
def unlearn(
    model: nn.Module,
    data: Data,
    request: Request,
    method: str | Method | Loss | Objective = "inpo",
    task: str | Task = LINKS_BY_DEFAULT,
    *,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
    call: Callable[[nn.Module, Data], Tensor] | None = None,
    decode: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> Result:
    """Return a `Result` with a copy of a trained model that has forgotten the request.

    Args:
        model: any trained module that the task can call; on graphs, as `model(x, edge_index, ...)` with PyG message
            passing layers. It does not change.
        data: what it was trained on; it does not change. On graphs a `Data` of `x` `[num_nodes, num_features]` and
            `edge_index` `[2, num_edges]`; for independent items a pair of tensors, a map-style data set or a loader;
            for language models rows of `input_ids` and `labels`.
        request: what to forget.
        method: a name (`gunlearn methods` lists them), `"name:variant"`, a `Method` object, or an objective such as
            `NPO(beta=5) + NLL(on="retain")`.
        task: what the model predicts: a name or a `Task`. Without one, a model and data that look like a classifier's
            are warned of.
        seed: of the run; the caller's random state does not change.
        callbacks: objects with `TrainerCallback` methods.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints there; a killed run that is called again with the same arguments resumes and
            ends in the same weights.
        call: how a graph model is called, where that is not `model(x, edge_index)`: `lambda model, data: ...` returns a
            row per node from the graph `data` that it is given, which is not always yours (edges are missing, nodes
            renumbered, two graphs side by side). The result's task keeps it for `evaluate`.
        decode: how a model scores pairs: `lambda model, z, pairs: ...` returns logits `[k]` of pairs `[2, k]` from
            those rows; without it `model.decode(z, pairs)`, else inner products.
        **options: of the method, unless it is a `Method` object.

    Raises:
        InvalidRequestError: the request does not fit the data.
        UnsupportedMethodError: the method does not support the task, the request or the model.
        UnsupportedModelError: the model cannot be called (one pass is tried before anything else) or attached to.
        DivergenceError: the run ended in NaN.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1)
        >>> model = gu.train(gu.GCN(data.num_features), data, epochs=50).model
        >>> result = gu.unlearn(model, data, gu.ForgetEdges(count=3), method="utu")
        >>> result.num_forget
        3
    """
    check_model(model)
    named, task = task, as_task(task, call, decode)
    data = task.check_data(data)
    warn_of_default_task(named, task, model, data)
    if not isinstance(request, Request):
        raise InvalidTypeError(f"Expected 'request' to be a forget request (got {type(request).__name__})")
    method = build_method(method, options, task, model)
    with trusting(data):  # it was checked above
        partition = resolve_for(request, model, data, task)
    return run_method(method, model, partition, task, seed, callbacks, progress, checkpoint_dir)


@isolated_rng()
def influence(
    model: nn.Module,
    data: Data,
    task: str | Task = "link_prediction",
    *,
    of: str = "edges",
    estimator: str | Estimator = "exact",
    target: str | Target | Callable[[Tensor], Tensor] = "probabilities",
    items: Any = None,
    seed: int = 0,
    call: Callable[[nn.Module, Data], Tensor] | None = None,
    decode: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Return the influence of edges, nodes or features on a trained model: one score per item, `[k]`.

    Each estimator answers one of two questions (`ESTIMATORS[name].question`): **removal**, where the model stays and
    the graph changes, or **training**, where the model is trained without the item. Both columns of an undirected edge
    score the same. A distance is never negative; otherwise a score is `after - before`.

    Args:
        model: any trained module with PyG message passing layers, read in evaluation mode (no dropout).
        data: with `x` `[num_nodes, num_features]` and `edge_index` `[2, num_edges]`.
        task: what the model predicts.
        of: `"edges"`, `"nodes"` (losing all their edges) or `"features"` (columns of `x` set to zero).
        estimator: a name (`gunlearn estimators` lists them) or an `Estimator`.
        target: what influence is on: `"probabilities"` (sum over nodes of the L1 change of the softmaxed outputs),
            `"embeddings"` (sum of L2 changes), `"loss"` (change of the mean loss of the validation items, or of those
            of `gunlearn.attribution.ItemLoss(items)`), or a function of the outputs `[num_nodes, dim]` to a scalar.
        items: edges `[2, k]`, nodes `[k]`, columns of `x` `[k]` or single entries (node, column) `[2, k]`; `None` for
            every column of `edge_index`, every node, every column of `x`.
        seed: of the run; the caller's random state does not change.
        call: how the model is called, see `unlearn`.
        decode: how it scores pairs, see `unlearn`.
        **options: of the estimator, when it is given by name.

    Raises:
        InvalidInputError: unknown names or options, items outside the graph, a target that is no finite scalar.
        UnsupportedModelError: no message passing layer.
        UnsupportedMethodError: the estimator does not support the task, the items or the target.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.load("karate")
        >>> scores = gu.influence(gu.GCN(data.num_features), data, estimator="brute", items=[[0, 1], [2, 3]])
        >>> scores.shape
        torch.Size([2])
    """
    task = as_task(task, call, decode)
    return estimate(
        model, data, task, of=of, estimator=estimator, target=target, items=items, seed=seed, **options
    ).scores
